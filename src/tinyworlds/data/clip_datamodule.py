"""Clips of a store in batches: what every dataset's LightningDataModule has.

The loaders give uint8 (B, T, H, W, 3), which is normalized after it has reached the device; the training loader
of the dynamics may give `ClipTokens` instead.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from tinyworlds.data.clips import Clips, normalize, split_spans, spread_starts
from tinyworlds.data.collection import is_pattern, matches, open_frames
from tinyworlds.data.frames import Frames
from tinyworlds.data.loader import ClipLoader, FixedOrder, OwnBatches, ShuffledOrder
from tinyworlds.data.settings import check_number, check_whole
from tinyworlds.data.token_cache import ClipTokenizer, ClipTokens, TokenCache
from tinyworlds.devices import allow_tf32


class ClipDataModule(LightningDataModule):
    """Clips of `clip_length` frames that begin every `clip_stride` frames of the store `path`, or of all it matches.

    Args:
        name: of the dataset, in run folders and checkpoints.
        batch_size: clips in a batch of each process, see `tinyworlds.data.loader.OwnBatches`.
        num_workers: processes that decompress frames; for frames that are not compressed none is started, since
            copying them takes less time than handing them over.
        cache_tokens: whether dynamics train on tokens computed once, see `tinyworlds.data.token_cache`.
        val_fraction: share of the episodes (of the frames, where there is one episode) held out.
        seed: of the order of clips.

    Raises:
        ValueError: a value is impossible; `setup` also when the store has too few frames for a clip.
    """

    def __init__(
        self,
        *,
        name: str,
        path: str,
        clip_length: int,
        clip_stride: int,
        batch_size: int,
        num_workers: int,
        cache_tokens: bool,
        val_fraction: float,
        seed: int,
    ) -> None:
        super().__init__()
        if not name or Path(name).name != name:
            raise ValueError(f"data.name={name!r} must be a name that a folder can have")
        check_whole("data.clip_length", clip_length, at_least=1)
        check_whole("data.clip_stride", clip_stride, at_least=1)
        check_whole("data.batch_size", batch_size, at_least=1)
        check_whole("data.num_workers", num_workers, at_least=0)
        check_whole("seed", seed, at_least=0)
        check_number("data.val_fraction", val_fraction, at_least=0.001, at_most=0.999)
        self.name = name
        self.path = Path(path)
        self.clip_length = clip_length
        self.clip_stride = clip_stride
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.cache_tokens = cache_tokens
        self.val_fraction = val_fraction
        self.seed = seed
        self._tokenizer: ClipTokenizer | None = None

    def use_tokenizer(self, tokenizer: ClipTokenizer) -> None:
        """Give tokens by `tokenizer` to train on instead of frames, unless ``cache_tokens=False``."""
        self._tokenizer = tokenizer if self.cache_tokens else None

    def prepare_data(self) -> None:
        """Make the store unless it is there, and the tokens where they are wanted."""
        self.make_store()
        if self._tokenizer is not None:
            self._open()
            device = self._device()
            allow_tf32(device)
            self.token_cache(self._tokenizer).write(device=device)

    def make_store(self) -> None:
        """Record, download or extract the store, unless it is there."""

    def setup(self, stage: str | None = None) -> None:
        """Open and split what `prepare_data` made."""
        self._open()
        self._train_data: Dataset[Any] = self.train_clips
        if self._tokenizer is not None:
            self._train_data = self.token_cache(self._tokenizer).clips()

    def token_cache(self, tokenizer: ClipTokenizer) -> TokenCache:
        """Of the training clips by `tokenizer`; after `setup`."""
        return TokenCache(self.store, self.train_clips, tokenizer, batch_size=self.batch_size)

    def _device(self) -> torch.device:
        if self.trainer is not None:
            return self.trainer.strategy.root_device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _open(self) -> None:
        self.store = self.open_store()
        self.training_spans, self.held_out_spans = split_spans(
            self.store.episode_starts, self.store.num_frames, self.val_fraction
        )
        self.train_clips = self._clips(self.training_spans, "training")
        self.val_clips = self._clips(self.held_out_spans, "validation")

    def open_store(self) -> Frames:
        return open_frames(self.path)

    def _clips(self, spans: np.ndarray, split: str) -> Clips:
        clips = Clips(self.store, spans, length=self.clip_length, stride=self.clip_stride)
        if len(clips) == 0:
            longest = int((spans[:, 1] - spans[:, 0]).max(initial=0))
            raise ValueError(
                f"{self.path}: too few frames for one {split} clip of data.clip_length={self.clip_length} "
                f"(the longest episode has {longest}): use shorter clips or more frames"
            )
        return clips

    @property
    def description(self) -> dict[str, Any]:
        """What a stage that is trained on this keeps of it."""
        return {
            "name": self.name,
            "path": str(self.path),
            "val_fraction": self.val_fraction,
            "clip_length": self.clip_length,
        } | ({"stores": len(matches(self.path))} if is_pattern(self.path) else {})

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width; for this the store is made and opened, unless it was."""
        if not hasattr(self, "store"):
            self.prepare_data()
            self.setup()
        return self.store.height, self.store.width

    @property
    def fps(self) -> float | None:
        """Frames per second of play, where the store says; known after `setup`."""
        return self.store.fps

    def held_out_clips(self, *, count: int, length: int, seed: int) -> UInt8[np.ndarray, "count length H W 3"]:
        """Windows of any length from frames that no stage trains on, spread over the held-out episodes.

        Raises:
            ValueError: no held-out episode is that long.
        """
        return self.store.read_clips(spread_starts(self.held_out_spans, count=count, length=length, seed=seed), length)

    def train_dataloader(self) -> ClipLoader:
        order = ShuffledOrder(size=len(self.train_clips), seed=self.seed)
        accumulated = self.trainer.accumulate_grad_batches if self.trainer is not None else 1
        return self._loader(self._train_data, order, drop_last=True, accumulated=accumulated)

    def val_dataloader(self) -> ClipLoader:
        return self._loader(self.val_clips, FixedOrder(size=len(self.val_clips), seed=0), drop_last=False)

    def first_frames(self, epoch: int, batch: int) -> list[int]:
        """Where in the store the clips begin that all processes together train on in a batch; while training."""
        assert self.trainer is not None
        loader: ClipLoader = self.trainer.train_dataloader  # type: ignore[assignment]  # any iterable
        return [int(frame) for frame in self.train_clips.start(loader.batch_sampler.of_all(epoch, batch))]

    def _loader(self, clips: Dataset[Any], order: FixedOrder, *, drop_last: bool, accumulated: int = 1) -> ClipLoader:
        processes = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        rank, world_size = (processes["rank"], processes["num_replicas"]) if processes else (0, 1)
        batches = OwnBatches(
            order,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            accumulated=accumulated,
            drop_last=drop_last,
        )
        workers = self.num_workers if isinstance(clips, Clips) and not self.store.mapped else 0
        return ClipLoader(clips, batches, num_workers=workers)

    def on_after_batch_transfer(
        self, batch: UInt8[Tensor, "B T H W C"] | ClipTokens, dataloader_idx: int
    ) -> Float[Tensor, "B T C H W"] | ClipTokens:
        return ClipTokens(*(indices.long() for indices in batch)) if isinstance(batch, ClipTokens) else normalize(batch)
