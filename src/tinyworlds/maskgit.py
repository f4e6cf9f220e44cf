"""MaskGIT (Chang et al., arXiv 2202.04200): which tokens training hides, and decoding by unmasking in steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tinyworlds import parallel
from tinyworlds.data.settings import check_number, check_whole

EXPONENT = 5.0
LEAST_TEMPERATURE = 1e-6

SCHEDULES: dict[str, Callable[[float], float]] = {
    "exponential": lambda progress: math.expm1(EXPONENT * progress) / math.expm1(EXPONENT),
    "cosine": lambda progress: 1 - math.cos(math.pi / 2 * progress),
    "linear": lambda progress: progress,
}
"""Share of the tokens that a step brings the revealed ones to, by the share of steps before it; from 0 to 1."""


def reveal_counts(total: int, *, steps: int, schedule: str) -> list[int]:
    """How many of `total` hidden tokens each decoding step reveals: at least a 16th of them, `total` in all.

    Steps that would find nothing left are not listed: there are never more than about 16. The floor, and a
    schedule read at the beginning of each step, are those of the public TinyWorlds.

    Raises:
        ValueError: unknown `schedule`, or fewer than one step or token.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"decoding.schedule={schedule!r} is none of {', '.join(SCHEDULES)}")
    if steps < 1 or total < 1:
        raise ValueError(f"decoding.steps={steps}: decoding {total} tokens needs at least 1 step and 1 token")
    least = max(total // 16, 1)
    counts: list[int] = []
    revealed = 0
    for step in range(steps):
        aim = total if step == steps - 1 else math.ceil(total * SCHEDULES[schedule](step / steps))
        count = min(max(aim - revealed, least), total - revealed)
        if count:
            counts.append(count)
        revealed += count
    return counts


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a frame is decoded: `steps`, `schedule` of reveals, sampling `temperature` (0: the likeliest)."""

    steps: int
    schedule: str
    temperature: float

    def __post_init__(self) -> None:
        check_whole("decoding.steps", self.steps, at_least=1)
        check_number("decoding.temperature", self.temperature, at_least=0, at_most=1e6)
        reveal_counts(1, steps=self.steps, schedule=self.schedule)


Predict = Callable[[Int64[Tensor, "B N P"], Bool[Tensor, "B N P"]], Float[Tensor, "B N P V"]]
"""Tokens of the frames being decoded, and which of them are hidden still, to logits."""


Noise = torch.Generator | Sequence[torch.Generator] | None
"""What sampling draws from: one generator for a whole batch, or one for each of its B, whoever else is in it."""


class Guess(NamedTuple):
    """What a decoding step leaves: tokens, of which the `hidden` ones are its guesses that it did not keep.

    `confidence` of a token is the probability that it had when it was last guessed; `logits` are those of this step.
    """

    tokens: Int64[Tensor, "B N P"]
    hidden: Bool[Tensor, "B N P"]
    confidence: Float[Tensor, "B N P"]
    logits: Float[Tensor, "B N P V"]


def decode(
    predict: Predict,
    shape: tuple[int, int, int],
    *,
    decoding: Decoding,
    generator: Noise = None,
    device: torch.device | None = None,
    watch: Callable[[Guess], None] | None = None,
) -> Int64[Tensor, "B N P"]:
    """Decode B times N fully hidden frames of P tokens.

    Each step samples every hidden token and keeps those it is surest of, as many as `reveal_counts` says,
    chosen among all N frames at once. Every token is revealed exactly once. `watch` is told after each step.
    """
    batch, horizon, patches = shape
    total = horizon * patches
    tokens = torch.zeros(batch, total, dtype=torch.int64, device=device)
    hidden = torch.ones(batch, total, dtype=torch.bool, device=device)
    believed = torch.zeros(batch, total, device=device)
    for count in reveal_counts(total, steps=decoding.steps, schedule=decoding.schedule):
        logits = predict(
            rearrange(tokens, "b (h p) -> b h p", h=horizon), rearrange(hidden, "b (h p) -> b h p", h=horizon)
        )
        sampled, confidence = sample(
            rearrange(logits, "b h p v -> b (h p) v"), temperature=decoding.temperature, generator=generator
        )
        if watch is not None:
            believed = torch.where(hidden, confidence, believed)
        surest = confidence.masked_fill(~hidden, -1).topk(count, dim=-1).indices
        tokens.scatter_(1, surest, sampled.gather(1, surest))
        hidden.scatter_(1, surest, False)
        if watch is not None:
            guess = (torch.where(hidden, sampled, tokens), hidden.clone(), believed)
            seen, unkept, sure = (rearrange(part, "b (h p) -> b h p", h=horizon) for part in guess)
            watch(Guess(seen, unkept, sure, logits))
    return rearrange(tokens, "b (h p) -> b h p", h=horizon)


def sample(
    logits: Float[Tensor, "B K V"], *, temperature: float, generator: Noise
) -> tuple[Int64[Tensor, "B K"], Float[Tensor, "B K"]]:
    """A token for each position, and the probability it had; at temperature 0 the likeliest one."""
    probabilities = distribution(logits, temperature=temperature)
    if temperature == 0:
        confidence, tokens = probabilities.max(-1)
        return tokens, confidence
    if isinstance(generator, Sequence):
        rows = [torch.multinomial(row, 1, generator=own) for row, own in zip(probabilities, generator, strict=True)]
        tokens = torch.stack(rows).squeeze(-1)
    else:
        flat = torch.multinomial(rearrange(probabilities, "b k v -> (b k) v"), 1, generator=generator)
        tokens = rearrange(flat, "(b k) 1 -> b k", b=logits.shape[0])
    return tokens, probabilities.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def distribution(logits: Float[Tensor, "*batch V"], *, temperature: float) -> Float[Tensor, "*batch V"]:
    """The probability of each token of the vocabulary; at temperature 0 as at 1, the likeliest being taken anyway."""
    # A quotient that is infinite leaves no probabilities; far above that the likeliest is certain already.
    return (logits / max(temperature or 1, LEAST_TEMPERATURE)).softmax(-1)


def anchored_mask(
    shape: tuple[int, int, int], *, min_ratio: float, generator: torch.Generator | None, device: torch.device
) -> Bool[Tensor, "B T P"]:
    """Hide a share of a clip's tokens, drawn from [`min_ratio`, 1), but leave each position seen in one frame."""
    batch, frames, patches = shape
    ratio = min_ratio + (1 - min_ratio) * parallel.rand((batch, 1, 1), generator=generator, device=device)
    hidden = parallel.rand(shape, generator=generator, device=device) < ratio
    anchor = parallel.randint(frames, (batch, 1, patches), generator=generator, device=device)
    return hidden.scatter(1, anchor, False)


def frame_mask(
    shape: tuple[int, int, int], *, full: float, generator: torch.Generator | None, device: torch.device
) -> Bool[Tensor, "B T P"]:
    """Hide tokens frame by frame, as decoding does: all with probability `full`, else a share ``cos(π/2 u)``.

    `u` is uniform on [0, 1) (MaskGIT, section 3.3); every frame has a hidden token.
    """
    batch, frames, patches = shape
    ratio = torch.cos(math.pi / 2 * parallel.rand((batch, frames), generator=generator, device=device))
    whole = parallel.rand((batch, frames), generator=generator, device=device) < full
    count = torch.where(whole, patches, (ratio * patches).ceil().clamp(1, patches))
    rank = parallel.rand(shape, generator=generator, device=device).argsort(-1).argsort(-1)
    return rank < count.unsqueeze(-1)


def replace_some(
    tokens: Int64[Tensor, "B T P"], *, share: float, generator: torch.Generator | None
) -> Int64[Tensor, "B T P"]:
    """Tokens, of which in each frame a share drawn from [0, `share`) is another clip's at the same place and time."""
    if not share or parallel.world_size() * len(tokens) < 2:
        return tokens
    batch, frames, patches = tokens.shape
    level = share * parallel.rand((batch, frames, 1), generator=generator, device=tokens.device)
    replaced = parallel.rand((batch, frames, patches), generator=generator, device=tokens.device) < level
    return torch.where(replaced, parallel.rolled(tokens), tokens)
