"""Several action codecs side by side, and the actions that their codes agree on."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tinyworlds import parallel
from tinyworlds.data.settings import check_whole
from tinyworlds.nn.fsq import counted
from tinyworlds.nn.latent_classes import latent_classes

REMEMBERED = 300
"""Batches after which a count has faded to 1/e: codes drift while their encoders learn."""
MAX_WORK = 2**22
"""Combinations of codes, times members, times codes: so many take seconds to be put into classes."""
SEED = 0
"""Of the beginnings from which classes are looked for."""


class CommitteeEncoder(nn.Module):
    """Encoders that differ in their first weights alone, their latents one after the other."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def temporal(self) -> bool:
        """Whether a latent depends on earlier frames than the two it lies between."""
        return any(bool(member.temporal) for member in self.members)

    def forward(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T-1 MA"]:
        return torch.cat([member(frames) for member in self.members], dim=-1)


class CommitteeDecoder(nn.Module):
    """A decoder for the codes of each encoder."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, frames: Float[Tensor, "B T C H W"], codes: Float[Tensor, "B T MA"]) -> Float[Tensor, "B T C H W"]:
        """The mean of what the members predict."""
        return self.each(frames, codes).mean(0)

    def each(self, frames: Float[Tensor, "B T C H W"], codes: Float[Tensor, "B T MA"]) -> Float[Tensor, "M B T C H W"]:
        """What each predicts by its own part of `codes`."""
        parts = codes.chunk(len(self.members), dim=-1)
        return torch.stack([member(frames, part) for member, part in zip(self.members, parts, strict=True)])


class Agreement(nn.Module):
    """Which of `classes` actions a combination of the codes of `members` stands for.

    Each member's code, one of `codes`, is taken to be a noisy reading of one hidden action: what tokenizers that
    differ in nothing but their seeds have in common is the action, and what each has beside it is not. How often
    combinations came together is counted in training, and `fit` finds the classes (see `latent_classes`), without
    any true actions. Combinations are numbered in base `codes`, the first member's code the lowest digit.
    """

    def __init__(self, *, members: int, codes: int, classes: int) -> None:
        super().__init__()
        self.codes = codes
        combinations = codes**members
        self.register_buffer("place", codes ** torch.arange(members), persistent=False)
        self.register_buffer("counts", torch.zeros(combinations))
        self.register_buffer("class_of", torch.arange(combinations) % classes)
        self.register_buffer("typical", torch.arange(classes))
        self.place: Tensor
        self.counts: Tensor
        self.class_of: Tensor
        self.typical: Tensor

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self.check()

    def check(self) -> None:
        """
        Raises:
            ValueError: what was read from a file is no class, or no combination.
        """
        for name, values, limit in (
            ("class_of", self.class_of, len(self.typical)),
            ("typical", self.typical, len(self.counts)),
        ):
            if ((values < 0) | (values >= limit)).any():
                raise ValueError(f"agreement.{name} holds other numbers than 0 to {limit - 1}")
        if not (self.counts >= 0).all():
            raise ValueError("agreement.counts holds negative numbers or none")

    def forward(self, combinations: Int64[Tensor, "*batch"]) -> Int64[Tensor, "*batch"]:
        """The class of each combination."""
        return self.class_of[combinations]

    @torch.no_grad()
    def count(self, combinations: Int64[Tensor, "*batch"]) -> None:
        """Count those of a batch, of all ranks, while the earlier ones fade."""
        came = counted(combinations, len(self.counts))
        self.counts.mul_(1 - 1 / REMEMBERED).add_(parallel.sum_over_ranks(came))

    @torch.no_grad()
    def fit(self) -> None:
        """Find the classes anew, and of each the combination that is likeliest; nothing was counted: leave them."""
        (came,) = self.counts.nonzero(as_tuple=True)
        if not len(came):
            return
        generator = torch.Generator().manual_seed(SEED)
        prior, tables = latent_classes(
            self._codes(came),
            self.counts[came],
            vocabulary=self.codes,
            classes=len(self.typical),
            generator=generator,
        )
        every = self._codes(torch.arange(len(self.counts)))
        joint = prior + sum(table[codes] for table, codes in zip(tables, every.T, strict=True))
        found = joint.argmax(-1)
        own = F.one_hot(found, len(self.typical)).bool()
        self.class_of.copy_(found)
        self.typical.copy_(joint.where(own, -torch.inf).argmax(0))

    def _codes(self, combinations: Int64[Tensor, " N"]) -> Int64[Tensor, "N M"]:
        """Those of the members."""
        return combinations.unsqueeze(-1) // self.place.to(combinations.device) % self.codes


def check_members(members: int, *, codes: int | None, n_actions: int) -> None:
    """
    Raises:
        ValueError: so many members with so many codes have no such classes.
    """
    check_whole("members", members, at_least=1)
    own = n_actions if codes is None else codes
    if members == 1 and own != n_actions:
        raise ValueError(f"codes={codes}: one member's codes are the actions, n_actions={n_actions}; leave it null")
    if members == 2:
        raise ValueError("members=2: of two that differ none is outvoted; give 1, or 3 or more")
    if own < n_actions:
        raise ValueError(f"codes={codes} are fewer than n_actions={n_actions}")
    if members > 1 and own**members * members * own > MAX_WORK:
        raise ValueError(f"members={members} with {own} codes each have {own**members} combinations, too many to count")
