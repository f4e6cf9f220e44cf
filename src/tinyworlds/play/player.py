"""One player: what they asked for, what they are owed, and what is on the way to them."""

import asyncio
import json
import secrets
import time
from collections import deque
from typing import Any, NamedTuple

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.play.engine import Result
from tinyworlds.play.protocol import Kind, header
from tinyworlds.play.session import Request, Session, Settings

UNDER_WAY = 2
"""Frames sent that the player has not drawn yet."""
OUTBOX = 100
"""Messages that wait for a connection; one that takes none for so long is closed."""


class Turn(NamedTuple):
    """A player's request, of which game it is, and when its action was asked for."""

    player: "Player"
    request: Request
    version: object
    pressed: float | None


class Shown(NamedTuple):
    """A frame ready to be sent: its picture and perhaps its inside, the action that led to it, and when it was asked for."""

    picture: bytes
    inside: bytes | None
    action: int
    pressed: float | None


class Player:
    """A session and the connection to whoever plays it, which may come and go.

    `idle` is the action while none is held. Nothing here waits: frames are due or they are not.
    """

    def __init__(self, scenes: list[ClipTokens], settings: Settings, *, idle: int, context: int) -> None:
        self.key = secrets.token_urlsafe(18)
        self.scenes = list(scenes)
        self.scene = 0
        self.session = Session(self.scenes[0], settings)
        self.idle, self.context = idle, context
        self.held: int | None = None
        self.paused, self.inside = False, False
        self.left = time.monotonic()  # when the last connection went
        self.outbox: asyncio.Queue[str | bytes | None] | None = None
        self._frame = self._drawn = 0  # numbers of the last one sent and drawn
        self._single = 0  # steps asked for while paused
        self._look = True  # show what is, before any step
        self._due = 0.0
        self._pressed: float | None = None  # when the action that is held now was asked for
        self._waiting: deque[Shown] = deque()  # imagined together, to be shown one by one
        self._times: deque[float] = deque(maxlen=120)
        self._latencies: deque[int] = deque(maxlen=50)

    def connect(self) -> "asyncio.Queue[str | bytes | None]":
        """Where to take what is sent to the player from; what an earlier connection did not take is lost."""
        if self.outbox is not None:
            self._close(self.outbox)
        self.outbox = asyncio.Queue(OUTBOX)
        self._drawn = self._frame
        self._look, self.held, self._pressed = True, None, None
        return self.outbox

    def disconnect(self, outbox: "asyncio.Queue[str | bytes | None]") -> None:
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
            self._close(self.outbox)

    def due(self, now: float) -> float | None:
        """In how many seconds a frame is wanted; None: not before something else happens."""
        if self.outbox is None or self._frame - self._drawn >= UNDER_WAY:
            return None
        if self._look:
            return 0
        if self.paused and not self._single:
            return None
        return max(self._due - now, 0)

    def turn(self) -> Turn | None:
        """What is to be done for the frame that is due; None when it could be sent at once."""
        now = time.monotonic()
        if not self._look:
            self._single = max(self._single - 1, 0)
            self._due = max(self._due + 1 / self.session.settings.fps, now)
            if self._waiting:
                self._show(self._waiting.popleft())
                return None
        action = None if self._look else (self.idle if self.held is None else self.held)
        pressed = None
        if not self._look:
            pressed, self._pressed = self._pressed, None
        self._look = False
        request = self.session.request(action, context=self.context, watched=self.inside)
        return Turn(self, request, self.session.version, pressed)

    def take(self, turn: Turn, result: Result, pictures: list[tuple[bytes, bytes | None]]) -> None:
        """Send what came of a turn, unless the game went another way meanwhile."""
        if self.session.version is not turn.version:
            return
        action = turn.request.action
        if action is not None:
            self.session.extend(result.tokens, action)
        for index, (picture, inside) in enumerate(pictures):
            pressed = turn.pressed if index == 0 else None
            self._waiting.append(Shown(picture, inside, self.session.action, pressed))
        self._show(self._waiting.popleft())

    def _show(self, shown: Shown) -> None:
        now = time.monotonic()
        self._frame += 1
        self._times.append(now)
        milliseconds = 0
        if shown.pressed is not None:
            milliseconds = max(round(1000 * (now - shown.pressed)), 1)
            self._latencies.append(milliseconds)
        if shown.inside is not None:
            self.send(header(Kind.INSIDE, frame=self._frame, action=shown.action) + shown.inside)
        self.send(
            header(Kind.FRAME, frame=self._frame, action=shown.action, milliseconds=milliseconds) + shown.picture
        )

    def status(self, now: float) -> dict[str, Any]:
        """Frames a second over the last two, and the median latency of the last keys."""
        recent = [moment for moment in self._times if now - moment < 2]
        latencies = sorted(self._latencies)
        return {
            "fps": round(len(recent) / 2, 1),
            "latency_ms": latencies[len(latencies) // 2] if latencies else None,
        }

    def state(self) -> dict[str, Any]:
        """What the page shows beside the settings."""
        return {
            "type": "state",
            "paused": self.paused,
            "scene": self.scene,
            "frames": self.session.step,
            "rewindable": self.session.rewindable,
            "recording": False,
            "recorded_frames": 0,
        }

    def hold(self, *, action: int | None) -> None:
        """Take this action from the next step on."""
        if action != self.held:
            self.held, self._pressed = action, time.monotonic()

    def ack(self, *, frame: int) -> None:
        """The player has drawn this frame."""
        if frame > self._frame:
            raise ValueError(f"ack: frame {frame} was never sent")
        self._drawn = max(self._drawn, frame)

    def pause(self, *, on: bool) -> None:
        """Stop or go on."""
        self.paused, self._single = on, 0

    def step(self) -> None:
        """One more frame while paused."""
        if not self.paused:
            raise ValueError("step: pause first")
        self._single = min(self._single + 1, 4)

    def look_inside(self, *, on: bool) -> None:
        """Whether frames come with how they were decoded."""
        self.inside = on
        if on and self.paused:
            self._again()

    def reset(self, *, scene: int, seed: int | None = None) -> None:
        """Begin again."""
        if scene >= len(self.scenes):
            raise ValueError(f"reset: there are scenes 0 to {len(self.scenes) - 1}")
        self.scene = scene
        self.session.settings = self.session.settings.changed(seed=seed)
        self.session.begin(self.scenes[scene])
        self._again()

    def change(self, **changes: Any) -> None:
        """Other settings from the next step on; another seed begins again."""
        self.session.settings = self.session.settings.changed(**changes)
        if changes.get("seed") is not None:
            self.reset(scene=self.scene)

    def rewind(self, *, frames: int) -> None:
        """Back so many frames, and paused."""
        self.session.rewind(frames)
        self.pause(on=True)
        self._again()

    def _again(self) -> None:
        """Show where the game is now."""
        self._look = True
        self._waiting.clear()

    @staticmethod
    def _close(outbox: "asyncio.Queue[str | bytes | None]") -> None:
        """Tell whoever takes from an outbox to end the connection."""
        while not outbox.empty():
            outbox.get_nowait()
        outbox.put_nowait(None)
