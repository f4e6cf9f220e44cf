"""A hidden Markov model: the actions behind motions of which each shows its action and the one before."""

import math
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

STARTS = 8
"""Beginnings that are tried; each leads to the best solution near it alone."""
TRIED = 30
"""Rounds of expectation and maximization after which the likeliest of them is chosen."""
ROUNDS = 150
"""Of these in all, after which models of so few actions no longer change."""
PRIOR = 0.5
"""Times that every action, every pair of them and every code with each is taken to have come besides."""
STAY = 0.6
"""How likely an action is to be held, over chance, where the search begins."""
BEFORE = 0.8
"""How much the action before shows in a code, against the action itself, where the search begins."""


class HiddenActions(NamedTuple):
    """A Markov chain of K actions, and how likely each of the V codes of M readers is between two of its states.

    Things have inertia, and what a key does begins a moment after it was pressed: so what moves between two frames
    tells of this action and of the one before. Codes are therefore emitted by the arcs of the chain, not by its states
    (Jelinek, Continuous speech recognition by statistical methods, 1976). What the readers read is not independent
    even then, so their likelihoods count to the power of 1/√M, between that of one reader and that of M.
    """

    prior: Float[Tensor, " K"]
    """Of the action before the first code."""
    following: Float[Tensor, "K K"]
    """Of each action after each."""
    codes: Float[Tensor, "K K M V"]
    """Of each reader's codes while an action (the second) follows another (the first)."""

    @classmethod
    def undecided(cls, actions: int, *, readers: int, vocabulary: int) -> Self:
        """One that has seen nothing."""
        shares = torch.full((actions,), 1 / actions)
        codes = torch.full((actions, actions, readers, vocabulary), 1 / vocabulary)
        return cls(shares, shares.repeat(actions, 1), codes)

    @property
    def held(self) -> Int64[Tensor, "K M"]:
        """The likeliest code of each reader while an action goes on."""
        actions = torch.arange(len(self.prior), device=self.prior.device)
        return self.codes[actions, actions].argmax(-1)

    def read(self, codes: Int64[Tensor, "B T M"]) -> Int64[Tensor, "B T"]:
        """The likeliest action of each moment, by the codes, in 0 … V-1, before it and after it."""
        exact = type(self)(*(part.double() for part in self))
        arcs = exact._arcs(F.one_hot(codes, self.codes.shape[-1]).double())[0].unbind(1)
        before, after = [exact.prior.expand(len(codes), -1)], [torch.ones_like(exact.prior)]
        for forth, back in zip(arcs, arcs[::-1], strict=True):
            before.append(_shares((before[-1].unsqueeze(-1) * forth).sum(-2)))
            after.append(_shares((back * after[-1].unsqueeze(-2)).sum(-1)))
        likely = [known * later for known, later in zip(before[1:], after[-2::-1], strict=True)]
        return torch.stack(likely, dim=1).argmax(-1)

    @classmethod
    def fit(cls, codes: Int64[Tensor, "N T M"], *, vocabulary: int, actions: int, generator: torch.Generator) -> Self:
        """What best explains runs of codes, in 0 … V-1: the Baum-Welch algorithm, on the CPU in float64.

        Of several beginnings the one goes on that got furthest (Biernacki et al., Choosing starting values for the
        EM algorithm, 2003). The commonest action is the first.
        """
        came = F.one_hot(codes.cpu(), vocabulary).double()
        tried = []
        for _ in range(STARTS):
            model = cls._beginning(actions, readers=codes.shape[-1], vocabulary=vocabulary, generator=generator)
            for _ in range(TRIED):
                model, likelihood = model._improved(came)
            tried.append((float(likelihood), model))
        found = max(tried, key=lambda one: one[0])[1]
        for _ in range(ROUNDS - TRIED):
            found, _ = found._improved(came)
        order = (found.prior @ found.following).argsort(descending=True)
        return cls(found.prior[order], found.following[order][:, order], found.codes[order][:, order])

    @classmethod
    def _beginning(cls, actions: int, *, readers: int, vocabulary: int, generator: torch.Generator) -> Self:
        each = torch.rand((actions, readers, vocabulary), generator=generator, dtype=torch.float64).pow(3) + 0.02
        # Of alike weight, an action that shows in one code alone could as well be taken for the one that comes next.
        of_arcs = BEFORE * each.unsqueeze(1) + each
        stay = STAY * torch.eye(actions, dtype=torch.float64) + (1 - STAY) / actions
        return cls(torch.full((actions,), 1 / actions, dtype=torch.float64), stay, _shares(of_arcs))

    def _arcs(self, came: Float[Tensor, "N T M V"]) -> tuple[Float[Tensor, "N T K K"], Float[Tensor, "N T"]]:
        """How likely each next action is together with the codes that came, given the action before; and by the
        logarithm of what all are divided."""
        reading = self.codes.log().flatten(2) / math.sqrt(came.shape[2])
        told = torch.einsum("ntx,ijx->ntij", came.flatten(2), reading)
        scale = told.amax((-2, -1))
        return self.following * (told - scale[..., None, None]).exp(), scale

    def _improved(self, came: Float[Tensor, "N T M V"]) -> tuple[Self, Float[Tensor, ""]]:
        """One round of expectation and maximization, and the log-likelihood of the model before it."""
        each, scale = self._arcs(came)
        arcs = each.unbind(1)
        before, totals = [self.prior.expand(len(came), -1)], []
        for arc in arcs:
            likely = (before[-1].unsqueeze(-1) * arc).sum(-2)
            totals.append(likely.sum(-1, keepdim=True))
            before.append(likely / totals[-1])
        after, taken = torch.ones_like(before[-1]), []
        for arc, total, likely in zip(arcs[::-1], totals[::-1], before[-2::-1], strict=True):
            path = arc * (after / total).unsqueeze(-2)
            taken.append(likely.unsqueeze(-1) * path)
            after = path.sum(-1)
        shares = torch.stack(taken[::-1], dim=1)
        counts = (
            (before[0] * after).sum(0),
            shares.sum((0, 1)),
            torch.einsum("ntij,ntmv->ijmv", shares, came),
        )
        improved = type(self)(*(_shares(part + PRIOR) for part in counts))
        return improved, torch.cat(totals, dim=-1).log().sum() + scale.sum()


def _shares(parts: Float[Tensor, "*S K"]) -> Float[Tensor, "*S K"]:
    return parts / parts.sum(-1, keepdim=True)
