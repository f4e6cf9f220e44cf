"""Normalization, plain or modulated by the action that led to a frame."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tinyworlds import parallel

EPS = 1e-5


class Condition(NamedTuple):
    """What modulates each frame: a latent of the action that led to it, or of the last ones, where there are any.

    `latents` (B, T, A); `given` (T,): False where no action led to the frame, which is then not modulated.
    """

    latents: Float[Tensor, "B T A"]
    given: Bool[Tensor, " T"]

    def at(self, frames: slice | Int64[Tensor, " n"]) -> "Condition":
        """That of some of the frames."""
        return Condition(self.latents[:, frames], self.given[frames])

    def of(self, clips: Int64[Tensor, " n"]) -> "Condition":
        """That of some of the clips."""
        return Condition(self.latents[clips], self.given)


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) * gain`` (Zhang & Sennrich, arXiv 1910.07467)."""

    def __init__(self, *, embed_dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(embed_dim, eps=EPS)

    def forward(self, x: Float[Tensor, "B T P E"], condition: None = None) -> Float[Tensor, "B T P E"]:
        return self.norm(x)


class FiLM(nn.Module):
    """``(x - μ)/σ · (1 + γ) + β``, γ and β from the action latent of the frame (Perez et al., arXiv 1709.07871)."""

    def __init__(self, *, embed_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.scale_and_shift = nn.Sequential(nn.SiLU(), nn.Linear(condition_dim, 2 * embed_dim))

    def forward(self, x: Float[Tensor, "B T P E"], condition: Condition | None) -> Float[Tensor, "B T P E"]:
        """Normalize `x`; modulate the frames that `condition` gives an action for (None: no frame)."""
        normed = F.layer_norm(x, (self.embed_dim,), eps=EPS)
        if condition is None:
            return normed
        modulation = self.scale_and_shift(condition.latents) * rearrange(condition.given, "t -> t 1")
        scale, shift = modulation.unsqueeze(2).chunk(2, dim=-1)
        return torch.addcmul(shift, normed, 1 + scale)


class AdaLNZero(FiLM):
    """FiLM that begins without any modulation, and gates what a part of a block adds, at first to nothing.

    A block is the identity at the start (DiT, Peebles & Xie, arXiv 2212.09748, section 3.2).
    """

    def __init__(self, *, embed_dim: int, condition_dim: int) -> None:
        super().__init__(embed_dim=embed_dim, condition_dim=condition_dim)
        self.gate = nn.Linear(condition_dim, embed_dim)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def gated(self, update: Float[Tensor, "B T P E"], condition: Condition | None) -> Float[Tensor, "B T P E"]:
        """So much of `update` as is to be added; of a frame that no action led to, as the gate's bias says."""
        if condition is None:
            return self.gate.bias * update
        latents = condition.latents * rearrange(condition.given, "t -> t 1")
        return self.gate(F.silu(latents)).unsqueeze(2) * update


class LatentNorm(nn.Module):
    """Normalize each latent dimension over all tokens of the batch of all ranks (batch normalization, 1502.03167).

    Before rounding it puts latents on both sides of every border between levels, so that training begins
    with codes in use instead of waiting for the first to be told apart.
    """

    def __init__(self, *, latent_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(latent_dim, affine=False)

    def forward(self, latents: Float[Tensor, "*batch L"]) -> Float[Tensor, "*batch L"]:
        flat = latents.flatten(0, -2)
        # torch's own, `SyncBatchNorm`, is for GPUs alone.
        together = self.training and parallel.world_size() > 1
        normed: Tensor = self._over_ranks(flat) if together else self.norm(flat)
        return normed.view(latents.shape)

    def _over_ranks(self, latents: Float[Tensor, "N L"]) -> Float[Tensor, "N L"]:
        """What `norm` does in training, over the tokens of all ranks."""
        norm: Any = self.norm  # typed as if it might keep no statistics
        latents32 = latents.float()
        mean, variance = parallel.moments_of_rows(latents32)
        count = parallel.world_size() * len(latents)
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
        return ((latents32 - mean) * (variance + norm.eps).rsqrt()).to(latents.dtype)


FILM = "film"
"""The published conditioning, and that of checkpoints from before there was a choice."""
MODULATED: dict[str, type[FiLM]] = {FILM: FiLM, "adaln_zero": AdaLNZero}
"""Norms by the conditioning that modulates them."""


def norm_for(*, embed_dim: int, condition_dim: int | None, conditioning: str) -> RMSNorm | FiLM:
    """The one of `MODULATED` where there is something to be conditioned on, `RMSNorm` where not."""
    if condition_dim is None:
        return RMSNorm(embed_dim=embed_dim)
    return MODULATED[conditioning](embed_dim=embed_dim, condition_dim=condition_dim)
