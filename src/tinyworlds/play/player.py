"""One player: what they asked for, what they are owed, and what is on the way to them."""

import asyncio
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.play.engine import Result
from tinyworlds.play.protocol import Kind, header
from tinyworlds.play.recording import Recorder
from tinyworlds.play.session import Request, Session, Settings

UNDER_WAY = 2
"""Frames sent that the player has not drawn yet."""
OUTBOX = 100
"""Messages that wait for a connection; one that lets more wait is closed."""
STEPS_AHEAD = 4
"""Single steps that may be asked for at once."""
OWN_SCENES = 8

Outbox = asyncio.Queue[str | bytes | None]
"""What is to be sent; None: nothing more."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Something to begin from: its last frame as it was given, and its tokens (1, T, P)."""

    picture: UInt8[np.ndarray, "H W 3"]
    tokens: ClipTokens


class Picture(NamedTuple):
    """A frame and, where it is watched, its inside, as they are sent."""

    frame: bytes
    inside: bytes | None


class Turn(NamedTuple):
    """A player's request, the version of the game it is for, and when its action was asked for."""

    player: "Player"
    request: Request
    version: object
    pressed: float | None


class Player:
    """A session and the connection to whoever plays it, which may come and go.

    Nothing here waits: frames are due or they are not. `idle` is the action while none is held; `deliver` gets
    recordings that have ended.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        settings: Settings,
        *,
        idle: int,
        context: int,
        deliver: Callable[["Player", Recorder], None],
    ) -> None:
        self.key = secrets.token_urlsafe(18)
        self.scenes = list(scenes)
        self.own_scenes = 0
        self.session = Session(self.scenes[0].tokens, settings)
        self.idle, self.context = idle, context
        self.left = time.monotonic()  # when the last connection went
        self.outbox: Outbox | None = None
        self.recorder: Recorder | None = None
        self.previewing = self.uploading = self.writing = False
        self._deliver = deliver
        self._scene = 0
        self._paused = self._inside = False
        self._held: int | None = None
        self._pressed: float | None = None  # when that was asked for, until there is a frame of it
        self._number = self._drawn = 0  # of the last frame sent, and drawn
        self._single = 0  # steps asked for while paused
        self._look = True  # show what is, before any step
        self._due = 0.0
        self._waiting: deque[tuple[Picture, float | None]] = deque()  # imagined at once, shown one by one
        self._shown: deque[float] = deque(maxlen=120)
        self._latencies: deque[int] = deque(maxlen=50)

    def connect(self) -> Outbox:
        """Where to take from what is sent to the player; an earlier connection ends."""
        if self.outbox is not None:
            close(self.outbox)
        self.outbox = Outbox(OUTBOX)
        self._drawn = self._number
        self._held = self._pressed = None
        self._again()
        return self.outbox

    def disconnect(self, outbox: Outbox) -> None:
        """This connection is gone; unless there is another, the game stands still."""
        if self.outbox is outbox:
            self.outbox, self.left = None, time.monotonic()

    def send(self, message: dict[str, Any] | bytes) -> None:
        """Put a message on the way, if there is a way."""
        if self.outbox is None:
            return
        try:
            self.outbox.put_nowait(message if isinstance(message, bytes) else json.dumps(message))
        except asyncio.QueueFull:
            close(self.outbox)

    def due(self, now: float) -> float | None:
        """In how many seconds a frame is wanted; None: not before something else happens."""
        if self.outbox is None or self._number - self._drawn >= UNDER_WAY:
            return None
        if self._look:
            return 0
        if self._paused and not self._single:
            return None
        return max(self._due - now, 0)

    def turn(self) -> Turn | None:
        """What is to be computed for the frame that is due; None where that was done, and the frame is sent."""
        action = pressed = None
        if self._look:
            self._look = False
            self._waiting.clear()
        else:
            self._single = max(self._single - 1, 0)
            self._due = max(self._due + 1 / self.session.settings.fps, time.monotonic())
            if self._waiting:
                self._show(*self._waiting.popleft())
                return None
            action = self.idle if self._held is None else self._held
            pressed, self._pressed = self._pressed, None
        request = self.session.request(action, context=self.context, watched=self._inside)
        return Turn(self, request, self.session.version, pressed)

    def take(self, turn: Turn, result: Result, pictures: Sequence[Picture]) -> None:
        """Send what came of a turn, unless the game went another way meanwhile."""
        if self.session.version is not turn.version:
            return
        if turn.request.action is not None:
            self.session.extend(result.tokens, turn.request.action)
        if self.recorder is not None:
            self.recorder.take(turn.request, result.place, [picture.frame for picture in pictures])
            if self.recorder.full:
                self.record(on=False)
        self._waiting.extend((picture, None if n else turn.pressed) for n, picture in enumerate(pictures))
        self._show(*self._waiting.popleft(), kind=Kind.AGAIN if turn.request.action is None else Kind.FRAME)

    def _show(self, picture: Picture, pressed: float | None, *, kind: Kind = Kind.FRAME) -> None:
        now = time.monotonic()
        self._number += 1
        self._shown.append(now)
        about = {"frame": self._number, "action": self.session.action}
        milliseconds = 0
        if pressed is not None:
            milliseconds = max(round(1000 * (now - pressed)), 1)
            self._latencies.append(milliseconds)
        if picture.inside is not None:
            self.send(header(Kind.INSIDE, **about) + picture.inside)
        self.send(header(kind, **about, milliseconds=milliseconds) + picture.frame)

    def status(self, now: float) -> dict[str, Any]:
        """Frames a second over the last two, and the median latency of the last keys."""
        latencies = sorted(self._latencies)
        return {
            "fps": sum(now - shown < 2 for shown in self._shown) / 2,
            "latency_ms": latencies[len(latencies) // 2] if latencies else None,
        }

    def state(self) -> dict[str, Any]:
        """As `protocol` has it."""
        return {
            "type": "state",
            "paused": self._paused,
            "scene": self._scene,
            "scenes": len(self.scenes),
            "frames": self.session.step,
            "rewindable": self.session.rewindable,
            "recording": self.recorder is not None,
            "recorded": 0 if self.recorder is None else len(self.recorder.pictures),
            "inside": self._inside,
        }

    def preview(self, actions: int) -> list[Session]:
        """A game for each action that goes on from where this one is."""
        if self.previewing:
            raise ValueError("preview: one is under way")
        self.previewing = True
        games = [Session(self.session.seen(self.context), self.session.settings) for _ in range(actions)]
        for game in games:
            game.begin(self.session.seen(self.context), step=self.session.step)
        return games

    def show_preview(self, picture: bytes) -> None:
        """The answer to `preview`."""
        self.previewing = False
        self.send(header(Kind.PREVIEW, frame=self._number, action=self.session.action) + picture)

    def check_room(self) -> None:
        """
        Raises:
            ValueError: there is no place for another scene of the player's own, or one is on the way.
        """
        if self.uploading:
            raise ValueError("one scene at a time: the last one is still on the way")
        if self.own_scenes >= OWN_SCENES:
            raise ValueError(f"at most {OWN_SCENES} scenes of your own are kept: reload the page to begin anew")

    def add_scene(self, scene: Scene) -> int:
        """Its number."""
        self.own_scenes += 1
        self.scenes.append(scene)
        return len(self.scenes) - 1

    # What a player can ask for, by the names of the protocol.

    def hold(self, *, action: int | None) -> None:
        if action != self._held:
            self._held, self._pressed = action, time.monotonic()

    def ack(self, *, frame: int) -> None:
        if frame > self._number:
            raise ValueError(f"ack: frame {frame} was never sent")
        self._drawn = max(self._drawn, frame)

    def pause(self, *, on: bool) -> None:
        self._paused, self._single = on, 0

    def step(self) -> None:
        if not self._paused:
            raise ValueError("step: pause first")
        self._single = min(self._single + 1, STEPS_AHEAD)

    def inside(self, *, on: bool) -> None:
        self._inside = on
        if on and self._paused:
            self._again()

    def reset(self, *, scene: int, seed: int | None = None) -> None:
        self._scene = scene
        self.session.settings = self.session.settings.changed({"seed": seed})
        self.session.begin(self.scenes[scene].tokens)
        self._elsewhere()

    def settings(self, **changes: Any) -> None:
        self.session.settings = self.session.settings.changed(changes)
        if changes.get("seed") is not None:
            self.reset(scene=self._scene)

    def rewind(self, *, frames: int) -> None:
        self.session.rewind(frames)
        self.pause(on=True)
        self._elsewhere()

    def record(self, *, on: bool) -> None:
        if on and self.recorder is None:
            if self.writing:
                raise ValueError("record: the last recording is still being written")
            self.recorder = Recorder(self.session.seen(self.context), self.session.step)
            self._again()
        elif not on and self.recorder is not None:
            recorder, self.recorder = self.recorder, None
            if not recorder.pictures:
                raise ValueError("record: there is no frame in it yet")
            self.writing = True
            self._deliver(self, recorder)

    def _elsewhere(self) -> None:
        if self.recorder is not None:
            self.recorder.begin(self.session.seen(self.context), self.session.step)
        self._again()

    def _again(self) -> None:
        """Show where the game is now."""
        self._look = True
        self._waiting.clear()


def close(outbox: Outbox) -> None:
    """Have whoever takes from an outbox end the connection."""
    while not outbox.empty():
        outbox.get_nowait()
    outbox.put_nowait(None)
