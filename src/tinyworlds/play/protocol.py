"""What the player in the browser and the server say to each other.

One WebSocket a player at ``/play``. ``/play?resume=KEY`` goes on with a game whose connection broke, where it is
still kept (`tinyworlds.play.loop.KEPT` seconds).

Client to server: JSON text of at most `MAX_BYTES`, ``{"type": …}`` with these keys and no others:

- ``hold {action}``: from the next frame on this action; null: the idle one
- ``pause {on}``: stop, or go on
- ``step {}``: one frame, while paused
- ``reset {scene, seed?}``: begin again from a starting scene, with the same seed unless one is given
- ``settings {seed?, temperature?, steps?, horizon?, fps?}``: of sampling and decoding, frames imagined at once,
  frames per second; another seed begins again; null keeps what is
- ``rewind {frames}``: back so many frames, or as far as is remembered, and paused
- ``record {on}``: begin a recording, or end it, which ``recorded`` answers
- ``inside {on}``: whether each frame comes with how it was decoded
- ``preview {}``: what each action does from the last frame, answered by a ``PREVIEW``; one at a time
- ``ack {frame}``: this frame and all before it have been drawn; at most two are under way

Server to client, JSON text:

- ``hello {key, resumed, world, size: [height, width], actions: [{code, name, keys}], idle, scenes, grid: [rows,
  columns], levels: {bins, dimensions}, context, remembered, limits: {setting: [least, most]}, own: {temperature,
  steps}, settings}`` comes first. ``key`` is secret. ``name``: the true action that a code stands for, or null.
  ``keys``: those it is on unless the player chose others, as ``KeyboardEvent.code``. ``remembered``: the most frames
  that can be rewound. ``levels``: a token is so many numbers (dimensions) of so many levels (bins). ``own``: what the
  world was trained with
- ``settings {seed, temperature, steps, horizon, fps}`` after each change of them
- ``state {paused, scene, scenes, frames, rewindable, recording, recorded, inside}`` after each change, and every
  second; ``frames`` counts steps since the scene, ``recorded`` the frames recorded so far
- ``status {fps, latency_ms, step_ms, players}`` every second; ``latency_ms``: the median of the last keys, or null
- ``recorded {id, frames, fps}``: its files are ``/recordings/ID.gif``, ``.mp4`` and ``.json``. A recording that grows
  too long ends by itself
- ``error {message}``: what was asked for was not done
- ``full {message}``: there is no place; then the connection ends

Server to client, binary: a header of four uint32, little-endian: kind, number of the frame, action that led to it,
and milliseconds from the message that asked for the action to its first frame (0 in other frames). Then by kind:

- ``FRAME`` (1): a PNG. Numbers only rise, also after a rewind
- ``AGAIN`` (4): the same of a frame that is not new, but where the game is now: first of all, after a reset, a
  rewind, …
- ``INSIDE`` (2), just before the frame of that number: uint32 n, n bytes of JSON ``{grid, steps: [{tokens, hidden,
  confidence}], tokens, again, rivals, odds}``, and a PNG. Each of the S decoding steps has P ``tokens``, P times 0 or
  1 whether they are still ``hidden`` (the token is then a guess that was not kept), and P times the ``confidence``, 0
  to 1. ``tokens``: the frame's own; ``again``: those of the picture when it is tokenized anew; ``rivals``: of each
  position the likeliest tokens in the step that kept one, best first, and ``odds`` their probabilities. The PNG has S
  + 1 pictures side by side: what each step would show if it were the last, then what the tokenizer makes of
  ``again``. Where nothing was decoded (a scene begins, or was rewound to), S is 0
- ``PREVIEW`` (3): a PNG with a column per action and a row per frame for which it is held; the number is of the frame
  it begins from

``POST /scene?key=KEY`` with a picture or film as its body, at most `tinyworlds.play.uploads.MAX_BYTES`, answers
``{scene}``, the number of a new starting scene, or ``{error}``. ``/scenes/N.png?key=KEY`` is a scene's last frame as
it was given, not as tokens.

Errors end no connection, floods do: more than `RATE` messages a second, beyond `BURST`; and so do messages of more
than 64 KB.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, Self

from tinyworlds.models import Dynamics

MAX_BYTES = 4096
RATE, BURST = 100, 200
MAX_SEED = 2**31 - 1
LIMITS: Mapping[str, tuple[float, float]] = {
    "seed": (0, MAX_SEED),
    "temperature": (0, 4),
    "steps": (1, 64),
    "fps": (1, 60),
}
"""Of settings; that of ``horizon`` depends on the world."""


class Kind(IntEnum):
    """Of binary messages."""

    FRAME = 1
    INSIDE = 2
    PREVIEW = 3
    AGAIN = 4


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a world allows: numbers from 0 up to these, not included, and `horizon` frames at once."""

    actions: int
    scenes: int
    horizon: int

    @classmethod
    def of(cls, dynamics: Dynamics, *, scenes: int = 0) -> Self:
        """Those of a world."""
        return cls(actions=dynamics.action_tokenizer.n_actions, scenes=scenes, horizon=dynamics.context_length - 1)

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Least and greatest value of each setting."""
        return {**LIMITS, "horizon": (1, self.horizon)}


def header(kind: Kind, *, frame: int, action: int, milliseconds: int = 0) -> bytes:
    """The first 16 bytes of a binary message."""
    return struct.pack("<4I", kind, frame & 0xFFFFFFFF, action, min(milliseconds, 0xFFFFFFFF))


def parse(text: str | bytes, bounds: Bounds) -> tuple[str, dict[str, Any]]:
    """The type of a client's message and its values, all of them checked.

    Raises:
        ValueError: it is no message; the sentence is for whoever sent it.
    """
    if not isinstance(text, str):
        raise ValueError("a message is JSON text, not bytes")
    if len(text) > MAX_BYTES or len(text.encode(errors="replace")) > MAX_BYTES:
        raise ValueError(f"a message has at most {MAX_BYTES} bytes")
    try:
        message = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ValueError("a message is JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ValueError('a message is an object with a "type"')
    kind = message.pop("type")
    known = _messages(bounds)
    if kind not in known:
        raise ValueError(f"there is no message of type {kind[:40]!r}")
    _check(kind, message, known[kind])
    return kind, message


def check_settings(settings: Any, bounds: Bounds) -> None:
    """
    Raises:
        ValueError: they are not what ``settings`` may have.
    """
    if not isinstance(settings, dict):
        raise ValueError("settings are an object")
    _check("settings", settings, _messages(bounds)["settings"])


def _check(kind: str, values: Mapping[str, Any], checks: Mapping[str, "Check"]) -> None:
    for name, value in values.items():
        if name not in checks:
            raise ValueError(f"{kind} has no {str(name)[:40]!r}")
        checks[name](f"{kind}: {name}", value)
    for name in checks:
        if name not in values and name not in _OPTIONAL:
            raise ValueError(f"{kind} needs {name!r}")


Check = Callable[[str, Any], None]


def _whole(least: float, most: float, *, or_null: bool = False) -> Check:
    def check(name: str, value: Any) -> None:
        if or_null and value is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name} is a whole number from {least:g} to {most:g}" + (" or null" if or_null else ""))

    return check


def _number(least: float, most: float) -> Check:
    def check(name: str, value: Any) -> None:
        if value is None:
            return
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{name} is a number from {least:g} to {most:g} or null")

    return check


def _yes_or_no(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is true or false")


def _refuse(name: str) -> float:
    raise ValueError(name)


def _settings(bounds: Bounds) -> dict[str, Check]:
    limits = bounds.limits
    whole = {name: _whole(*limits[name], or_null=True) for name in ("seed", "steps", "horizon")}
    return {**whole, **{name: _number(*limits[name]) for name in ("temperature", "fps")}}


@cache
def _messages(bounds: Bounds) -> dict[str, dict[str, Check]]:
    return {
        "hold": {"action": _whole(0, bounds.actions - 1, or_null=True)},
        "pause": {"on": _yes_or_no},
        "step": {},
        "reset": {"scene": _whole(0, bounds.scenes - 1), "seed": _whole(0, MAX_SEED)},
        "settings": _settings(bounds),
        "rewind": {"frames": _whole(1, 10_000)},
        "record": {"on": _yes_or_no},
        "inside": {"on": _yes_or_no},
        "preview": {},
        "ack": {"frame": _whole(0, 2**32 - 1)},
    }


_OPTIONAL = ("seed", "temperature", "steps", "horizon", "fps")
