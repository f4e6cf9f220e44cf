"""A player's game: what has been seen and done of it, back as far as it can be rewound."""

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Int64
from torch import Tensor

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.maskgit import Decoding

REMEMBERED = 600
"""Frames that can be rewound."""
OF_DECODING = ("steps", "temperature")
"""What a player chooses of it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a player chooses: `seed` of sampling, how frames are decoded, how many at once, and how many a second."""

    seed: int
    decoding: Decoding
    horizon: int
    fps: float

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """With other values, by the names of `plain`; None keeps what is."""
        given = {name: value for name, value in changes.items() if value is not None}
        own = {name: given.pop(name) for name in OF_DECODING if name in given}
        return replace(self, decoding=replace(self.decoding, **own), **given)

    def plain(self) -> dict[str, float]:
        """By the names of the protocol."""
        return {
            "seed": self.seed,
            "temperature": self.decoding.temperature,
            "steps": self.decoding.steps,
            "horizon": self.horizon,
            "fps": self.fps,
        }


class Moment(NamedTuple):
    """A frame of a game: its tokens, the action that led to it, and the number of the step that imagined it."""

    tokens: Int64[Tensor, " P"]
    action: int
    step: int


class Request(NamedTuple):
    """A step under `action` from what is seen of a game, or with None only a look; `watched`: with its inside."""

    seen: ClipTokens
    action: int | None
    step: int
    settings: Settings
    watched: bool

    @property
    def alike(self) -> tuple[Any, ...]:
        """What requests have in common that can share a batch."""
        frames = self.seen.tokens.shape[1]
        return (self.action is None, frames, self.settings.decoding, self.settings.horizon, self.watched)

    def generator(self) -> torch.Generator:
        """The noise of this step."""
        # torch seeds its generator on the CPU with no more than 32 bits.
        noise = hashlib.sha256(f"{self.settings.seed} {self.step}".encode()).digest()[:4]
        return torch.Generator(self.seen.tokens.device).manual_seed(int.from_bytes(noise))


class Session:
    """A game from a starting scene on.

    Noise is drawn for each step anew, from the seed and the number of the step: the same scene, seed and actions
    give the same game, and a step that was rewound and is taken again draws the same.
    """

    def __init__(self, scene: ClipTokens, settings: Settings) -> None:
        self.settings = settings
        self.begin(scene)

    def begin(self, scene: ClipTokens, *, step: int = 0) -> None:
        """Forget everything, and begin from the tokens of a scene, (1, T, P), before step number `step`."""
        actions = [0, *scene.actions[0].tolist()]
        frames = zip(scene.tokens[0], actions, strict=True)
        self._moments = deque(
            (Moment(tokens, action, step) for tokens, action in frames), maxlen=REMEMBERED + len(actions)
        )
        self._scene_frames = len(actions)
        self.version = object()  # another one after every change

    @property
    def step(self) -> int:
        """The number of the step that comes next; how many were taken since the scene."""
        return self._moments[-1].step

    @property
    def action(self) -> int:
        """That led to the last frame."""
        return self._moments[-1].action

    @property
    def rewindable(self) -> int:
        """Frames that can be taken back."""
        return len(self._moments) - self._scene_frames

    def seen(self, context: int) -> ClipTokens:
        """The last `context` frames, or as many as there are, as a batch of one."""
        window = list(self._moments)[-context:]
        tokens = torch.stack([moment.tokens for moment in window]).unsqueeze(0)
        actions = [[moment.action for moment in window[1:]]]
        return ClipTokens(tokens, torch.tensor(actions, dtype=torch.int64, device=tokens.device))

    def request(self, action: int | None, *, context: int, watched: bool) -> Request:
        """The step that comes next under `action`, or a look at what is."""
        return Request(self.seen(context), action, self.step, self.settings, watched)

    def extend(self, tokens: Int64[Tensor, "h P"], action: int) -> None:
        """Take the frames that a step gave."""
        step = self.step + 1
        self._moments.extend(Moment(frame, action, step) for frame in tokens)
        self.version = object()

    def rewind(self, frames: int) -> None:
        """Take back so many frames, rounded up to whole steps, or all that can be."""
        aim = max(len(self._moments) - frames, self._scene_frames)
        while len(self._moments) > aim:
            step = self._moments.pop().step
            while self.rewindable and self._moments[-1].step == step:
                self._moments.pop()
        self.version = object()
