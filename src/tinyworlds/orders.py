"""In which order decoding reveals hidden tokens."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

ORDERS = ("confidence", "random", "halton")
"""In which a step reveals hidden tokens: the surest first, or whichever come next in an order that does not ask."""

Noise = torch.Generator | Sequence[torch.Generator] | None
"""What sampling draws from: one generator for a whole batch, or one for each of its B, whoever else is in it."""


@lru_cache(maxsize=8)
def halton_order(rows: int, columns: int) -> Int64[np.ndarray, " P"]:
    """The patches of a frame, row by row, in an order of which any number of the first are spread evenly over it.

    Those in which the points of the Halton sequence of bases 2 and 3 lie, one after the other (Besnier et al., arXiv
    2503.17076). Where one is taken it is the nearest that is free; there the point is left out, and so the last patches
    are left to chance where the grid has awkward sides.
    """
    # Many points lie between two patches: these belong to the latter.
    row, column = (axis.ravel() + 0.5 - 1e-6 for axis in np.indices((rows, columns)))
    order = np.empty(rows * columns, np.int64)
    for place in range(len(order)):
        down, right = rows * _mirrored(place + 1, base=2), columns * _mirrored(place + 1, base=3)
        order[place] = nearest = np.argmin((row - down) ** 2 + (column - right) ** 2)
        row[nearest] = math.inf
    return order


def _mirrored(number: int, *, base: int) -> float:
    """The digits of a whole number behind the point, the last one first."""
    mirrored, place = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        place /= base
        mirrored += digit * place
    return mirrored


def fixed_order(
    shape: tuple[int, int, int, int], order: str, *, generator: Noise, device: torch.device | None
) -> Float[Tensor, "B K"] | None:
    """What is greater the sooner a token comes, frames and patches together; None where confidence decides."""
    batch, horizon, rows, columns = shape
    if order == "random":
        return _uniform((batch, math.prod(shape[1:])), generator, device)
    if order == "halton":
        place = torch.from_numpy(halton_order(rows, columns)).argsort().to(device, torch.float32)
        first = horizon * place + rearrange(torch.arange(horizon, device=device), "h -> h 1")
        return -first.flatten().expand(batch, -1)
    return None


def shaken(confidence: Float[Tensor, "B K"], noise: float, generator: Noise) -> Float[Tensor, "B K"]:
    """Confidence, or its logarithm with so much Gumbel noise."""
    if not noise:
        return confidence
    least = torch.finfo(torch.float32).tiny
    uniform = _uniform(confidence.shape, generator, confidence.device).clamp(min=least)
    return confidence.float().clamp(min=least).log() - noise * (-uniform.log()).log()


def _uniform(shape: tuple[int, ...], generator: Noise, device: torch.device | None) -> Float[Tensor, "B K"]:
    """Uniform on [0, 1), from the generators of each row where each has its own."""
    if isinstance(generator, Sequence):
        return torch.stack([torch.rand(shape[1:], generator=own, device=device) for own in generator])
    return torch.rand(shape, generator=generator, device=device)
