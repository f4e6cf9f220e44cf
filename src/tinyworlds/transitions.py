"""Held-out frames through a tokenizer: which action lies between each two, how well frames are rebuilt."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8
from torch import Tensor
from torchmetrics.image import StructuralSimilarityIndexMeasure

from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.clips import Clips, normalize
from tinyworlds.metrics import CodeUsage, Flicker, MovingPSNR, moving_since_last
from tinyworlds.models import ActionTokenizer, VideoTokenizer
from tinyworlds.models.stage import as_pictures, validation_psnr
from tinyworlds.probe import Probe
from tinyworlds.progress import track

BATCH = 32
"""Windows of frames at once."""
PIECE = 500
"""Frames of an episode at once."""


@dataclass(frozen=True, kw_only=True)
class Transitions:
    """Every held-out transition, in the order of the store, each once; for all but the last few of an episode.

    `before`: index in the store of the frame before it. `episode`: number of its span of held-out frames.
    `codes`: the action that an action tokenizer infers. `read`: the true action that a probe names; empty without one.
    """

    before: Int64[np.ndarray, " n"]
    episode: Int64[np.ndarray, " n"]
    codes: Int64[np.ndarray, " n"]
    read: Int64[np.ndarray, " m"]


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """What a video tokenizer keeps of the frames after each of the same transitions.

    `quality`: ``psnr``, ``psnr_moving``, ``ssim``, and of its tokens ``used``, ``perplexity``, ``flicker``. `read`:
    the true action that a probe names from the rebuilt frames; empty without one.
    """

    quality: dict[str, float]
    read: Int64[np.ndarray, " m"]


def held_out_transitions(
    tokenizer: ActionTokenizer, data: ClipDataModule, probe: Probe | None, *, length: int
) -> Transitions:
    """The transitions within windows of `length` held-out frames, neighbours sharing a frame.

    Raises:
        ValueError: no held-out episode has so many frames.
    """
    windows = _windows(data, length)
    first = windows.start(np.arange(len(windows)))
    before = (first[:, None] + np.arange(length - 1)).flatten()
    read = [] if probe is None else [_read(probe, frames.numpy()) for frames in _batches(windows, "reading actions")]
    return Transitions(
        before=before,
        episode=np.searchsorted(data.held_out_spans[:, 0], before, side="right") - 1,
        codes=_inferred(tokenizer, data)[before],
        read=np.concatenate(read) if read else np.zeros(0, np.int64),
    )


def held_out_reconstructions(
    tokenizer: VideoTokenizer, data: ClipDataModule, probe: Probe | None, *, length: int
) -> Reconstructions:
    """Tokenize and rebuild the windows of `held_out_transitions`.

    Raises:
        ValueError: no held-out episode has so many frames.
    """
    meter = _ReconstructionQuality(tokenizer)
    read = []
    for frames in _batches(_windows(data, length), "rebuilding held-out frames"):
        rebuilt = meter.update(frames)
        if probe is not None:
            read.append(_read(probe, rebuilt))
    return Reconstructions(quality=meter.compute(), read=np.concatenate(read) if read else np.zeros(0, np.int64))


def _windows(data: ClipDataModule, length: int) -> Clips:
    windows = Clips(data.store, data.held_out_spans, length=length, stride=length - 1)
    if not len(windows):
        raise ValueError(f"{data.path}: no held-out episode has the {length} frames that this world sees at a time")
    return windows


def _batches(windows: Clips, label: str) -> Iterator[UInt8[Tensor, "B T H W 3"]]:
    starts = range(0, len(windows), BATCH)
    for start in track(starts, total=len(starts), label=f"{label}, batches"):
        yield windows.__getitems__(range(start, min(start + BATCH, len(windows))))


def _inferred(tokenizer: ActionTokenizer, data: ClipDataModule) -> Int64[np.ndarray, " frames"]:
    """The inferred action after each held-out frame that another follows in its episode; 0 elsewhere.

    Episodes are read in pieces, and before each as many frames as an action may depend on.
    """
    codes = np.zeros(data.store.num_frames, np.int64)
    earlier = tokenizer.dataset["clip_length"] - 2
    for start, stop in data.held_out_spans.tolist():
        for begin in range(start, stop - 1, PIECE):
            end = min(begin + PIECE, stop - 1)
            seen = max(begin - earlier, start)
            codes[begin:end] = tokenizer.infer(data.store.read(seen, end + 1))[begin - seen :]
    return codes


class _ReconstructionQuality:
    """What the video tokenizer keeps of frames, over batches; the first frame of each window is context alone."""

    def __init__(self, tokenizer: VideoTokenizer) -> None:
        self._tokenizer = tokenizer
        self._psnr = validation_psnr()
        self._ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
        self._moving = MovingPSNR()
        self._flicker = Flicker()
        self._usage = CodeUsage(tokenizer.vocabulary)

    @torch.inference_mode()
    def update(self, frames: UInt8[Tensor, "B T H W 3"]) -> UInt8[np.ndarray, "B T H W 3"]:
        """Score the reconstructions of windows of frames; returns them."""
        seen = normalize(frames.to(self._tokenizer.device))
        tokens = self._tokenizer.tokenize(seen)
        rebuilt = self._tokenizer.detokenize(tokens).clamp(-1, 1)
        moved = moving_since_last(seen).cpu()
        flat = [rearrange(x[:, 1:].cpu(), "b t c h w -> (b t) c h w") for x in (rebuilt, seen)]
        self._psnr.update(*flat)
        self._ssim.update(*flat)
        self._moving.update(rebuilt[:, 1:].cpu(), seen[:, 1:].cpu(), moved[:, 1:])
        self._flicker.update(tokens.cpu(), moved, patch_size=self._tokenizer.patch_size)
        self._usage.update(tokens[:, 1:].cpu())
        return as_pictures(rebuilt)

    def compute(self) -> dict[str, float]:
        meters = {"psnr": self._psnr, "ssim": self._ssim, "psnr_moving": self._moving, "flicker": self._flicker}
        usage = self._usage.compute()
        return {name: float(x) for name, x in {**{n: m.compute() for n, m in meters.items()}, **usage}.items()}


def _read(probe: Probe, frames: UInt8[np.ndarray, "B T H W 3"]) -> Int64[np.ndarray, " n"]:
    """The action that the probe names for each transition of each window, in order."""
    before, after = (rearrange(f, "b t h w c -> (b t) h w c") for f in (frames[:, :-1], frames[:, 1:]))
    return probe.read(before, after)
