"""Frames on disk: one HDF5 file per recording.

    frames          uint8 (N, H, W, 3), chunked over frames
    actions         int64 (N,), the action taken after each frame; absent in files made from plain video
    episode_starts  int64, index of the first frame of each episode; absent means one episode
    attributes      version, source, fps, action_names, settings (JSON: what the file was made from and how)

A file with nothing but `frames` reads the same way. `actions` is read in `tinyworlds.data.truth` alone.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from jaxtyping import Int64, UInt8

from tinyworlds.data.contents import content_digest
from tinyworlds.data.frames import Frames
from tinyworlds.data.hdf5 import HDF5Error, Rows, dataset, number, open_hdf5, reporting, text, texts
from tinyworlds.json_files import parse_object

VERSION = 1
MAX_FRAMES, MAX_SIDE, MAX_EPISODES = 2**25, 2048, 2**20
"""The most that a store may have: frames, pixels along a side, episodes. Memory for an order of the frames is taken."""
# Written at once and never compressed: clips are then read without HDF5 (see `Rows`). Compressed with lzf,
# 20,000 frames of 64x64 Doom take 142 MB instead of 246, and reading takes fifty times as long.
CHUNK_FRAMES = 64


class FrameStore(Frames):
    """A read-only store, opened on the first read of each process, so that it can be pickled and forked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a store; the sentence names the file and what is wrong with it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._frames = Rows(self.path, "frames")
        with open_hdf5(self.path) as file, reporting(self.path):
            frames = dataset(file, "frames")
            if frames is None:
                raise HDF5Error(f"{self.path} has no dataset `frames`: it is not a store of frames")
            if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
                raise HDF5Error(
                    f"{self.path}: `frames` is {frames.dtype} {frames.shape}, but must be uint8 (N, H, W, 3)"
                )
            self.num_frames, self.height, self.width = (int(n) for n in frames.shape[:3])
            if frames.size == 0:
                raise HDF5Error(f"{self.path}: `frames` is empty")
            if self.num_frames > MAX_FRAMES or max(self.height, self.width) > MAX_SIDE:
                raise HDF5Error(
                    f"{self.path} has {self.num_frames} frames of {self.height}x{self.width}: "
                    f"more than {MAX_FRAMES}, or larger than {MAX_SIDE}x{MAX_SIDE}"
                )
            self.fps = number(file, "fps")
            self.source = text(file, "source") or self.path.name
            self.action_names = texts(file, "action_names")
            self.settings = self._read_settings(file)
            self.episode_starts = self._read_episode_starts(file)
            self._frames.locate(frames)

    def _read_settings(self, file: h5py.File) -> dict[str, Any] | None:
        settings = text(file, "settings")
        try:
            return None if settings is None else parse_object(settings)
        except ValueError as error:
            raise HDF5Error(f"{self.path}: the attribute settings cannot be read: {error}") from None

    def _read_episode_starts(self, file: h5py.File) -> Int64[np.ndarray, " episodes"]:
        stored = dataset(file, "episode_starts")
        if stored is None:
            return np.zeros(1, np.int64)
        if (
            stored.ndim != 1
            or stored.dtype.kind not in "iu"
            or not 0 < stored.size <= min(self.num_frames, MAX_EPISODES)
        ):
            raise HDF5Error(
                f"{self.path}: `episode_starts` must rise from 0, whole numbers, at most {MAX_EPISODES} of them"
            )
        starts = stored[:].astype(np.int64)
        if starts[0] != 0 or not (np.diff(starts) > 0).all() or starts[-1] >= self.num_frames:
            raise HDF5Error(
                f"{self.path}: `episode_starts` must rise from 0 and stay below the {self.num_frames} frames"
            )
        return starts

    def _read(self, start: int, stop: int) -> UInt8[np.ndarray, "n H W 3"]:
        return self._frames.read(start, stop)

    def _read_clips(self, starts: Int64[np.ndarray, " B"], length: int) -> UInt8[np.ndarray, "B T H W 3"]:
        return self._frames.windows(starts, length)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[Path, int, int]]:
        yield self.path, start, stop

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.stem + suffix)

    def digest(self) -> str:
        return content_digest(self.path, memo=self.beside(".tokens") / "store.json")

    @property
    def mapped(self) -> bool:
        return self._frames.mapped

    def close(self) -> None:
        self._frames.close()


