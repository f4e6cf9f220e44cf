"""A player's game: what has been seen and done of it, back as far as it can be rewound."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.maskgit import Decoding

REMEMBERED = 600
"""Frames that can be rewound."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a player chooses: `seed` of sampling, how frames are decoded, how many at once, and how many a second."""

    seed: int
    decoding: Decoding
    horizon: int
    fps: float

    def changed(
        self,
        *,
        seed: int | None = None,
        temperature: float | None = None,
        steps: int | None = None,
        horizon: int | None = None,
        fps: float | None = None,
    ) -> "Settings":
        """With the values given in place of these."""
        decoding = replace(
            self.decoding,
            steps=self.decoding.steps if steps is None else steps,
            temperature=self.decoding.temperature if temperature is None else float(temperature),
        )
        return Settings(
            seed=self.seed if seed is None else seed,
            decoding=decoding,
            horizon=self.horizon if horizon is None else horizon,
            fps=self.fps if fps is None else float(fps),
        )

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
    """A step, or with no `action` only a look, that a world is to take from what is seen of a game."""

    seen: ClipTokens
    action: int | None
    noise: int
    decoding: Decoding
    horizon: int
    watched: bool

    @property
    def alike(self) -> tuple[object, ...]:
        """What requests have in common that can share a batch."""
        return (self.action is None, self.seen.tokens.shape[1], self.decoding, self.horizon, self.watched)


class Session:
    """A game from a starting scene on: it gives requests and takes what came of them.

    Noise is drawn for each step anew, from the seed and the number of the step: the same scene, seed and actions
    give the same game, and a step that was rewound and is taken again draws the same.
    """

    def __init__(self, scene: ClipTokens, settings: Settings) -> None:
        self.settings = settings
        self.begin(scene)

    def begin(self, scene: ClipTokens) -> None:
        """Forget everything, and begin from the tokens of a scene, (1, T, P)."""
        actions = [0, *scene.actions[0].tolist()]
        frames = zip(scene.tokens[0], actions, strict=True)
        self._moments: deque[Moment] = deque(
            (Moment(tokens, action, 0) for tokens, action in frames), maxlen=REMEMBERED + len(actions)
        )
        self._kept = len(actions)
        self.version = object()

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self._moments[-1].step

    @property
    def action(self) -> int:
        """That led to the last frame."""
        return self._moments[-1].action

    @property
    def rewindable(self) -> int:
        """Frames that can be taken back."""
        return len(self._moments) - self._kept

    def seen(self, context: int) -> ClipTokens:
        """The last `context` frames, or as many as there are."""
        window = list(self._moments)[-context:]
        tokens = torch.stack([moment.tokens for moment in window]).unsqueeze(0)
        actions = torch.tensor([[moment.action for moment in window[1:]]], dtype=torch.int64, device=tokens.device)
        return ClipTokens(tokens, actions)

    def request(self, action: int | None, *, context: int, watched: bool) -> Request:
        """The step that comes next under `action`."""
        noise = self.settings.seed << 32 | self.step & 0xFFFFFFFF
        return Request(self.seen(context), action, noise, self.settings.decoding, self.settings.horizon, watched)

    def extend(self, tokens: Int64[Tensor, "h P"], action: int) -> None:
        """Take the frames that a step gave."""
        step = self.step + 1
        self._moments.extend(Moment(frame, action, step) for frame in tokens)
        self.version = object()

    def rewind(self, frames: int) -> int:
        """Take back at least so many frames, whole steps, or all that can be; returns how many."""
        before = len(self._moments)
        while self.rewindable > 0 and before - len(self._moments) < frames:
            step = self._moments.pop().step
            while self.rewindable > 0 and self._moments[-1].step == step:
                self._moments.pop()
        self.version = object()
        return before - len(self._moments)


def seeds(requests: Sequence[Request], device: torch.device) -> list[torch.Generator]:
    """A generator for each request."""
    return [torch.Generator(device).manual_seed(request.noise) for request in requests]
