"""Several action codecs side by side."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


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
