import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds import scenes
from tinyworlds.command import CONF
from tinyworlds.play import terminal
from tinyworlds.play.terminal import Game, check_terminal, fit, half_blocks, key_codes, palette_index

PIXEL = re.compile(r"(?:\x1b\[38;2;(\d+);(\d+);(\d+)m)?(?:\x1b\[48;2;(\d+);(\d+);(\d+)m)?▀")


def shown(text: str) -> np.ndarray:
    """The picture that half blocks of 2**24 colours show."""
    rows = []
    for line in text.split("\r\n")[:-1]:
        upper, lower = [], []
        above = below = None
        for found in PIXEL.finditer(line):
            above = found.groups()[:3] if found[1] else above
            below = found.groups()[3:] if found[4] else below
            upper.append(above)
            lower.append(below)
        rows += [upper, lower]
    return np.array(rows, dtype=float).astype(np.uint8)


@given(height=st.integers(1, 4), width=st.integers(1, 9), colours=st.integers(1, 3), seed=st.integers(0, 99))
def test_half_blocks_show_every_pixel(height, width, colours, seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (colours, 3))[rng.integers(0, colours, (2 * height, width))].astype(np.uint8)
    assert np.array_equal(shown(half_blocks(picture, 2**24)), picture)


def test_with_256_colours_the_nearest_are_taken():
    picture = np.array([[[0, 0, 0], [255, 255, 255]], [[250, 4, 0], [100, 130, 170]]], np.uint8)
    assert palette_index(picture).tolist() == [[16, 231], [196, 67]]
    assert "\x1b[38;5;231m" in half_blocks(picture, 256)


@pytest.mark.parametrize(
    ("lines", "columns", "size"),
    [(40, 200, (64, 64)), (100, 300, (192, 192)), (20, 200, (40, 40)), (60, 32, (32, 32)), (8, 16, (16, 16))],
)
def test_a_frame_is_enlarged_by_whole_times_or_shrunk_to_fit(lines, columns, size):
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    fitted = fit(frame, lines=lines, columns=columns)
    assert fitted.shape[:2] == size
    if size[0] % 64 == 0:
        assert np.array_equal(fitted[:: size[0] // 64, :: size[0] // 64], frame)


@pytest.mark.parametrize(
    ("typed", "codes"),
    [
        ("\x1b[A\x1b[D", ["ArrowUp", "ArrowLeft"]),
        ("\x1bOB", ["ArrowDown"]),
        ("w3 Q", ["KeyW", "Digit3", "Space", "KeyQ"]),
        ("\x1b", []),
        ("\x1b[Zü\n", []),
    ],
)
def test_keys_are_read(typed, codes):
    assert key_codes(typed) == codes


@given(st.text(max_size=30))
def test_nothing_that_is_typed_is_too_much(typed):
    assert all(isinstance(code, str) for code in key_codes(typed))


class Screen:
    """A stand-in for the terminal's output."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.fixture
def screen(monkeypatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(terminal, "sys", SimpleNamespace(stdin=screen, stdout=screen))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    return screen


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"TERM": "dumb"}, "TERM=dumb cannot place characters"),
        ({"LINES": "3"}, "make it larger"),
        ({"encoding": "ascii"}, "LANG=C.UTF-8"),
    ],
)
def test_what_a_terminal_cannot_is_said(screen, monkeypatch, change, said):
    for name, value in change.items():
        if name == "encoding":
            monkeypatch.setattr(Screen, "encoding", value)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        check_terminal({"TERM": "xterm", **change})


def test_colours_are_what_the_terminal_has(screen):
    assert check_terminal({"TERM": "xterm"}) == 256
    assert check_terminal({"TERM": "xterm", "COLORTERM": "truecolor"}) == 2**24


def test_without_a_terminal_the_browser_is_named(entry_point, capsys):
    with pytest.raises(SystemExit):
        entry_point("play.py", "mode=terminal", "ckpt=nowhere")
    assert "mode=terminal needs a terminal: play in the browser" in capsys.readouterr().err


def test_a_game_is_played_with_keys(opening, screen, monkeypatch):
    game = Game(opening, colours=2**24)
    monkeypatch.setattr(terminal, "HELD", 100)
    game.press("ArrowUp")
    game.step()
    assert game.session.action == 1
    assert "\x1b[Kup · arrows" in screen.text
    game.press("KeyN")
    assert (game.scene, game.session.step) == (1, 0)
    game.press("KeyP")
    assert game.paused
    monkeypatch.setattr(terminal, "HELD", -1)  # let go
    game.press("ArrowUp")
    game.step()
    assert game.session.action == 0
    picture = shown(screen.text.rpartition("\x1b[H")[2].partition("\x1b[0m\x1b[Knoop")[0])
    assert picture.shape == (32, 48, 3)


@pytest.mark.slow
def test_it_plays_in_a_real_terminal_and_leaves_it_as_it_was(opening, tmp_path):
    folder = tmp_path / "world"
    opening.world.save_pretrained(folder)
    (folder / scenes.SCENES).write_bytes(scenes.png_bytes(opening.scenes))
    mine, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLORTERM": "truecolor", "COLUMNS": "80", "LINES": "24"}
    environment |= {"PYTHONIOENCODING": "utf-8"}
    process = subprocess.Popen(
        [sys.executable, str(CONF.parent / "play.py"), "mode=terminal", f"ckpt={folder}"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    )
    os.close(theirs)
    text, end = b"", time.monotonic() + 60

    def wait_for(wanted: bytes) -> None:
        nonlocal text
        while wanted not in text and time.monotonic() < end:
            if select.select([mine], [], [], 1)[0]:
                text += os.read(mine, 65536)
        assert wanted in text, text[-300:]

    try:
        wait_for("▀".encode())
        text = b""
        os.write(mine, b"2")
        wait_for(b"action 2")
        os.write(mine, b"q")
        wait_for(terminal.LEAVE.encode())
        assert process.wait(10) == 0
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        os.close(mine)
