"""The LightningDataModules: one for each family of recorded games, one for each public file, one for own videos."""

from pathlib import Path
from typing import Any, ClassVar

from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.collection import check_one
from tinyworlds.data.frames import Frames
from tinyworlds.data.game import ATARI, MINIGRID, VIZDOOM, Family
from tinyworlds.data.hub import check_frame_size, fetch_store
from tinyworlds.data.record import Recording
from tinyworlds.data.remote import fetch_stores, is_address, local_path
from tinyworlds.data.settings import frame_size
from tinyworlds.data.store import check_settings
from tinyworlds.data.video import Extraction, existing, store_beside


class RecordedGame(ClipDataModule):
    """A game recorded by `recording` on first use: any of Gymnasium's, or one of the `family` alone."""

    family: ClassVar[Family | None] = None

    def __init__(self, *, recording: Recording, **options: Any) -> None:
        super().__init__(**options)
        if self.family is not None and not recording.env.startswith(self.family.prefix):
            raise ValueError(
                f"data.recording.env={recording.env} is none of {type(self).__name__}'s games, whose names begin with "
                f"{self.family.prefix}: choose another data="
            )
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


class Atari(RecordedGame):
    """A game of the Atari 2600, in the Arcade Learning Environment."""

    family = ATARI


class VizDoom(RecordedGame):
    """A scenario of Doom, seen by who walks through it."""

    family = VIZDOOM


class MiniGrid(RecordedGame):
    """A world of tiles, seen from above."""

    family = MINIGRID


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
