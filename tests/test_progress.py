import pytest

from tinyworlds import progress
from tinyworlds.progress import Transfer, clock, line, track


def test_everything_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter("abc"), total=3, label="letters")) == ["a", "b", "c"]
    assert capsys.readouterr().out.startswith("letters 3 · ")


def test_a_log_gets_plain_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.0, *range(1, 31), 30])
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(seconds)))
    assert len(list(track(range(30), total=30, label="work"))) == 30
    assert capsys.readouterr().out.splitlines() == [
        "work 10/30 · 1.0/s · 0:20 left",
        "work 20/30 · 1.0/s · 0:10 left",
        "work 30 · 1.0/s · 0:30",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress.sys.stdout, "isatty", lambda: True)
    assert list(track(range(5), total=5, label="work")) == list(range(5))
    assert "5/5" in capsys.readouterr().out


def test_a_transfer_that_is_gone_on_with_counts_its_speed_from_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([0.0, 5.0, 10.0, 15.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    with Transfer(total=100_000_000, initial=60_000_000, label="fetching") as transfer:
        for _ in range(3):
            transfer.update(10_000_000)
    assert capsys.readouterr().out.splitlines() == [
        "fetching, MB 80/100 · 2.0/s · 0:10 left",
        "fetching, MB 90 · 1.5/s · 0:20",
    ]


def test_a_transfer_on_a_terminal_gets_a_bar_and_a_short_one_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for terminal in (False, True):
        monkeypatch.setattr(progress.sys.stdout, "isatty", lambda terminal=terminal: terminal)
        with Transfer(total=900_000, initial=0, label="fetching") as transfer:
            transfer.update(900_000)
        assert ("900.0/900.0 kB" in capsys.readouterr().out) == terminal


def test_a_line_without_a_total_says_what_is_known() -> None:
    assert line("video", 50, None, 10.0) == "video 50 · 5.0/s · 0:10"
    assert line("video", 60, 50, 10.0) == "video 60/50 · 6.0/s · 0:00 left"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3725, "62:05")])
def test_a_clock_shows_minutes_and_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text