class StoreWriter:
    """Writes a store frame by frame, with constant memory, as a context manager.

    The file grows under a temporary name beside `path` and takes its place when the block ends well; when it
    ends with an exception, Ctrl-C included, the temporary file is removed and `path` is left as it was.

    Raises:
        ValueError: `path` cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        height: int,
        width: int,
        source: str,
        fps: float | None = None,
        action_names: Sequence[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.num_frames = 0
        self._attributes: dict[str, Any] = {"version": VERSION, "source": source}
        if fps is not None:
            self._attributes["fps"] = fps
        if action_names is not None:
            self._attributes["action_names"] = list(action_names)
        if settings is not None:
            self._attributes["settings"] = json.dumps(settings)
        self._size = (height, width)
        self._has_actions = action_names is not None
        self._episode_starts = [0]
        self._frames: list[np.ndarray] = []
        self._actions: list[np.ndarray] = []
        self._buffered = 0
        self._temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}.part")

    def __enter__(self) -> Self:
        height, width = self._size
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = h5py.File(self._temporary, "x")
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error}") from None
        self._file.attrs.update(self._attributes)
        self._file.create_dataset(
            "frames",
            shape=(0, height, width, 3),
            maxshape=(None, height, width, 3),
            chunks=(CHUNK_FRAMES, height, width, 3),
            dtype=np.uint8,
        )
        if self._has_actions:
            self._file.create_dataset("actions", shape=(0,), maxshape=(None,), chunks=(4096,), dtype=np.int64)
        return self

    def append(self, frames: UInt8[np.ndarray, "n H W 3"], actions: Int64[np.ndarray, " n"] | None = None) -> None:
        """Add frames, and where the store has action names the action taken after each of them."""
        assert frames.shape[1:3] == self._size
        assert (actions is not None) == self._has_actions
        self._frames.append(frames.copy())
        if actions is not None:
            self._actions.append(actions.copy())
        self.num_frames += len(frames)
        self._buffered += len(frames)
        if self._buffered >= CHUNK_FRAMES:
            self._flush()

    def start_episode(self) -> None:
        """The next frame appended is the first of an episode."""
        if self._episode_starts[-1] != self.num_frames:
            self._episode_starts.append(self.num_frames)

    def _flush(self) -> None:
        for name, blocks in (("frames", self._frames), ("actions", self._actions)):
            if blocks:
                dataset = self._file[name]
                dataset.resize(self.num_frames, axis=0)
                dataset[self.num_frames - self._buffered :] = np.concatenate(blocks)
                blocks.clear()
        self._buffered = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
                starts = [start for start in self._episode_starts if start < self.num_frames]
                self._file["episode_starts"] = np.array(starts, np.int64)
            self._file.close()
            if kind is None:
                self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


def check_free(path: Path, option: str) -> None:
    """Refuse to write a store over another: worlds may have been trained on that.

    Raises:
        ValueError: there is a file already.
    """
    if path.exists():
        raise ValueError(f"{path} is there already: move it away, or give another {option}=")


def check_settings(store: Frames, expected: Mapping[str, Any]) -> None:
    """Refuse a store that was made with other settings than `expected`.

    Raises:
        ValueError: names the file and the first option that differs, with both values.
    """
    remedy = "move the file away to have it made again, or give another path"
    if store.settings is None:
        raise ValueError(
            f"{store.path} does not say how it was made, so it may not be what the config asks for: {remedy}"
        )
    wanted = json.loads(json.dumps(expected))
    for key in wanted | store.settings:
        made, asked = store.settings.get(key), wanted.get(key)
        if made != asked:
            raise ValueError(
                f"{store.path} was made with {key}={made!s:.200}, but the config asks for {key}={asked}: {remedy}"
            )
