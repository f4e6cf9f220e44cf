"""What a prediction is worth, in pixels, and how a vocabulary is used."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchmetrics import Metric

from tinyworlds import parallel

MOVING = 0.2
"""A pixel moves where it changes by more than this since the frame before: 10% of the range [-1, 1]."""


def moving(
    frames: Float[Tensor, "*batch C H W"], before: Float[Tensor, "*batch C H W"]
) -> Bool[Tensor, "*batch 1 H W"]:
    """Which pixels of `frames` moved, in any channel, since the frames `before` them."""
    return ((frames - before).abs() > MOVING).any(dim=-3, keepdim=True)


def moving_since_last(frames: Float[Tensor, "B T C H W"]) -> Bool[Tensor, "B T 1 H W"]:
    """Which pixels moved since the frame before; none in the first frame."""
    return moving(frames, torch.cat([frames[:, :1], frames[:, :-1]], dim=1))


def pixel_loss(
    predicted: Float[Tensor, "*batch C H W"],
    target: Float[Tensor, "*batch C H W"],
    moved: Bool[Tensor, "*batch 1 H W"],
    *,
    moving_weight: float,
) -> Float[Tensor, ""]:
    """Smooth L1 over the batch of all ranks, in which a pixel that moved counts ``1 + moving_weight`` times.

    Squared error forgets what is one pixel large; in a film that is mostly what moves.
    """
    error = F.smooth_l1_loss(predicted, target, reduction="none")
    return parallel.mean(error * (1 + moving_weight * moved))


def psnr(
    predicted: Float[Tensor, "*batch C H W"],
    target: Float[Tensor, "*batch C H W"],
    where: Bool[Tensor, "*batch 1 H W"] | None = None,
) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio in dB of frames in [-1, 1] (peak 2), over all pixels of all ranks or those in `where`.

    At most 100 dB; NaN where `where` holds no pixel.
    """
    error = (predicted.clamp(-1, 1) - target).square().mean(dim=-3, keepdim=True)
    mean = parallel.mean(error if where is None else error[where])
    return 10 * torch.log10(4 / mean.clamp_min(4e-10))


def frame_quality(
    imagined: Float[Tensor, "N C H W"],
    *,
    copied: Float[Tensor, "N C H W"],
    true: Float[Tensor, "N C H W"],
    before: Float[Tensor, "N C H W"],
) -> dict[str, float | None]:
    """PSNR (dB) of imagined frames and of `copied` ones in their place, of the mean squared error over all frames.

    ``psnr`` and ``copy_psnr``; ``psnr_moving`` and ``copy_psnr_moving`` over the pixels alone that moved since
    the true frame `before`, None where none did.
    """
    moved = moving(true, before)
    every = {
        "psnr": psnr(imagined, true),
        "copy_psnr": psnr(copied, true),
        "psnr_moving": psnr(imagined, true, moved),
        "copy_psnr_moving": psnr(copied, true, moved),
    }
    return {name: float(value) if value.isfinite() else None for name, value in every.items()}


class MovingPSNR(Metric):
    """`psnr` of all the pixels that moved, over batches; NaN where none did."""

    higher_is_better = True
    full_state_update = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("squared", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pixels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.squared: Tensor
        self.pixels: Tensor

    def update(
        self,
        predicted: Float[Tensor, "*batch C H W"],
        target: Float[Tensor, "*batch C H W"],
        moved: Bool[Tensor, "*batch 1 H W"],
    ) -> None:
        error = (predicted.clamp(-1, 1) - target).square().mean(dim=-3, keepdim=True)
        self.squared += error[moved].double().sum()
        self.pixels += moved.sum()

    def compute(self) -> Float[Tensor, ""]:
        return (10 * torch.log10(4 / (self.squared / self.pixels).clamp_min(4e-10))).float()


class Flicker(Metric):
    """The share, 0 … 1, of tokens that change where nothing does; NaN where every patch moves.

    Of the patches none of whose pixels moved since the frame before: those whose token is another than then.
    """

    higher_is_better = False
    full_state_update = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("changed", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("still", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.changed: Tensor
        self.still: Tensor

    def update(self, tokens: Int64[Tensor, "B T P"], moved: Bool[Tensor, "B T 1 H W"], *, patch_size: int) -> None:
        """Count over all frames but the first of each clip; `moved` as of `moving_since_last`."""
        busy = reduce(moved, "b t 1 (hp s1) (wp s2) -> b t (hp wp)", torch.any, s1=patch_size, s2=patch_size)
        still = ~busy[:, 1:]
        self.changed += (still & (tokens[:, 1:] != tokens[:, :-1])).sum()
        self.still += still.sum()

    def compute(self) -> Float[Tensor, ""]:
        return self.changed / self.still


class CodeUsage(Metric):
    """How many of the codes 0 … `vocabulary` - 1 occur, and the perplexity (exp of the entropy) of their use."""

    higher_is_better = True
    full_state_update = False

    def __init__(self, vocabulary: int, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("counts", torch.zeros(vocabulary, dtype=torch.int64), dist_reduce_fx="sum")
        self.counts: Tensor

    def update(self, indices: Int64[Tensor, "*batch"]) -> None:
        self.counts += torch.bincount(indices.flatten(), minlength=len(self.counts))

    def compute(self) -> dict[str, Tensor]:
        """`used`, at most V, and `perplexity`, in 1 … V."""
        return {"used": (self.counts > 0).sum().float(), "perplexity": perplexity(self.counts)}


def perplexity(counts: Int64[Tensor, " V"]) -> Float[Tensor, ""]:
    """Exponential of the entropy of the use of codes, in 1 … V: as many codes, all used alike, are as uncertain."""
    return torch.special.entr(counts / counts.sum()).sum().exp()
