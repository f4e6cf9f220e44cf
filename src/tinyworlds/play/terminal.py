"""``python play.py mode=terminal``: a world in half-block characters, for an ssh session."""

import contextlib
import os
import select
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from omegaconf import DictConfig

from tinyworlds.data.resize import AreaFilter
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.play.engine import Engine
from tinyworlds.play.keys import default_keys
from tinyworlds.play.opening import Opening, open_to_play
from tinyworlds.play.session import Session

HELD = 0.4
"""Seconds for which a key counts as held: terminals repeat it while it is, and do not tell when it is let go."""
SMALLEST = (8, 16)
"""Lines and columns."""
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[0m\x1b[?25h\x1b[?1049l"
ARROWS = {"A": "ArrowUp", "B": "ArrowDown", "C": "ArrowRight", "D": "ArrowLeft"}


def play(config: DictConfig) -> None:
    """Draw until q is pressed.

    Raises:
        ValueError: this terminal cannot show it.
    """
    colours = check_terminal(os.environ)
    opening = open_to_play(config)
    with contextlib.suppress(KeyboardInterrupt), _raw_terminal():
        Game(opening, colours=colours).run()


def check_terminal(environment: Mapping[str, str]) -> int:
    """How many colours the terminal has.

    Raises:
        ValueError: it is none, or cannot place characters, or has too few of them.
    """
    instead = "play in the browser with mode=browser, or make films with mode=rollout"
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ValueError(f"mode=terminal needs a terminal: {instead}")
    if environment.get("TERM", "dumb") == "dumb":
        raise ValueError(f"TERM={environment.get('TERM', '')} cannot place characters: {instead}")
    if "utf" not in (sys.stdout.encoding or "").lower():
        raise ValueError(
            f"this terminal's encoding {sys.stdout.encoding} has no half blocks: set LANG=C.UTF-8, or {instead}"
        )
    size = shutil.get_terminal_size()
    if size.lines < SMALLEST[0] or size.columns < SMALLEST[1]:
        raise ValueError(
            f"this terminal has {size.lines} lines of {size.columns} characters: make it larger, or {instead}"
        )
    return 2**24 if environment.get("COLORTERM") in ("truecolor", "24bit") else 256


@dataclass
class Held:
    """The action that a key asked for, until `until`."""

    action: int
    until: float = 0.0


class Game:
    """A game in the terminal."""

    def __init__(self, opening: Opening, *, colours: int) -> None:
        self.opening, self.colours = opening, colours
        self.engine = Engine(opening.world.dynamics)
        self.scene = 0
        self.paused = False
        self.held = Held(opening.idle)
        keys = default_keys(opening.names, idle=opening.idle)
        self.codes = {key: code for code, own in enumerate(keys) for key in own}
        self.session = Session(self._tokens(), opening.settings)

    def run(self) -> None:
        """Play until q is pressed."""
        self._draw(None)
        due = time.monotonic()
        while True:
            due = max(due + 1 / self.session.settings.fps, time.monotonic())
            for key in pressed_keys(due):
                if key == "KeyQ":
                    return
                self.press(key)
            if not self.paused:
                self.step()

    def press(self, key: str) -> None:
        """What a key does: r begins again, n with the next scene, p stops and goes on, others act."""
        if key in ("KeyR", "KeyN"):
            self.scene = (self.scene + (key == "KeyN")) % len(self.opening.scenes)
            self.session.begin(self._tokens())
            self._draw(None)
        elif key == "KeyP":
            self.paused = not self.paused
        elif key in self.codes:
            self.held = Held(self.codes[key], time.monotonic() + HELD)

    def step(self) -> None:
        """Imagine under what is held, and draw."""
        self._draw(self.held.action if time.monotonic() < self.held.until else self.opening.idle)

    def _tokens(self) -> ClipTokens:
        return self.engine.tokenize(self.opening.scenes[self.scene])

    def _draw(self, action: int | None) -> None:
        context = self.engine.dynamics.context_length
        (result,) = self.engine.run([self.session.request(action, context=context, watched=False)])
        if action is not None:
            self.session.extend(result.tokens, action)
        size = shutil.get_terminal_size()
        for frame in result.frames:
            picture = fit(frame, lines=size.lines - 1, columns=size.columns)
            name = self.opening.names[self.session.action] or f"action {self.session.action}"
            line = f"{name} · arrows, WASD, digits · r again · n next scene · p pause · q quit"[: size.columns]
            sys.stdout.write(f"\x1b[H{half_blocks(picture, self.colours)}\x1b[0m\x1b[K{line}\x1b[J")
            sys.stdout.flush()


def fit(frame: UInt8[np.ndarray, "H W 3"], *, lines: int, columns: int) -> UInt8[np.ndarray, "h w 3"]:
    """A frame as large as fits where a line shows two rows of pixels: whole times its size, or shrunk."""
    height, width = frame.shape[:2]
    scale = min(2 * lines / height, columns / width)
    scale = float(int(scale)) if scale >= 1 else scale
    target = (max(round(height * scale) // 2 * 2, 2), max(round(width * scale), 1))
    return AreaFilter(source=(height, width), target=target)(frame)


def half_blocks(picture: UInt8[np.ndarray, "H W 3"], colours: int) -> str:
    """Lines of ▀, its colour the upper row of pixels and its background the lower; what goes on is not repeated."""
    codes = picture.astype(int) if colours > 256 else palette_index(picture)[..., None]
    kind = "2" if colours > 256 else "5"
    lines = []
    for upper, lower in zip(codes[::2].tolist(), codes[1::2].tolist(), strict=True):
        line, last = [], (None, None)
        for pair in zip(upper, lower, strict=True):
            for place, now, before in zip(("38", "48"), pair, last, strict=True):
                if now != before:
                    line.append(f"\x1b[{place};{kind};{';'.join(map(str, now))}m")
            line.append("▀")
            last = pair
        lines.append("".join(line) + "\x1b[0m\x1b[K\r\n")
    return "".join(lines)


def palette_index(picture: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
    """The nearest colour of the 6x6x6 cube that terminals of 256 colours have."""
    levels = np.array([0, 95, 135, 175, 215, 255])
    nearest = np.abs(picture[..., None].astype(int) - levels).argmin(-1)
    return 16 + nearest @ np.array([36, 6, 1])


def pressed_keys(until: float) -> Iterator[str]:
    """The keys that are pressed up to a moment, as ``KeyboardEvent.code``."""
    while select.select([sys.stdin], [], [], max(until - time.monotonic(), 0))[0]:
        typed = os.read(sys.stdin.fileno(), 1024)
        if not typed:
            yield "KeyQ"  # the terminal is gone
            return
        yield from key_codes(typed.decode(errors="ignore"))


def key_codes(typed: str) -> Sequence[str]:
    """What was typed: arrows come as an escape, a bracket or an O, and a letter."""
    codes, rest = [], typed
    while rest:
        if rest[0] == "\x1b":
            if rest[1:2] in ("[", "O") and rest[2:3] in ARROWS:
                codes.append(ARROWS[rest[2]])
            rest = rest[3:]
            continue
        letter, rest = rest[0], rest[1:]
        if letter == " ":
            codes.append("Space")
        elif letter in "0123456789":
            codes.append(f"Digit{letter}")
        elif letter.isascii() and letter.isalpha():
            codes.append(f"Key{letter.upper()}")
    return codes


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys come as they are pressed, and the screen is as before in the end."""
    import termios  # not on Windows
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(ENTER)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
