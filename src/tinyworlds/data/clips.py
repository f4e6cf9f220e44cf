"""Windows of frames: where they begin, which are held out."""

from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from tinyworlds.data.frames import Frames

# Frames held out in one piece where a file is one long episode.
HELD_OUT_BLOCK = 500


def normalize(frames: UInt8[Tensor, "B T H W C"]) -> Float[Tensor, "B T C H W"]:
    """Frames as stored to frames as models see them: channels first, in [-1, 1]."""
    return rearrange(frames, "b t h w c -> b t c h w").float().div_(127.5).sub_(1)


def to_uint8(frames: Float[Tensor, "*batch C H W"]) -> UInt8[Tensor, "*batch H W C"]:
    """The inverse of `normalize` for any leading axes; values outside [-1, 1] are clamped."""
    pixels = ((frames.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(pixels, "... c h w -> ... h w c")


def split_spans(
    episode_starts: Int64[np.ndarray, " episodes"], num_frames: int, val_fraction: float
) -> tuple[Int64[np.ndarray, "train 2"], Int64[np.ndarray, "val 2"]]:
    """Spans [start, stop) of frames to train on and to validate on; together they are all frames, each once.

    Episodes are held out whole, spread evenly over the recording. Of a single episode, the ends of equal
    sections are held out. The split depends on nothing else, so that every stage holds out the same frames
    whatever its clip length.
    """
    borders = np.append(episode_starts, num_frames)
    if len(episode_starts) == 1:
        return _split_one_episode(num_frames, val_fraction)
    count = min(max(1, round(len(episode_starts) * val_fraction)), len(episode_starts) - 1)
    held_out = np.zeros(len(episode_starts), bool)
    held_out[((np.arange(count) + 0.5) * len(episode_starts) / count).astype(np.int64)] = True
    spans = np.stack([borders[:-1], borders[1:]], axis=1)
    return spans[~held_out], spans[held_out]


def _split_one_episode(
    num_frames: int, val_fraction: float
) -> tuple[Int64[np.ndarray, "sections 2"], Int64[np.ndarray, "sections 2"]]:
    sections = max(1, round(num_frames * val_fraction / HELD_OUT_BLOCK))
    borders = np.linspace(0, num_frames, sections + 1).round().astype(np.int64)
    held_out = np.maximum(1, (np.diff(borders) * val_fraction).round().astype(np.int64))
    cuts = borders[1:] - held_out
    return np.stack([borders[:-1], cuts], axis=1), np.stack([cuts, borders[1:]], axis=1)


class Clips(Dataset[UInt8[Tensor, "T H W 3"]]):
    """Windows of `length` consecutive frames that begin every `stride` frames of each span.

    Memory grows with the number of spans, not with the number of clips.
    """

    def __init__(self, store: Frames, spans: Int64[np.ndarray, "spans 2"], *, length: int, stride: int) -> None:
        self._store = store
        self._starts = spans[:, 0]
        self.length = length
        self._stride = stride
        counts = np.maximum(0, (spans[:, 1] - spans[:, 0] - length) // stride + 1)
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def start(self, index: int | np.ndarray) -> np.ndarray:
        """The first frame of clip `index`, elementwise."""
        span = np.searchsorted(self._ends, index, side="right")
        return np.asarray(self._starts[span] + (index - self._begins[span]) * self._stride)

    def __getitems__(self, indices: Sequence[int]) -> UInt8[Tensor, "B T H W 3"]:
        """A batch in one read; a DataLoader with batches prefers this to `__getitem__`."""
        return torch.from_numpy(self._store.read_clips(self.start(np.asarray(indices)), self.length))

    def __getitem__(self, index: int) -> UInt8[Tensor, "T H W 3"]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.__getitems__([index])[0]


def spread_starts(
    spans: Int64[np.ndarray, "spans 2"], *, count: int, length: int, seed: int
) -> Int64[np.ndarray, " count"]:
    """First frames of `count` windows of `length` frames: one at random from each of as many equal parts.

    Raises:
        ValueError: no span is long enough.
    """
    possible = np.maximum(0, spans[:, 1] - spans[:, 0] - length + 1)
    ends = np.cumsum(possible)
    if not len(ends) or ends[-1] == 0:
        longest = int((spans[:, 1] - spans[:, 0]).max(initial=0))
        raise ValueError(
            f"no held-out episode has {length} frames, the longest has {longest}: ask for less with frames= or prompt="
        )
    parts = (np.arange(count) + np.random.default_rng(seed).random(count)) / count
    positions = (parts * ends[-1]).astype(np.int64)
    span = np.searchsorted(ends, positions, side="right")
    return np.asarray(spans[span, 0] + positions - (ends - possible)[span])
