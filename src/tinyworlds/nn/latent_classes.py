"""Latent class analysis: the hidden classes by which several codes of the same thing agree."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ROUNDS = 150
"""Of expectation and maximization, after which classes of as few codes no longer change."""
STARTS = 8
"""The likeliest of so many solutions is taken: each is the best near its beginning alone."""
PRIOR = 0.5
"""Times that every code is taken to have come with every class besides."""


def latent_classes(
    counts: Float[Tensor, "*codes"], *, classes: int, generator: torch.Generator
) -> Int64[Tensor, "*codes"]:
    """The class of each combination of codes, of which `counts` says how often it came.

    Each code is taken to depend on the class alone (Lazarsfeld & Henry, Latent Structure Analysis, 1968). The
    probabilities are found by expectation maximization (Dempster, Laird & Rubin, 1977), on the CPU in float64.
    """
    weights = counts.double().cpu().unsqueeze(0).unsqueeze(-1)
    shape = (STARTS, *counts.shape, classes)
    shares = torch.rand(shape, generator=generator, dtype=torch.float64).pow(4).add(1e-6)  # most of one class
    shares = shares / shares.sum(-1, keepdim=True)
    for _ in range(ROUNDS):
        joint = _log_joint(weights * shares)
        shares = joint.softmax(-1)
    likelihood = (weights.squeeze(-1) * joint.logsumexp(-1)).flatten(1).sum(1)
    return joint[likelihood.argmax()].argmax(-1).to(counts.device)


def _log_joint(expected: Float[Tensor, "S *codes K"]) -> Float[Tensor, "S *codes K"]:
    """The log probability of each combination of codes with each class, from how often they came together."""
    ways = range(1, expected.ndim - 1)
    of_class = expected.sum(tuple(ways), keepdim=True)
    log_joint = of_class.clamp_min(torch.finfo(expected.dtype).tiny).log()
    for way in ways:
        others = tuple(other for other in ways if other != way)
        of_code = (expected.sum(others, keepdim=True) if others else expected) + PRIOR
        log_joint = log_joint + (of_code / of_code.sum(way, keepdim=True)).log()
    return log_joint
