"""Reading HDF5 files: windows of rows, through a memory map where the file allows it."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64, UInt


def open_hdf5(path: Path) -> h5py.File:
    """`path`, open for reading.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an HDF5 file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as an HDF5 file: {error}") from None


class Rows:
    """The rows of the dataset `name`, opened on the first read of each process, so it can be pickled and forked.

    Rows that are neither compressed nor partly missing are copied from a memory map of the file, which is many
    times faster than reading through HDF5 (docs/performance.md).
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._process = -1
        self._file: h5py.File | None = None
        self._mapped: MappedRows | None = None

    def read(self, start: int, stop: int) -> UInt[np.ndarray, "n ..."]:
        """Rows `start` to `stop` (exclusive)."""
        return self._dataset()[start:stop]

    def windows(self, starts: Int64[np.ndarray, " B"], length: int) -> UInt[np.ndarray, "B {length} *row"]:
        """For each of `starts` the `length` rows that begin there, in the order given."""
        dataset = self._dataset()
        if self._mapped is not None:
            return self._mapped[starts[:, None] + np.arange(length)]
        windows = np.empty((len(starts), length, *dataset.shape[1:]), dataset.dtype)
        # In file order neighbouring windows find their chunks in HDF5's cache.
        for row in np.argsort(starts, kind="stable"):
            start = int(starts[row])
            dataset.read_direct(windows, np.s_[start : start + length], np.s_[int(row)])
        return windows

    @property
    def mapped(self) -> bool:
        """Whether rows are copied from a memory map, which takes no decompressing."""
        self._dataset()
        return self._mapped is not None

    def _dataset(self) -> h5py.Dataset:
        """Of a handle that belongs to this process."""
        if self._file is None or self._process != os.getpid():
            self.close()
            self._file = open_hdf5(self.path)
            self._mapped = MappedRows.of(self._file[self.name])
            self._process = os.getpid()
        return self._file[self.name]

    def close(self) -> None:
        """Let go of the file; a later read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = self._mapped = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_mapped": None}


class MappedRows:
    """Rows of `file` whose bytes stand together in blocks of `block` rows that begin at byte `offsets`."""

    def __init__(self, file: str, dataset: h5py.Dataset, *, offsets: Int64[np.ndarray, " blocks"], block: int) -> None:
        self._shape = dataset.shape[1:]
        self._dtype = dataset.dtype
        self._row_bytes = dataset.dtype.itemsize * int(np.prod(self._shape))
        self._offsets = offsets
        self._block = block
        # One window a byte of the file: the one that begins where a row does is that row.
        self._at = np.lib.stride_tricks.sliding_window_view(np.memmap(file, np.uint8, "r"), self._row_bytes)

    @classmethod
    def of(cls, dataset: h5py.Dataset) -> "MappedRows | None":
        """None where rows are compressed, partly missing, or not whole in one chunk."""
        file = dataset.file
        if dataset.size == 0 or dataset.id.get_create_plist().get_nfilters() or file.userblock_size:
            return None
        if dataset.chunks is None:
            offset = dataset.id.get_offset()
            whole = offset is not None and dataset.external is None
            return cls(file.filename, dataset, offsets=np.array([offset]), block=len(dataset)) if whole else None
        block = dataset.chunks[0]
        offsets = np.full(-(-len(dataset) // block), -1, np.int64)

        def note(chunk: Any) -> None:
            offsets[chunk.chunk_offset[0] // block] = chunk.byte_offset

        if dataset.chunks[1:] != dataset.shape[1:]:
            return None
        dataset.id.chunk_iter(note)
        return cls(file.filename, dataset, offsets=offsets, block=block) if (offsets >= 0).all() else None

    def __getitem__(self, rows: Int64[np.ndarray, "B T"]) -> UInt[np.ndarray, "B T *row"]:
        begins = self._offsets[rows // self._block] + rows % self._block * self._row_bytes
        return self._at[begins].view(self._dtype).reshape(*rows.shape, *self._shape)
