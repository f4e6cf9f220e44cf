"""`make bench`, at a tiny size."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench, measure
from tinyworlds.command import CONF

RATIOS = {
    "video_tokenizer_step",
    "action_tokenizer_step",
    "dynamics_step",
    "dynamics_step_cached",
    "play_context_4",
    "play_context_16",
    "clips",
}
TINY = ("size=16", "batch_size=2", "clip_length=2", "rounds=1", "store_frames=400")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Calls the command with a page that has room for its table."""
    monkeypatch.chdir(tmp_path)
    Path("page.md").write_text((CONF.parent / "docs" / "performance.md").read_text())

    def call(*options: str) -> None:
        monkeypatch.setattr("sys.argv", ["bench", "results=results.json", "page=page.md", *options])
        bench.main()

    return call


@pytest.mark.slow
def test_it_writes_every_ratio_and_a_table_of_them(run):
    run(*TINY)
    results = json.loads(Path("results.json").read_text())
    assert set(results["ratios"]) == RATIOS
    for name, ratio in results["ratios"].items():
        times = results["times"][name]
        assert ratio == pytest.approx(times["plain"] / times["ours"], rel=0.02, abs=0.01)
    assert {"machine", "versions", "commit"} <= set(results)
    assert results["laptop_frames_per_second"] > 0
    assert 0 < results["open_1m_frames_mb"] < 200
    assert results["open_1m_frames_seconds"] > 0
    rows = [line for line in Path("page.md").read_text().splitlines() if line.startswith("| ")]
    for ratio in results["ratios"].values():
        assert any(f"| {ratio:.1f} |" in row for row in rows)


@pytest.mark.parametrize(
    "option", ["rounds=0", "size=1.5", "store_frames=100", "precision=16", "device=tpu0", "page=nothing.md"]
)
def test_a_mistake_is_one_sentence(run, option, capsys):
    with pytest.raises(SystemExit):
        run(option)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert option.split("=")[1] in error
    assert not Path("results.json").exists()


def test_a_section_is_replaced_and_nothing_else(tmp_path: Path):
    page = tmp_path / "page.md"
    begin, end = measure._begin("a"), measure._end("a")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    for text in ("first", "second"):
        measure.write_section(page, "a", text)
        assert page.read_text() == f"before\n{begin}\n\n{text}\n\n{end}\nafter\n"


def test_costs_of_a_fresh_process_are_its_own():
    result, megabytes = measure.in_fresh_process(bytearray, 100 * measure.MB)
    assert len(result) == 100 * measure.MB
    assert 95 < megabytes < 150
