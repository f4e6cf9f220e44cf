"""Convolutional codec of the motion between two frames: what moved is coded, not where.

The encoder reads displacements, summed over all places, and the decoder is a convolution that knows no
positions: so a code can't mean one thing here and another there.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tinyworlds.nn.patches import CHANNELS

STILL = 1e-3
"""Squared change, summed over a pair of frames in [-1, 1], below which there is no motion to speak of."""
FLAT = 1e-6
"""Spread of a correlation over the displacements below which it says nothing of them."""


def check_halves(frame_size: tuple[int, int]) -> None:
    """Refuse a frame that can't be halved three times."""
    height, width = frame_size
    if height % 8 or width % 8:
        raise ValueError(f"the motion codec halves frames three times: {height}x{width} is no multiple of 8")


class MotionEncoder(nn.Module):
    """Pairs of neighbouring frames to one continuous latent each, from how things moved, wherever they are.

    Two kinds of features are computed at every place that changed: of what may have left it and of what may
    have come. Their correlation over the whole frame says how much moved by each displacement of up to
    `reach` pixels, and nothing of where (the correlation layer of FlowNet, arXiv 1504.06852, summed over
    places). With `moments` it is also weighed by how far right and how far down of the centre of all change it
    was: what moves apart, as the walls do when a player walks forward, then differs from what moves together.
    With `equalized` the correlations of each kind of features vary alike over the displacements, so that they say
    which way and nothing of how much there was to be seen: else a code can tell of the wall that comes into view.
    """

    temporal = False
    earlier: ClassVar[Mapping[str, Any]] = {"equalized": False}

    def __init__(
        self,
        *,
        frame_size: tuple[int, int],
        latent_dim: int,
        width: int,
        channels: int,
        reach: int,
        moments: bool,
        equalized: bool,
    ) -> None:
        super().__init__()
        if not 1 <= reach < min(frame_size):
            raise ValueError(f"stage.encoder.reach={reach} must be from 1 to {min(frame_size) - 1} pixels")
        self.reach = reach
        self.moments = moments
        self.equalized = equalized
        self.features = nn.Sequential(
            nn.Conv2d(2 * CHANNELS, width, kernel_size=3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * channels, kernel_size=1),
        )
        displacements = channels * (2 * reach + 1) ** 2 * (3 if moments else 1)
        self.head = nn.Sequential(
            nn.LayerNorm(displacements), nn.Linear(displacements, 64), nn.SiLU(), nn.Linear(64, latent_dim)
        )

    def forward(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T-1 A"]:
        now, change = frames[:, :-1], frames[:, 1:] - frames[:, :-1]
        features = self.features(rearrange(torch.cat([now, change], dim=2), "b t c h w -> (b t) c h w"))
        moved = rearrange(change.abs().amax(dim=2), "b t h w -> (b t) 1 h w")
        left, came = rearrange(features * moved, "n (two k) h w -> two n k h w", two=2)
        if self.moments:
            left = torch.cat([left, *(left * offset for offset in offsets(moved.square()))], dim=1)
            came = came.repeat(1, 3, 1, 1)
        correlation = correlate(left, came, reach=self.reach) / (moved.square().sum((2, 3), keepdim=True) + STILL)
        if self.equalized:
            plain, *weighed = correlation.chunk(3 if self.moments else 1, dim=1)
            spread = plain.std((2, 3), keepdim=True) + FLAT
            correlation = torch.cat([part / spread for part in (plain, *weighed)], dim=1)
        latents: Tensor = self.head(rearrange(correlation.to(features.dtype), "n k y x -> n (k y x)"))
        return rearrange(latents, "(b t) a -> b t a", b=frames.shape[0])


def offsets(mass: Float[Tensor, "N 1 H W"]) -> Float[Tensor, "two N 1 H W"]:
    """How far right, and how far down, each place is of the centre of `mass`, in about -1 to 1."""
    height, width = mass.shape[2:]
    total = mass.sum((2, 3), keepdim=True) + STILL
    columns = torch.linspace(-1, 1, width, device=mass.device).expand(height, width)
    rows = torch.linspace(-1, 1, height, device=mass.device).unsqueeze(1).expand(height, width)
    return torch.stack([place - (place * mass).sum((2, 3), keepdim=True) / total for place in (columns, rows)])


def correlate(
    left: Float[Tensor, "N K H W"], came: Float[Tensor, "N K H W"], *, reach: int
) -> Float[Tensor, "N K D D"]:
    """``out[dy + reach, dx + reach] = sum over y, x of left[y, x] * came[y + dy, x + dx]``, D = 2 reach + 1.

    By the correlation theorem, in Fourier space; the frame is padded so that nothing wraps around.
    """
    height, width = left.shape[2:]
    padded = (height + reach, width + reach)
    # Half precision has no Fourier transform.
    spectrum = torch.fft.rfft2(left.float(), s=padded).conj() * torch.fft.rfft2(came.float(), s=padded)
    shifted = torch.fft.irfft2(spectrum, s=padded).roll((reach, reach), dims=(2, 3))
    return shifted[..., : 2 * reach + 1, : 2 * reach + 1]


def _down(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1)


class ModulatedConv(nn.Module):
    """``x + conv(silu(conv(norm(x)·(1 + γ) + β)))`` with γ, β from the action latent, at every place alike."""

    def __init__(self, *, width: int, latent_dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width, affine=False)
        self.scale_and_shift = nn.Linear(latent_dim, 2 * width)
        self.first = nn.Conv2d(width, width, kernel_size=3, padding=1)
        self.second = nn.Conv2d(width, width, kernel_size=3, padding=1)

    def forward(self, x: Float[Tensor, "N F Y X"], latents: Float[Tensor, "N A"]) -> Float[Tensor, "N F Y X"]:
        scale, shift = rearrange(self.scale_and_shift(latents), "n (two f) -> two n f 1 1", two=2)
        update: Tensor = self.second(F.silu(self.first(self.norm(x) * (1 + scale) + shift)))
        return x + update


class MotionDecoder(nn.Module):
    """Each frame and the one before it, and the action latent, to the change that makes the next frame.

    The frame before shows what moves by itself, so that the code need not tell it. A U-Net of three
    resolutions (Ronneberger et al., arXiv 1505.04597) with the code at each.
    """

    def __init__(self, *, frame_size: tuple[int, int], latent_dim: int, width: int) -> None:
        super().__init__()
        check_halves(frame_size)
        self.down_half = _down(2 * CHANNELS, width)
        self.down_quarter = _down(width, 2 * width)
        self.down_eighth = _down(2 * width, 2 * width)
        self.at_eighth = ModulatedConv(width=2 * width, latent_dim=latent_dim)
        self.at_quarter = ModulatedConv(width=2 * width, latent_dim=latent_dim)
        self.at_half = ModulatedConv(width=width, latent_dim=latent_dim)
        self.up_quarter = nn.Sequential(nn.Conv2d(2 * width, 8 * width, kernel_size=1), nn.PixelShuffle(2))
        self.up_half = nn.Sequential(nn.Conv2d(2 * width, 4 * width, kernel_size=1), nn.PixelShuffle(2))
        self.up = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 4 * CHANNELS, kernel_size=3, padding=1), nn.PixelShuffle(2))
        # The first prediction is that nothing changes.
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, frames: Float[Tensor, "B T C H W"], codes: Float[Tensor, "B T A"]) -> Float[Tensor, "B T C H W"]:
        """For each of `frames`, the frame that follows it under the action `codes`."""
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        pairs = rearrange(torch.cat([frames, frames - before], dim=2), "b t c h w -> (b t) c h w")
        code = rearrange(codes, "b t a -> (b t) a")
        half = self.down_half(pairs)
        quarter = self.down_quarter(F.silu(half))
        eighth = self.at_eighth(self.down_eighth(F.silu(quarter)), code)
        quarter = self.at_quarter(quarter + self.up_quarter(eighth), code)
        half = self.at_half(half + self.up_half(quarter), code)
        change = rearrange(self.up(half), "(b t) c h w -> b t c h w", b=frames.shape[0])
        return frames + change
