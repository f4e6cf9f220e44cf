"""Latent class analysis: the hidden classes by which several codes of the same thing agree."""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

ROUNDS = 150
"""Of expectation and maximization, after which classes of as few codes no longer change."""
STARTS = 8
"""The likeliest of so many solutions is taken: each is the best near its beginning alone."""
PRIOR = 0.5
"""Times that every code is taken to have come with every class besides."""


def latent_classes(
    codes: Int64[Tensor, "N M"],
    weights: Float[Tensor, " N"],
    *,
    vocabulary: int,
    classes: int,
    generator: torch.Generator,
) -> tuple[Float[Tensor, " K"], Float[Tensor, "M V K"]]:
    """How likely the hidden classes are, and the codes of each of M readers given the class; logarithms.

    Each reader's code, in 0 … V-1, is taken to depend on the class alone (Lazarsfeld & Henry, Latent Structure
    Analysis, 1968); each row of `codes` came as often as its weight says. Found by expectation maximization (Dempster,
    Laird & Rubin, 1977), on the CPU in float64. The commonest class is the first.
    """
    ways = F.one_hot(codes.cpu(), vocabulary).double().flatten(1)  # N MV
    often = weights.cpu().double()
    shares = torch.rand(STARTS, len(codes), classes, generator=generator, dtype=torch.float64).pow(4) + 1e-6
    shares = shares / shares.sum(-1, keepdim=True)  # most of one class
    for _ in range(ROUNDS):
        prior, tables = _maximized(often.unsqueeze(-1) * shares, ways, readers=codes.shape[1])
        joint = prior.unsqueeze(1) + ways @ tables.flatten(1, 2)
        shares = joint.softmax(-1)
    best = (joint.logsumexp(-1) @ often).argmax()
    order = prior[best].argsort(descending=True)
    return prior[best, order], tables[best][..., order]


def _maximized(
    expected: Float[Tensor, "S N K"], ways: Float[Tensor, "N MV"], *, readers: int
) -> tuple[Float[Tensor, "S K"], Float[Tensor, "S M V K"]]:
    """The likeliest log probabilities, where each row is of each class as often as `expected` says."""
    of_class = expected.sum(1)
    of_code = rearrange(ways.T @ expected, "s (m v) k -> s m v k", m=readers) + PRIOR
    return (of_class / of_class.sum(-1, keepdim=True)).log(), (of_code / of_code.sum(2, keepdim=True)).log()
