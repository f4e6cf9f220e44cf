"""Recordings of play: films, and a log from which the same frames can be made again."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from math import isqrt
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.json_files import LARGEST, read_object
from tinyworlds.maskgit import CHECKS
from tinyworlds.media import enlarge, replacing, save_gif, save_mp4
from tinyworlds.models import Dynamics
from tinyworlds.play.engine import Engine
from tinyworlds.play.protocol import Bounds, check_settings
from tinyworlds.play.session import OF_DECODING, Request, Session, Settings
from tinyworlds.progress import track

FORMAT = 1
MAX_FRAMES = 3000
MAX_BYTES = 50 * 10**6
"""Of the pictures of a recording, compressed."""
MAX_LOG_BYTES = LARGEST * 3 // 4
"""Of its events, so that what is written can be read."""
FILM_BYTES = 64 * 10**6
"""Of a film, not compressed: short ones are enlarged."""
MAX_BATCH = 64


class Recorder:
    """Keeps the frames of a session from now on, and what was done.

    The log is a list of events: ``begin`` (tokens and actions of what is seen, the number of the next step),
    ``settings`` as they are from here on, ``step`` with its action, ``look`` (a frame without a step). The last two
    have their ``place`` in a batch where they shared one, because other batches are rounded differently. What of the
    decoding can't be changed while playing stands beside the list.
    """

    def __init__(self, seen: ClipTokens, step: int) -> None:
        self.events: list[dict[str, Any]] = []
        self.pictures: list[bytes] = []
        self._bytes = self._log_bytes = 0
        self._settings: dict[str, float] = {}
        self._decoding: dict[str, Any] = {}
        self._rates: list[float] = []
        self._last: float | None = None
        self.begin(seen, step)

    def begin(self, seen: ClipTokens, step: int) -> None:
        """The game goes on from here, after a reset or a rewind."""
        state = {"tokens": seen.tokens[0].tolist(), "actions": seen.actions[0].tolist(), "step": step}
        if self.events and "begin" in self.events[-1]:  # nothing was shown of it
            self._log_bytes -= len(json.dumps(self.events.pop()))
        self._note({"begin": state})
        self._last = None

    def take(self, request: Request, place: tuple[int, int], pictures: Sequence[bytes]) -> None:
        """A step or a look, and the PNGs that it gave."""
        settings = {name: value for name, value in request.settings.plain().items() if name != "fps"}
        if settings != self._settings:
            self._note({"settings": settings})
            self._settings = settings
        decoding = asdict(request.settings.decoding)
        self._decoding = {name: value for name, value in decoding.items() if name not in OF_DECODING}
        event = {"look": True} if request.action is None else {"step": request.action}
        self._note({**event, **({"place": list(place)} if place != (1, 0) else {})})
        self.pictures += pictures
        self._bytes += sum(map(len, pictures))
        now = time.monotonic()
        if self._last is not None and request.action is not None:
            self._rates.append(len(pictures) / max(now - self._last, 1e-3))
        self._last = now

    def _note(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        self._log_bytes += len(json.dumps(event))

    @property
    def full(self) -> bool:
        """Whether no more may be kept."""
        return len(self.pictures) >= MAX_FRAMES or self._bytes >= MAX_BYTES or self._log_bytes >= MAX_LOG_BYTES

    @property
    def fps(self) -> float:
        """Frames per second as they were played, pauses left out."""
        return round(min(max(median(self._rates), 1), 60), 1) if self._rates else 10.0

    def write(self, folder: Path, name: str, dynamics: Dynamics) -> None:
        """`name`.gif, .mp4 and .json; the last one comes last."""
        frames = np.stack([np.asarray(Image.open(BytesIO(picture))) for picture in self.pictures])
        log = {
            "format": FORMAT,
            "world": str(dynamics.dataset["name"]),
            "digest": dynamics.weights_digest(),
            "fps": self.fps,
            "frames": len(frames),
            "decoding": self._decoding,
            "sha256": frames_digest(frames),
            "events": self.events,
        }
        save_films(folder, name, frames, self.fps)
        with replacing(folder / f"{name}.json") as unfinished:
            unfinished.write_text(json.dumps(log, separators=(",", ":")))


def save_films(folder: Path, name: str, frames: UInt8[np.ndarray, "T H W 3"], fps: float) -> None:
    """`name`.gif and .mp4, enlarged as far as is reasonable."""
    film = enlarge(frames, max(min(isqrt(FILM_BYTES // frames.nbytes), 4), 1))
    save_gif(folder / f"{name}.gif", film, fps)
    save_mp4(folder / f"{name}.mp4", film, fps)


def frames_digest(frames: UInt8[np.ndarray, "T H W 3"]) -> str:
    """SHA-256 of the pixels."""
    return hashlib.sha256(frames.tobytes()).hexdigest()


def read_log(path: Path, dynamics: Dynamics) -> dict[str, Any]:
    """The log of a recording of this world.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no log, or one of another world.
    """
    log = read_object(path, "log of a recording")
    try:
        _check_log(log, dynamics)
    except ValueError as error:
        raise ValueError(f"actions={path} is no log of a recording: {error}") from None
    if log["digest"] != dynamics.weights_digest():
        raise ValueError(f"actions={path} was recorded in another world, of {log['world']}: give that one with ckpt=")
    return log


def replay(log: Mapping[str, Any], dynamics: Dynamics) -> UInt8[np.ndarray, "T H W 3"]:
    """The frames of a log that `read_log` gave, imagined again."""
    engine, device = Engine(dynamics), dynamics.device
    decoding = dynamics.decoding.changed(**log.get("decoding", {}))
    settings = Settings(seed=0, decoding=decoding, horizon=1, fps=1)
    session: Session | None = None
    frames = []
    for event in track(log["events"], total=len(log["events"]), label="replaying"):
        if "begin" in event:
            state = event["begin"]
            tokens, actions = (torch.tensor([state[key]], device=device) for key in ("tokens", "actions"))
            scene = ClipTokens(tokens, actions.to(torch.int64))
            session = session or Session(scene, settings)
            session.begin(scene, step=state["step"])
        assert session is not None  # a log begins with begin
        if "settings" in event:
            session.settings = settings = session.settings.changed(event["settings"])
        if "step" in event or "look" in event:
            size, row = event.get("place", (1, 0))
            action = event.get("step")
            request = session.request(action, context=dynamics.context_length, watched=False)
            result = engine.run([request] * size)[row]
            if action is not None:
                session.extend(result.tokens, action)
            frames.append(result.frames)
    return np.concatenate(frames)


def _check_log(log: Mapping[str, Any], dynamics: Dynamics) -> None:
    """Refuse anything that `replay` could stumble over; the sentence lacks its subject."""
    if log.get("format") != FORMAT:
        raise ValueError(f"its format is {log.get('format')!r}, this version of TinyWorlds reads {FORMAT}")
    if not all(isinstance(log.get(key), str) for key in ("world", "digest", "sha256")):
        raise ValueError("it names no world")
    _check_decoding(log.get("decoding", {}), dynamics)
    if not isinstance(log.get("fps"), int | float) or not 1 <= log["fps"] <= 60:
        raise ValueError("its fps is no number from 1 to 60")
    events = log.get("events")
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise ValueError("it has no list of events")
    if not events or "begin" not in events[0]:
        raise ValueError("it does not begin with a begin")
    horizon, frames = 1, 0
    for event in events:
        keys = set(event)
        if keys == {"begin"}:
            _check_state(event["begin"], dynamics)
        elif keys == {"settings"}:
            check_settings(event["settings"], Bounds.of(dynamics))
            horizon = event["settings"].get("horizon") or horizon
        elif keys - {"place"} in ({"step"}, {"look"}):
            if "step" in event and not _whole(event["step"], dynamics.action_tokenizer.n_actions):
                raise ValueError(f"there is no action {event['step']}")
            _check_place(event.get("place", [1, 0]))
            frames += horizon if "step" in event else 1
        else:
            raise ValueError(f"there is no event of {', '.join(sorted(keys)) or 'nothing'}")
    if not 0 < frames <= MAX_FRAMES + dynamics.context_length:
        raise ValueError(f"it has {frames} frames; 1 to {MAX_FRAMES} are kept")


def _check_state(state: Any, dynamics: Dynamics) -> None:
    patches, vocabulary = dynamics.video_tokenizer.num_patches, dynamics.video_tokenizer.vocabulary
    good = isinstance(state, dict) and set(state) == {"tokens", "actions", "step"} and _whole(state["step"], 2**32)
    good = good and all(isinstance(state[key], list) for key in ("tokens", "actions"))
    good = good and 1 <= len(state["tokens"]) <= dynamics.context_length
    good = good and len(state["actions"]) == len(state["tokens"]) - 1
    good = good and all(isinstance(frame, list) and len(frame) == patches for frame in state["tokens"])
    good = good and all(_whole(token, vocabulary) for frame in state["tokens"] for token in frame)
    if not good or not all(_whole(action, dynamics.action_tokenizer.n_actions) for action in state["actions"]):
        raise ValueError("a begin of it is not of this world's tokens and actions")


def _check_decoding(decoding: Any, dynamics: Dynamics) -> None:
    """Those of logs from before there was a choice have none."""
    if not isinstance(decoding, dict) or not set(decoding) <= CHECKS.keys() - set(OF_DECODING):
        raise ValueError("its decoding is none")
    dynamics.decoding.changed(**decoding)


def _check_place(place: Any) -> None:
    if not (
        isinstance(place, list) and len(place) == 2 and _whole(place[0], MAX_BATCH + 1) and _whole(place[1], place[0])
    ):
        raise ValueError(f"there is no place {place} in a batch of at most {MAX_BATCH}")


def _whole(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < limit
