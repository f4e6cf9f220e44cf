"""MaskGIT (Chang et al., arXiv 2202.04200): decoding by unmasking in steps."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tinyworlds.data.settings import check_choice, check_number, check_whole, filled
from tinyworlds.orders import ORDERS, Noise, fixed_order, shaken

EXPONENT = 5.0
LEAST_TEMPERATURE = 1e-6
MOST_TEMPERATURE = 1e6
MOST_GUIDANCE = 100

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
    check_choice("decoding.schedule", schedule, SCHEDULES)
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
    """How a frame is decoded.

    Each of `steps` samples every hidden token at `temperature` (0: the likeliest), from the `top_k` likeliest (0: all)
    and of these from as few as have `top_p` of the probability, and from those as likely as the last. As many as
    `schedule` says are kept, in the `order` of ``confidence``, the surest first; of a ``random`` order, another one
    each time; or of ``halton``, in which any number of the first lie evenly over the frame (`tinyworlds.orders`).
    Confidence can be shaken: `choice_temperature`, falling to 0 over the steps, times Gumbel noise is added to its
    logarithm (MaskGIT's code).

    What the action changes in the logits, against their mean over all actions, is added `guidance` times more
    (classifier-free guidance, Ho & Salimans, arXiv 2207.12598, without a model that is not told the action).

    A frame is shown (`show`) by the tokens ``taken``, or by what was ``expected`` of each: the mean code of
    all that could have been taken, so that what is not sure is blurred. The world goes on from those taken either way.

    Raises `ValueError` for an impossible value, and for noise on a confidence that is not asked.
    """

    steps: int
    schedule: str
    temperature: float
    order: str
    choice_temperature: float
    top_k: int
    top_p: float
    guidance: float
    show: str

    earlier: ClassVar[Mapping[str, Any]] = {
        "order": "confidence",
        "choice_temperature": 0,
        "top_k": 0,
        "top_p": 1,
        "guidance": 0,
        "show": "taken",
    }
    """Of checkpoints from before there was a choice."""

    def __post_init__(self) -> None:
        for name, check in CHECKS.items():
            check(f"decoding.{name}", getattr(self, name))
        if self.choice_temperature and self.order != "confidence":
            raise ValueError(
                f"decoding.choice_temperature={self.choice_temperature} is for decoding.order=confidence: "
                f"with decoding.order={self.order} give 0"
            )

    @classmethod
    def completed(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options in a checkpoint, with what those from before there were so many leave unsaid."""
        return filled(options, cls.earlier)

    def changed(self, **others: Any) -> Self:
        """With other values, where they are not None."""
        return replace(self, **{name: value for name, value in others.items() if value is not None})


def chosen_decoding(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the `options` of a command those of `Decoding`, None where nothing is chosen.

    Raises:
        ValueError: one of them is impossible.
    """
    chosen = {name: options[name] for name in CHECKS}
    for name, value in chosen.items():
        if value is not None:
            CHECKS[name](name, value)
    return chosen


def _check_top_p(name: str, value: Any) -> None:
    check_number(name, value, at_least=0, at_most=1)
    if value == 0:
        raise ValueError(f"{name}=0 leaves no token: give a share above 0")


CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "steps": partial(check_whole, at_least=1),
    "schedule": partial(check_choice, choices=SCHEDULES),
    "temperature": partial(check_number, at_least=0, at_most=MOST_TEMPERATURE),
    "order": partial(check_choice, choices=ORDERS),
    "choice_temperature": partial(check_number, at_least=0, at_most=MOST_TEMPERATURE),
    "top_k": partial(check_whole, at_least=0),
    "top_p": _check_top_p,
    "guidance": partial(check_number, at_least=0, at_most=MOST_GUIDANCE),
    "show": partial(check_choice, choices=("taken", "expected")),
}
"""Of each value of `Decoding`."""


Predict = Callable[[Int64[Tensor, "B N P"], Bool[Tensor, "B N P"]], Float[Tensor, "B N P V"]]
"""Tokens of the frames being decoded, and which of them are hidden still, to logits."""


class Guess(NamedTuple):
    """What a decoding step leaves: tokens, of which the `hidden` ones are its guesses that it did not keep.

    `confidence` of a token is the probability that it had when it was last guessed; `logits` are those of this step.
    """

    tokens: Int64[Tensor, "B N P"]
    hidden: Bool[Tensor, "B N P"]
    confidence: Float[Tensor, "B N P"]
    logits: Float[Tensor, "B N P V"]


class Expectation:
    """A `watch` on decoding that tells what was expected of each token when it was last guessed, as a mean of codes.

    Another `watch` is told what it is told.
    """

    def __init__(
        self, vocabulary: Float[Tensor, "V L"], *, decoding: Decoding, watch: Callable[[Guess], None] | None = None
    ) -> None:
        self.vocabulary = vocabulary
        self.decoding = decoding
        self.watch = watch
        self.codes: Float[Tensor, "B N P L"]
        self._hidden: Bool[Tensor, "B N P"] | None = None

    def __call__(self, guess: Guess) -> None:
        every = distribution(guess.logits, temperature=self.decoding.temperature)
        eligible = truncated(every, top_k=self.decoding.top_k, top_p=self.decoding.top_p)
        mean = eligible @ self.vocabulary / eligible.sum(-1, keepdim=True)
        self.codes = mean if self._hidden is None else torch.where(self._hidden.unsqueeze(-1), mean, self.codes)
        self._hidden = guess.hidden
        if self.watch is not None:
            self.watch(guess)


def decode(
    predict: Predict,
    shape: tuple[int, int, int, int],
    *,
    decoding: Decoding,
    generator: Noise = None,
    device: torch.device | None = None,
    watch: Callable[[Guess], None] | None = None,
) -> Int64[Tensor, "B N P"]:
    """Decode B times N fully hidden frames of P = Hp x Wp tokens, (B, N, Hp, Wp) being the `shape`.

    Each step samples every hidden token and keeps as many as `reveal_counts` says, the first in the order of
    `decoding`, chosen among all N frames at once. Every token is revealed exactly once. `watch` is told after each
    step.
    """
    batch, horizon, total = *shape[:2], math.prod(shape[1:])
    tokens = torch.zeros(batch, total, dtype=torch.int64, device=device)
    hidden = torch.ones(batch, total, dtype=torch.bool, device=device)
    believed = torch.zeros(batch, total, device=device)
    counts = reveal_counts(total, steps=decoding.steps, schedule=decoding.schedule)
    fixed = fixed_order(shape, decoding.order, generator=generator, device=device)
    for step, count in enumerate(counts, start=1):
        logits = predict(
            rearrange(tokens, "b (h p) -> b h p", h=horizon), rearrange(hidden, "b (h p) -> b h p", h=horizon)
        )
        sampled, confidence = sample(rearrange(logits, "b h p v -> b (h p) v"), decoding=decoding, generator=generator)
        if watch is not None:
            believed = torch.where(hidden, confidence, believed)
        noise = decoding.choice_temperature * (1 - step / len(counts))
        merit = shaken(confidence, noise, generator) if fixed is None else fixed
        kept = merit.masked_fill(~hidden, -math.inf).topk(count, dim=-1).indices
        tokens.scatter_(1, kept, sampled.gather(1, kept))
        hidden.scatter_(1, kept, False)
        if watch is not None:
            guess = (torch.where(hidden, sampled, tokens), hidden.clone(), believed)
            seen, unkept, sure = (rearrange(part, "b (h p) -> b h p", h=horizon) for part in guess)
            watch(Guess(seen, unkept, sure, logits))
    return rearrange(tokens, "b (h p) -> b h p", h=horizon)


def sample(
    logits: Float[Tensor, "B K V"], *, decoding: Decoding, generator: Noise
) -> tuple[Int64[Tensor, "B K"], Float[Tensor, "B K"]]:
    """A token for each position, and the probability it had among all; at temperature 0 the likeliest one."""
    probabilities = distribution(logits, temperature=decoding.temperature)
    if decoding.temperature == 0:
        confidence, tokens = probabilities.max(-1)
        return tokens, confidence
    eligible = truncated(probabilities, top_k=decoding.top_k, top_p=decoding.top_p)
    if isinstance(generator, Sequence):
        rows = [torch.multinomial(row, 1, generator=own) for row, own in zip(eligible, generator, strict=True)]
        tokens = torch.stack(rows).squeeze(-1)
    else:
        flat = torch.multinomial(rearrange(eligible, "b k v -> (b k) v"), 1, generator=generator)
        tokens = rearrange(flat, "(b k) 1 -> b k", b=logits.shape[0])
    return tokens, probabilities.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def truncated(probabilities: Float[Tensor, "*batch V"], *, top_k: int, top_p: float) -> Float[Tensor, "*batch V"]:
    """0 but for the `top_k` likeliest tokens (0: all), and of them as few as have `top_p` of the probability.

    The latter is nucleus sampling (Holtzman et al., arXiv 1904.09751). Tokens as likely as the last of them stay too.
    """
    if not top_k and top_p == 1:
        return probabilities
    best = descending(probabilities)
    count = (best.cumsum(-1) - best < top_p).sum(-1, keepdim=True).clamp(1, top_k or None)
    return probabilities.masked_fill(probabilities < best.gather(-1, count - 1), 0)


def descending(values: Float[Tensor, "*batch V"]) -> Float[Tensor, "*batch V"]:
    """The greatest first; on a CPU by NumPy, which sorts float32 several times as fast there."""
    if values.device.type == "cpu" and values.dtype == torch.float32:
        return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1)).flip(-1)
    return values.sort(dim=-1, descending=True).values


def distribution(logits: Float[Tensor, "*batch V"], *, temperature: float) -> Float[Tensor, "*batch V"]:
    """The probability of each token of the vocabulary; at temperature 0 as at 1, the likeliest being taken anyway."""
    # A quotient that is infinite leaves no probabilities; far above that the likeliest is certain already.
    return (logits / max(temperature or 1, LEAST_TEMPERATURE)).softmax(-1)
