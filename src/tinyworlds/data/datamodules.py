"""One LightningDataModule per dataset.

The loaders give uint8 (B, T, H, W, 3), which is normalized after it has reached the device; the training loader
of the dynamics may give `ClipTokens` instead. A new dataset is a class here and a file in conf/data/.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import Dataset

from tinyworlds.data.clips import Clips, normalize, split_spans, spread_starts
from tinyworlds.data.collection import check_one, is_pattern, matches, open_frames
from tinyworlds.data.frames import Frames
from tinyworlds.data.hub import check_frame_size, fetch_store
from tinyworlds.data.loader import ClipLoader, FixedOrder, OwnBatches, ShuffledOrder
from tinyworlds.data.record import Recording
from tinyworlds.data.remote import fetch_stores, is_address, local_path
from tinyworlds.data.settings import check_number, check_whole, frame_size
from tinyworlds.data.store import check_settings
from tinyworlds.data.token_cache import ClipTokenizer, ClipTokens, TokenCache
from tinyworlds.data.video import Extraction, existing, store_beside
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
        loader: ClipLoader = self.trainer.train_dataloader  # type: ignore[assignment]
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


class RecordedGame(ClipDataModule):
    """A game recorded by `recording` on first use."""

    def __init__(self, *, recording: Recording, **options: Any) -> None:
        super().__init__(**options)
        longest = min(recording.frames, recording.max_episode_steps or recording.frames)
        if self.clip_length > longest:
            raise ValueError(
                f"data.clip_length={self.clip_length}: no recorded episode is so long, but at most {longest} frames; "
                "use shorter clips, or raise data.recording.frames or data.recording.max_episode_steps"
            )
        self.recording = recording

    def make_store(self) -> None:
        check_one(self.path, self.name)
        if not self.path.exists():
            self.recording.write(self.path)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width, known before anything is recorded."""
        return frame_size(self.recording.size)

    def open_store(self) -> Frames:
        store = super().open_store()
        check_settings(store, self.recording.settings())
        return store


class AtariPong(RecordedGame):
    """Pong on the Atari 2600, the learned player on the right."""


class AtariBoxing(RecordedGame):
    """Boxing on the Atari 2600 from above, the learned player in white."""


class Vizdoom(RecordedGame):
    """Doom: rooms and corridors seen by who walks through them."""


class PublicStore(ClipDataModule):
    """A file of the public TinyWorlds datasets, downloaded on first use."""

    repository: ClassVar[str] = "AlmondGod/tinyworlds"
    file: ClassVar[str]
    side: ClassVar[int] = 64
    """Pixels along each side of a frame."""

    def make_store(self) -> None:
        check_one(self.path, self.name)
        if not self.path.exists():
            fetch_store(self.repository, self.file, self.path, size=self.side)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width, known before anything is downloaded."""
        return self.side, self.side

    def open_store(self) -> Frames:
        store = super().open_store()
        check_frame_size(store, self.side)
        return store


class Picodoom(PublicStore):
    """PicoDoom."""

    file = "picodoom_frames.h5"


class Pong(PublicStore):
    """Pong."""

    file = "pong_frames.h5"


class Zelda(PublicStore):
    """The Legend of Zelda."""

    file = "zelda_frames.h5"


class PolePosition(PublicStore):
    """Pole Position."""

    file = "pole_position_frames.h5"


class Sonic(PublicStore):
    """Sonic the Hedgehog, 128 x 128."""

    file = "sonic_frames.h5"
    side = 128


class Video(ClipDataModule):
    """A video, extracted by `extraction` on first use to a store beside it; or ready stores.

    These are one .h5 file, all that a pattern such as ``frames/*.h5`` matches, or either at an address that fsspec
    knows, as ``s3://bucket/frames/*.h5``: then they are copied to the folder `copies` on first use.
    """

    def __init__(self, *, path: str | None, copies: str, extraction: Extraction, **options: Any) -> None:
        if path is None:
            raise ValueError("data=video needs data.path=, of a video, of a store or of many")
        self.copies = Path(copies)
        self.address = path if is_address(path) else None
        self.video = Path(path) if self.address is None else local_path(self.address, self.copies)
        super().__init__(path=str(store_beside(self.video)), **options)
        self.extraction = extraction

    def make_store(self) -> None:
        if self.address is not None:
            fetch_stores(self.address, self.copies)
        elif self.video != self.path and not self.path.exists():
            self.extraction.write(self.video, self.path)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width, known before a video is extracted."""
        if self.video != self.path and not self.path.exists():
            existing(self.video)
            return frame_size(self.extraction.size)
        return super().frame_size

    def open_store(self) -> Frames:
        store = super().open_store()
        if self.video != self.path:
            check_settings(store, self.extraction.settings(self.video))
        return store
