"""Steps of many games at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from tinyworlds.data.clips import normalize
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.maskgit import Guess, distribution
from tinyworlds.models import Dynamics
from tinyworlds.models.stage import as_pictures
from tinyworlds.play.session import Request

RIVALS = 4
"""Tokens told of each position."""


@dataclass(frozen=True, kw_only=True)
class Inside:
    """How one frame came to be, in S decoding steps (see `Guess`).

    `pictures`: what each step would show if it were the last. `again`: the tokens of the frame when it is tokenized
    anew, and `alone` what the tokenizer makes of these. `rivals`: the likeliest tokens at each position in the step
    that kept one of them, best first, and `odds` their probabilities.
    """

    tokens: Int64[np.ndarray, "S P"]
    hidden: Bool[np.ndarray, "S P"]
    confidence: Float[np.ndarray, "S P"]
    pictures: UInt8[np.ndarray, "S H W 3"]
    final: Int64[np.ndarray, " P"]
    again: Int64[np.ndarray, " P"]
    alone: UInt8[np.ndarray, "H W 3"]
    rivals: Int64[np.ndarray, "P K"]
    odds: Float[np.ndarray, "P K"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of a request: h frames and their tokens; where it was watched, the inside of each.

    `place`: the size of the batch, and the row in it. Sums are rounded a little differently at another place.
    """

    frames: UInt8[np.ndarray, "h H W 3"]
    tokens: Int64[Tensor, "h P"]
    inside: list[Inside]
    place: tuple[int, int]


class Engine:
    """Steps games of a world in batches."""

    def __init__(self, dynamics: Dynamics) -> None:
        self.dynamics = dynamics
        self.grid = dynamics.video_tokenizer.grid

    @torch.inference_mode()
    def tokenize(self, frames: UInt8[np.ndarray, "T H W 3"]) -> ClipTokens:
        """A scene's last frames, as many as are seen, as tokens (1, T, P)."""
        clip = torch.from_numpy(np.ascontiguousarray(frames[None, -self.dynamics.context_length :]))
        return self.dynamics.tokenize(normalize(clip.to(self.dynamics.device)))

    @torch.inference_mode()
    def run(self, requests: Sequence[Request]) -> list[Result]:
        """What comes of requests that are all alike (see `Request.alike`), in one batch."""
        settings, watched = requests[0].settings, requests[0].watched
        seen = ClipTokens(*(torch.cat(parts) for parts in zip(*(request.seen for request in requests), strict=True)))
        guesses: list[Guess] = []
        count, codes = 1, None
        if requests[0].action is not None:
            count = settings.horizon
            actions = torch.tensor([[request.action] * count for request in requests], device=seen.tokens.device)
            seen, codes = self.dynamics.advance(
                seen,
                actions,
                decoding=settings.decoding,
                generator=[request.generator() for request in requests],
                watch=guesses.append if watched else None,
            )
        frames = as_pictures(self.dynamics.render(seen.tokens, count=count, codes=codes))
        inside = self._inside(seen, frames, guesses, settings.decoding.temperature) if watched else [[]] * len(requests)
        return [
            # A view would keep the whole batch in memory.
            Result(frames=frames[n], tokens=seen.tokens[n, -count:].clone(), inside=inside[n], place=(len(requests), n))
            for n in range(len(requests))
        ]

    def _inside(
        self,
        seen: ClipTokens,
        frames: UInt8[np.ndarray, "B h H W 3"],
        guesses: Sequence[Guess],
        temperature: float,
    ) -> list[list[Inside]]:
        """For each game and frame."""
        batch, count, height, width, _ = frames.shape
        tokenizer = self.dynamics.video_tokenizer
        clips = normalize(torch.from_numpy(frames).to(seen.tokens.device))
        again = tokenizer.tokenize(clips)
        alone = as_pictures(tokenizer.detokenize(again))
        shape = (0, batch, count, tokenizer.num_patches)
        tokens, hidden = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        confidence, pictures = np.zeros(shape, np.float32), np.zeros((0, batch, count, height, width, 3), np.uint8)
        rivals, odds = np.zeros((*shape[1:], 0), np.int64), np.zeros((*shape[1:], 0), np.float32)
        if guesses:
            steps = [guess[:3] for guess in guesses]
            tokens, hidden, confidence = (torch.stack(part).cpu().numpy() for part in zip(*steps, strict=True))
            odds, rivals = likeliest(guesses, temperature=temperature)
            before = seen.tokens[:, :-count]
            windows = [torch.cat([before, guess.tokens], dim=1) for guess in guesses]
            pictures = np.stack([as_pictures(self.dynamics.render(window, count=count)) for window in windows])
        return [
            [
                Inside(
                    tokens=tokens[:, game, frame],
                    hidden=hidden[:, game, frame],
                    confidence=confidence[:, game, frame],
                    pictures=pictures[:, game, frame],
                    final=seen.tokens[game, frame - count].cpu().numpy(),
                    again=again[game, frame].cpu().numpy(),
                    alone=alone[game, frame],
                    rivals=rivals[game, frame],
                    odds=odds[game, frame],
                )
                for frame in range(count)
            ]
            for game in range(batch)
        ]


def likeliest(
    guesses: Sequence[Guess], *, temperature: float
) -> tuple[Float[np.ndarray, "B N P K"], Int64[np.ndarray, "B N P K"]]:
    """Probabilities and tokens of the `RIVALS` likeliest at each position, in the step that kept one of them."""
    kept = torch.stack([guess.hidden for guess in guesses]).sum(0)  # as many steps left it hidden
    logits = torch.zeros_like(guesses[0].logits)
    for step, guess in enumerate(guesses):
        logits = torch.where((kept == step).unsqueeze(-1), guess.logits, logits)
    best = distribution(logits, temperature=temperature).topk(min(RIVALS, logits.shape[-1]))
    return best.values.cpu().numpy(), best.indices.cpu().numpy()
