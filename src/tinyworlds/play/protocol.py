"""What the player in the browser and the server say to each other.

One WebSocket a player at ``/play``; ``/play?resume=KEY`` goes on with a game whose connection broke, where it is kept still.
Client to server, JSON text of at most 4096 bytes, ``{"type": …}`` and nothing but these keys:

=========================================  ==============================================================================
``hold {action}``                          from the next frame on this action; null: the idle one
``pause {on}``                             stop or go on
``step {}``                                one frame, while paused
``reset {scene, seed?}``                   begin again from a starting scene; without a seed with the same one
``settings {seed?, temperature?, steps?,`` of sampling and decoding, frames imagined at once, frames a second;
``horizon?, fps?}``                        a seed begins again; null: the world's own
``rewind {frames}``                        back so many frames, or as far as is remembered, and paused
``record {on}``                            begin a recording, or end it: answered by ``recorded``
``inside {on}``                            whether each frame comes with how it was decoded
``preview {}``                             what each action does from here: answered by a ``PREVIEW``
``ack {frame}``                            this frame, and all before, have been drawn; two are under way at most
=========================================  ==============================================================================

Server to client, JSON text:

``hello {key, resumed, world, size: [height, width], actions: [{code, name}], idle, scenes, scene, grid: [rows, columns],
vocabulary, context, paused, settings: {…}, limits: {setting: [least, most]}, own: {temperature, steps}}`` first of all;
``settings {…}`` after each change; ``state {paused, scene, frames, rewindable, recording, recorded_frames}`` after each change of these;
``status {fps, latency_ms, step_ms, players}`` every second; ``recorded {id, frames, seconds}``, whose files are
``/recordings/ID.gif``, ``.mp4`` and ``.json``; ``error {message}``, which changed nothing; ``full {message}``, then the end.

Server to client, binary: a header of four uint32, little-endian: kind, frame number, action, milliseconds from
the message that first asked for the action to this frame (0 in others). Then by kind:

``FRAME`` (1): the picture, PNG. Frame numbers only rise, also after a rewind.

``INSIDE`` (2), before the frame of that number: uint32 n, n bytes of JSON ``{grid, steps: [{tokens, hidden, confidence}], tokens,
again}``, then a PNG of pictures side by side. Each of the S decoding steps has P ``tokens``, P 0/1 whether they are still ``hidden``
(the token is then a guess that was not kept) and P ``confidence`` from 0 to 1. The pictures: what the S steps would show if they were the
last, then what the tokenizer alone makes of the frame (encoded and decoded again), S + 1 in all; ``again`` are its tokens.
Where nothing was decoded, at the beginning of a scene and after a rewind, S is 0.

``PREVIEW`` (3): a PNG, a column per action, a row per frame that it is held for. The frame number is that from which it begins.

Errors never end the connection, but floods do: more than `RATE` messages a second over `BURST`.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

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


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a world allows: numbers from 0 up to these, not included, and `horizon` frames at once."""

    actions: int
    scenes: int
    horizon: int

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
    if kind not in _MESSAGES:
        raise ValueError(f"there is no message of type {kind[:40]!r}")
    checks = _MESSAGES[kind](bounds)
    for name, value in message.items():
        if name not in checks:
            raise ValueError(f"{kind} has no {name[:40]!r}")
        checks[name](f"{kind}: {name}", value)
    for name in checks:
        if name not in message and name in _REQUIRED.get(kind, ()):
            raise ValueError(f"{kind} needs {name!r}")
    return kind, message


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
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not least <= value <= most:
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


_MESSAGES: dict[str, Callable[[Bounds], dict[str, Check]]] = {
    "hold": lambda bounds: {"action": _whole(0, bounds.actions - 1, or_null=True)},
    "pause": lambda bounds: {"on": _yes_or_no},
    "step": lambda bounds: {},
    "reset": lambda bounds: {"scene": _whole(0, bounds.scenes - 1), "seed": _whole(0, MAX_SEED)},
    "settings": _settings,
    "rewind": lambda bounds: {"frames": _whole(1, 10_000)},
    "record": lambda bounds: {"on": _yes_or_no},
    "inside": lambda bounds: {"on": _yes_or_no},
    "preview": lambda bounds: {},
    "ack": lambda bounds: {"frame": _whole(0, 2**32 - 1)},
}
_REQUIRED = {
    "hold": ("action",),
    "pause": ("on",),
    "reset": ("scene",),
    "rewind": ("frames",),
    "record": ("on",),
    "inside": ("on",),
    "ack": ("frame",),
}
