"""Held-out frames through a world's two tokenizers: how well frames are rebuilt, which action lies between each two."""

from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor
from torchmetrics.image import StructuralSimilarityIndexMeasure

from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.clips import Clips, normalize
from tinyworlds.metrics import CodeUsage, MovingPSNR, moving_since_last
from tinyworlds.models.stage import as_pictures, validation_psnr
from tinyworlds.probe import Probe
from tinyworlds.progress import track
from tinyworlds.world import World

BATCH = 32
"""Windows of frames at once."""
PIECE = 500
"""Frames of an episode at once."""


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """Every held-out transition, in the order of the store, each once; for all but the last few of an episode.

    `before`: index in the store of the frame before it. `episode`: number of its span of held-out frames.
    `codes`: the action that the world infers. `read`: the true action that a probe names from the true frames,
    and `reread` from their reconstructions; empty without a probe. `quality` of the frames after each:
    ``psnr``, ``psnr_moving``, ``ssim``, and of their tokens ``used`` and ``perplexity``.
    """

    before: Int64[np.ndarray, " n"]
    episode: Int64[np.ndarray, " n"]
    codes: Int64[np.ndarray, " n"]
    read: Int64[np.ndarray, " m"]
    reread: Int64[np.ndarray, " m"]
    quality: dict[str, float]


def held_out_transitions(world: World, data: ClipDataModule, probe: Probe | None) -> Transitions:
    """Look at held-out frames through windows of as many as the world sees, neighbours sharing a frame.

    Raises:
        ValueError: no held-out episode has so many frames.
    """
    length = world.context_length
    windows = Clips(data.store, data.held_out_spans, length=length, stride=length - 1)
    if not len(windows):
        raise ValueError(f"{data.path}: no held-out episode has the {length} frames that this world sees at a time")
    meter = ReconstructionQuality(world.dynamics.video_tokenizer.vocabulary)
    read, reread = [], []
    starts = range(0, len(windows), BATCH)
    for start in track(starts, total=len(starts), label="reading held-out frames, batches"):
        frames = windows.__getitems__(range(start, min(start + BATCH, len(windows))))
        rebuilt = meter.update(world, frames)
        if probe is not None:
            read.append(_read(probe, frames.numpy()))
            reread.append(_read(probe, rebuilt))
    first = windows.start(np.arange(len(windows)))
    before = (first[:, None] + np.arange(length - 1)).flatten()
    return Transitions(
        before=before,
        episode=np.searchsorted(data.held_out_spans[:, 0], before, side="right") - 1,
        codes=_inferred(world, data)[before],
        read=np.concatenate(read) if read else np.zeros(0, np.int64),
        reread=np.concatenate(reread) if reread else np.zeros(0, np.int64),
        quality=meter.compute(),
    )


def _inferred(world: World, data: ClipDataModule) -> Int64[np.ndarray, " frames"]:
    """The inferred action after each held-out frame that another follows in its episode; 0 elsewhere.

    Episodes are read in pieces, and before each as many frames as an action may depend on.
    """
    codes = np.zeros(data.store.num_frames, np.int64)
    earlier = world.dynamics.action_tokenizer.dataset["clip_length"] - 2
    for start, stop in data.held_out_spans.tolist():
        for begin in range(start, stop - 1, PIECE):
            end = min(begin + PIECE, stop - 1)
            seen = max(begin - earlier, start)
            codes[begin:end] = world.infer(data.store.read(seen, end + 1))[begin - seen :]
    return codes


class ReconstructionQuality:
    """What the video tokenizer keeps of frames, over batches; the first frame of each window is context alone."""

    def __init__(self, vocabulary: int) -> None:
        self._psnr = validation_psnr()
        self._ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
        self._moving = MovingPSNR()
        self._usage = CodeUsage(vocabulary)

    @torch.inference_mode()
    def update(self, world: World, frames: UInt8[Tensor, "B T H W 3"]) -> UInt8[np.ndarray, "B T H W 3"]:
        """Score the reconstructions of windows of frames; returns them."""
        seen = normalize(frames.to(world.dynamics.device))
        tokenizer = world.dynamics.video_tokenizer
        tokens = tokenizer.tokenize(seen)
        rebuilt = tokenizer.detokenize(tokens).clamp(-1, 1)
        moved = moving_since_last(seen)[:, 1:].cpu()
        flat = [rearrange(x[:, 1:].cpu(), "b t c h w -> (b t) c h w") for x in (rebuilt, seen)]
        self._psnr.update(*flat)
        self._ssim.update(*flat)
        self._moving.update(rebuilt[:, 1:].cpu(), seen[:, 1:].cpu(), moved)
        self._usage.update(tokens[:, 1:].cpu())
        return as_pictures(rebuilt)

    def compute(self) -> dict[str, float]:
        meters = {"psnr": self._psnr, "ssim": self._ssim, "psnr_moving": self._moving}
        usage = self._usage.compute()
        return {name: float(x) for name, x in {**{n: m.compute() for n, m in meters.items()}, **usage}.items()}


def _read(probe: Probe, frames: UInt8[np.ndarray, "B T H W 3"]) -> Int64[np.ndarray, " n"]:
    """The action that the probe names for each transition of each window, in order."""
    before, after = (rearrange(f, "b t h w c -> (b t) h w c") for f in (frames[:, :-1], frames[:, 1:]))
    return probe.read(before, after)
