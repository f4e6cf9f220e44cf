"""Steps of many games at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from tinyworlds.data.clips import normalize
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.maskgit import Guess
from tinyworlds.models.stage import as_pictures
from tinyworlds.play.session import Request, seeds
from tinyworlds.world import World


@dataclass(frozen=True, kw_only=True)
class Inside:
    """How one frame was decoded: S steps with their guesses, what they would show, and the tokenizer's own picture."""

    tokens: Int64[np.ndarray, "S P"]
    hidden: np.ndarray
    confidence: np.ndarray
    pictures: UInt8[np.ndarray, "S H W 3"]
    final: Int64[np.ndarray, " P"]
    alone: UInt8[np.ndarray, "H W 3"]
    again: Int64[np.ndarray, " P"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a request: h frames, their tokens, and where it was watched what is inside of each.

    `place` is the size of the batch and the row in it: sums are rounded a little differently at another place.
    """

    frames: UInt8[np.ndarray, "h H W 3"]
    tokens: Int64[Tensor, "h P"]
    inside: list[Inside]
    place: tuple[int, int]


class Engine:
    """Steps games of a world in batches."""

    def __init__(self, world: World) -> None:
        self.dynamics = world.dynamics
        self.device = world.dynamics.device
        self.grid = world.dynamics.video_tokenizer.grid

    @torch.inference_mode()
    def tokenize(self, frames: UInt8[np.ndarray, "T H W 3"]) -> ClipTokens:
        """A scene's last frames, as many as are seen, as tokens (1, T, P)."""
        clip = torch.from_numpy(np.ascontiguousarray(frames[None, -self.dynamics.context_length :]))
        return self.dynamics.tokenize(normalize(clip.to(self.device)))

    @torch.inference_mode()
    def run(self, requests: Sequence[Request]) -> list[Result]:
        """What comes of requests that are all alike (see `Request.alike`), in one batch."""
        first = requests[0]
        seen = ClipTokens(*(torch.cat(parts) for parts in zip(*(request.seen for request in requests), strict=True)))
        guesses: list[Guess] = []
        if first.action is not None:
            actions = torch.tensor([[request.action] * first.horizon for request in requests], device=self.device)
            seen = self.dynamics.advance(
                seen,
                actions,
                decoding=first.decoding,
                generator=seeds(requests, self.device),
                watch=guesses.append if first.watched else None,
            )
        count = 1 if first.action is None else first.horizon
        frames = as_pictures(self.dynamics.render(seen.tokens, count=count))
        inside = self._inside(seen, frames, guesses) if first.watched else [[] for _ in requests]
        return [
            Result(
                frames=frames[row],
                tokens=seen.tokens[row, -count:],
                inside=inside[row],
                place=(len(requests), row),
            )
            for row in range(len(requests))
        ]

    def _inside(
        self, seen: ClipTokens, frames: UInt8[np.ndarray, "B h H W 3"], guesses: Sequence[Guess]
    ) -> list[list[Inside]]:
        """For each game and frame."""
        count = frames.shape[1]
        shown = []
        for guess in guesses:
            window = torch.cat([seen.tokens[:, :-count], guess.tokens], dim=1)
            shown.append(as_pictures(self.dynamics.render(window, count=count)))
        clips = normalize(torch.from_numpy(frames).to(self.device))
        tokenizer = self.dynamics.video_tokenizer
        again = tokenizer.tokenize(clips)
        alone = as_pictures(tokenizer.detokenize(again))
        empty = np.zeros((0, *frames.shape[2:]), np.uint8)
        return [
            [
                Inside(
                    tokens=_steps([guess.tokens for guess in guesses], row, n, again),
                    hidden=_steps([guess.hidden for guess in guesses], row, n, again),
                    confidence=_steps([guess.confidence for guess in guesses], row, n, again),
                    pictures=np.stack([step[row, n] for step in shown]) if shown else empty,
                    final=seen.tokens[row, n - count].cpu().numpy(),
                    alone=alone[row, n],
                    again=again[row, n].cpu().numpy(),
                )
                for n in range(count)
            ]
            for row in range(len(frames))
        ]


def _steps(parts: Sequence[Tensor], row: int, frame: int, like: Tensor) -> np.ndarray:
    """One frame of one game in each of the decoding steps."""
    chosen = [part[row, frame].cpu().numpy() for part in parts]
    return np.stack(chosen) if chosen else np.zeros((0, like.shape[-1]), np.int64)
