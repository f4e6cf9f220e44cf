"""Frames in episodes, read in ranges and in windows: what one store and a collection of stores have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from jaxtyping import Int64, UInt8


class Frames(ABC):
    """`num_frames` frames of `height` x `width` pixels, read-only; `path` is how the user named them.

    `episode_starts` are the first frames of the episodes, from 0 on. `fps`, `action_names` and `settings` (what the
    frames were made from and how) are None where that is not known, or not one thing for all.
    """

    path: Path
    num_frames: int
    height: int
    width: int
    fps: float | None
    source: str
    action_names: tuple[str, ...] | None
    settings: dict[str, Any] | None
    episode_starts: Int64[np.ndarray, " episodes"]

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n H W 3"]:
        """Frames `start` to `stop` (exclusive).

        Raises:
            ValueError: there are fewer, or a file is damaged.
        """
        if not 0 <= start <= stop <= self.num_frames:
            raise ValueError(f"{self.path} has {self.num_frames} frames; frames {start} to {stop} were asked for")
        return self._read(start, stop)

    def read_clips(self, starts: Sequence[int] | np.ndarray, length: int) -> UInt8[np.ndarray, "B T H W 3"]:
        """For each of `starts` the window of `length` frames that begins there, in the order given.

        Raises:
            ValueError: a window goes beyond the frames that there are, or a file is damaged.
        """
        positions = np.asarray(starts, np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() <= self.num_frames - length:
            raise ValueError(f"{self.path} has {self.num_frames} frames; a clip beyond them was asked for")
        return self._read_clips(positions, length)

    @abstractmethod
    def _read(self, start: int, stop: int) -> UInt8[np.ndarray, "n H W 3"]:
        """`read`, of frames that there are."""

    @abstractmethod
    def _read_clips(self, starts: Int64[np.ndarray, " B"], length: int) -> UInt8[np.ndarray, "B T H W 3"]:
        """`read_clips`, of frames that there are."""

    @abstractmethod
    def pieces(self, start: int, stop: int) -> Iterator[tuple[Path, int, int]]:
        """The files that hold frames `start` to `stop`, in order, each with the range of its own frames among them."""

    @abstractmethod
    def beside(self, suffix: str) -> Path:
        """Where something that is computed from all frames is kept: a name beside them that ends in `suffix`."""

    @abstractmethod
    def digest(self) -> str:
        """SHA-256 of all that the files hold, in order."""

    @property
    @abstractmethod
    def mapped(self) -> bool:
        """Whether all frames are stored as they are, so that reading is only copying."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the files; a later read opens them again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
