"""Many stores as one: a pattern such as ``frames/*.h5`` names them, and they are read as if they were one file."""

import glob
import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np
from jaxtyping import Int64, UInt8

from tinyworlds.data.contents import content_digests
from tinyworlds.data.frames import Frames
from tinyworlds.data.store import FrameStore

MAX_STORES, MAX_FRAMES, MAX_EPISODES = 2**16, 2**28, 2**22
"""The most that a collection may have in all. Memory for an order of the frames is taken, 8 bytes each."""
MAX_OPEN = 64
"""Files open at the same time. Many systems allow a process 256, and it needs others."""


class Collection(Frames):
    """The stores that `path` matches, in the order of their names, one after the other.

    No episode crosses from one store to the next. Every store is looked at once, here; later the frames of at most
    `MAX_OPEN` of them are open at a time, the least recently read being closed first.

    Raises:
        FileNotFoundError: `path` matches no file.
        ValueError: one of the stores is none, or does not fit the others; the sentence names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        stores = [FrameStore(file) for file in matches(path)]
        self._stores = stores
        self._open: dict[int, None] = {}  # the most recently read last
        first = stores[0]
        for store in stores:
            if (store.height, store.width) != (first.height, first.width):
                raise ValueError(
                    f"{store.path} has frames of {store.height}x{store.width}, but {first.path} of "
                    f"{first.height}x{first.width}: data.path={path} must match stores of one size"
                )
        self.height, self.width = first.height, first.width
        self._begins = np.cumsum([0, *(store.num_frames for store in stores)])
        self.num_frames = int(self._begins[-1])
        episodes = sum(len(store.episode_starts) for store in stores)
        if self.num_frames > MAX_FRAMES or episodes > MAX_EPISODES:
            raise ValueError(
                f"{path} has {self.num_frames} frames in {episodes} episodes: more than {MAX_FRAMES} or {MAX_EPISODES}"
            )
        starts = [store.episode_starts + begin for store, begin in zip(stores, self._begins[:-1], strict=True)]
        self.episode_starts = np.concatenate(starts)
        self.source = f"{len(stores)} stores"
        self.fps = first.fps if all(store.fps == first.fps for store in stores) else None
        same = all(store.action_names == first.action_names for store in stores)
        self.action_names = first.action_names if same else None
        self.settings = first.settings if all(store.settings == first.settings for store in stores) else None

    def _read(self, start: int, stop: int) -> UInt8[np.ndarray, "n H W 3"]:
        parts = [self._opened(number).read(begin, end) for number, begin, end in self._parts(start, stop)]
        return np.concatenate(parts) if parts else np.empty((0, self.height, self.width, 3), np.uint8)

    def _read_clips(self, starts: Int64[np.ndarray, " B"], length: int) -> UInt8[np.ndarray, "B T H W 3"]:
        clips = np.empty((len(starts), length, self.height, self.width, 3), np.uint8)
        first, last = (np.searchsorted(self._begins, at, side="right") - 1 for at in (starts, starts + length - 1))
        for number in np.unique(first).tolist():
            rows = np.flatnonzero((first == number) & (last == number))
            if len(rows):
                clips[rows] = self._opened(number).read_clips(starts[rows] - self._begins[number], length)
        # Only what takes frames one by one asks for windows across stores: no clip crosses an episode.
        for row in np.flatnonzero(first != last):
            clips[row] = self._read(int(starts[row]), int(starts[row]) + length)
        return clips

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The numbers of the stores that hold frames `start` to `stop`, with the range of their own frames."""
        number = int(np.searchsorted(self._begins, start, side="right")) - 1
        while start < stop:
            begin, end = int(self._begins[number]), min(stop, int(self._begins[number + 1]))
            yield number, start - begin, end - begin
            start, number = end, number + 1

    def _opened(self, number: int) -> FrameStore:
        """A store that is about to be read."""
        self._open.pop(number, None)
        self._open[number] = None
        if len(self._open) > MAX_OPEN:
            oldest = next(iter(self._open))
            del self._open[oldest]
            self._stores[oldest].close()
        return self._stores[number]

    def pieces(self, start: int, stop: int) -> Iterator[tuple[Path, int, int]]:
        for number, begin, end in self._parts(start, stop):
            yield self._stores[number].path, begin, end

    def beside(self, suffix: str) -> Path:
        return folder_of(self.path) / f"stores{suffix}"

    def digest(self) -> str:
        folder = folder_of(self.path)
        memos = {
            store.path: self.beside(".tokens") / store.path.relative_to(folder).with_suffix(".json")
            for store in self._stores
        }
        digests = content_digests(memos, label=f"hashing {self.path}")
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def mapped(self) -> bool:
        return all(store.mapped for store in self._stores)

    def close(self) -> None:
        for number in self._open:
            self._stores[number].close()
        self._open.clear()


def open_frames(path: Path) -> Frames:
    """The store at `path`, or where that is a pattern all that it matches, as one.

    Raises:
        FileNotFoundError: there is none.
        ValueError: what is there cannot be read as frames; the sentence names the file.
    """
    return Collection(path) if is_pattern(path) else FrameStore(path)


def is_pattern(path: Path) -> bool:
    """Whether `path` names many files, as ``frames/*.h5`` does, and no file itself."""
    return glob.has_magic(str(path)) and not path.exists()


def check_one(path: Path, data: str | None) -> None:
    """Refuse a pattern where the dataset `data` makes its one store itself: `ValueError`."""
    if is_pattern(path):
        raise ValueError(f"data.path={path}: data={data} makes one store; many ready ones are read with data=video")


def matches(path: Path) -> list[Path]:
    """The `files` that a pattern matches.

    Raises:
        FileNotFoundError: there is none.
        ValueError: there are more than `MAX_STORES`.
    """
    found = files(path)
    if not found:
        raise FileNotFoundError(f"no file matches {path}")
    if len(found) > MAX_STORES:
        raise ValueError(f"{path} matches {len(found)} files, more than {MAX_STORES}")
    return found


def files(path: Path) -> list[Path]:
    """The file at `path`; where it is a pattern, those that it matches, sorted, without hidden ones and caches."""
    if not is_pattern(path):
        return [path] if path.is_file() else []
    folders = len(folder_of(path).parts)
    found = map(Path, glob.iglob(str(path)))  # noqa: PTH207 - that of Path finds hidden ones too
    kept = (file for file in found if not any(part.endswith(".tokens") for part in file.parts[folders:]))
    return sorted(file for file in kept if file.is_file())


def folder_of(path: Path) -> Path:
    """The folder that all files are in which a pattern matches."""
    return path.parents[len(_pattern(path)) - 1]


def short_name(path: str) -> str:
    """What names a store wherever its folder lies: its file's name; of a pattern, its folder's and the pattern."""
    pattern = _pattern(PurePath(path))
    return "/".join(PurePath(path).parts[-len(pattern) - 1 :]) if pattern else PurePath(path).name


def _pattern(path: PurePath) -> tuple[str, ...]:
    """The parts of a path from the first that stands for many on."""
    plain = [glob.has_magic(part) for part in path.parts]
    return path.parts[plain.index(True) :] if True in plain else ()
