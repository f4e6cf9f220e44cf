"""Reading HDF5 files that may come from strangers: windows of rows, through a memory map where the file allows it."""

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Int64, UInt, UInt8

from tinyworlds.data.contents import identity
from tinyworlds.torch_files import first_line

FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
"""Those of HDF5 and h5py themselves: another is a library that HDF5 would look for and load."""
PLAIN = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID, h5py.h5t.TypeStringID)
LARGEST_CHUNK = 2**27
"""Bytes, unpacked: to read one row takes as much memory."""
LARGEST_ATTRIBUTE = 2**16
"""Bytes, or characters."""


class HDF5Error(ValueError):
    """What is wrong with a file, in a sentence that names it."""


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Whatever h5py says while it reads `path`, in one sentence.

    Raises:
        HDF5Error: the file is damaged.
    """
    try:
        yield
    except (HDF5Error, FileNotFoundError):
        raise
    except Exception as error:
        raise HDF5Error(f"{path} cannot be read as an HDF5 file, or is damaged: {first_line(error)}") from None


def open_hdf5(path: Path) -> h5py.File:
    """`path`, open for reading.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not an HDF5 file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with reporting(path):
        return h5py.File(path, "r")


def dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """The dataset `name`, None where there is none, whose values are all in this file and can be read without more.

    Raises:
        HDF5Error: it is something else, or its values are in other files or take too much to unpack.
    """
    link = file.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise HDF5Error(f"{file.filename}: `{name}` is a link to elsewhere, which is not followed")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise HDF5Error(f"{file.filename}: `{name}` is no dataset")
    made = found.id.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise HDF5Error(f"{file.filename}: the values of `{name}` are in other files, which are not read")
    for index in range(made.get_nfilters()):
        if (packed := made.get_filter(index)[0]) not in FILTERS:
            raise HDF5Error(f"{file.filename}: `{name}` is packed by filter {packed}: use gzip, lzf or none")
    if found.chunks and math.prod(found.chunks) * found.dtype.itemsize > LARGEST_CHUNK:
        raise HDF5Error(f"{file.filename}: `{name}` is in chunks of more than {LARGEST_CHUNK} bytes")
    return found


def attribute(file: h5py.File, name: str) -> Any:
    """The value of the attribute `name`, None where there is none.

    Raises:
        HDF5Error: it is very large, or neither numbers nor text.
    """
    if name not in file.attrs:
        return None
    stored = file.attrs.get_id(name)
    # HDF5 crashes on damaged values of the richer types, as lists of lists.
    if not isinstance(stored.get_type(), PLAIN):
        raise HDF5Error(f"{file.filename}: the attribute {name} is neither numbers nor text")
    if stored.get_storage_size() > LARGEST_ATTRIBUTE:
        raise HDF5Error(f"{file.filename}: the attribute {name} has more than {LARGEST_ATTRIBUTE} bytes")
    return file.attrs[name]


def number(file: h5py.File, name: str) -> float | None:
    """The attribute `name`, a positive number, or None where there is none.

    Raises:
        HDF5Error: it is something else.
    """
    value = attribute(file, name)
    if value is None:
        return None
    if not isinstance(value, int | float | np.integer | np.floating) or not 0 < value < math.inf:
        raise HDF5Error(f"{file.filename}: the attribute {name} is no positive number")
    return float(value)


def text(file: h5py.File, name: str) -> str | None:
    """The attribute `name`, one line of text, or None where there is none.

    Raises:
        HDF5Error: it is something else.
    """
    value = attribute(file, name)
    return None if value is None else _line(file, name, value)


def texts(file: h5py.File, name: str) -> tuple[str, ...] | None:
    """The attribute `name`, a list of lines of text, or None where there is none.

    Raises:
        HDF5Error: it is something else.
    """
    value = attribute(file, name)
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.ndim != 1:
        raise HDF5Error(f"{file.filename}: the attribute {name} is no list of texts")
    return tuple(_line(file, name, each) for each in value)


def _line(file: h5py.File, name: str, value: Any) -> str:
    line = value.decode() if isinstance(value, bytes) else value
    if not isinstance(line, str) or len(line) > LARGEST_ATTRIBUTE or not line.isprintable():
        raise HDF5Error(f"{file.filename}: the attribute {name} is no line of text")
    return line


class Rows:
    """The rows of the dataset `name`, opened on the first read of each process, so it can be pickled and forked.

    Rows that are neither compressed nor partly missing are copied from a memory map of the file, which is many
    times faster than reading through HDF5 (docs/performance.md); where they stand in it is found out once.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._process = -1
        self._file: h5py.File | None = None
        self._mapped: MappedRows | None = None

    def locate(self, rows: h5py.Dataset) -> None:
        """Find out where the rows stand; `rows` are these, of a file that is open anyway."""
        self._mapped = MappedRows.of(rows)

    def read(self, start: int, stop: int) -> UInt[np.ndarray, "n ..."]:
        """Rows `start` to `stop` (exclusive).

        Raises:
            HDF5Error: the file is damaged.
        """
        with reporting(self.path):
            rows = self._rows()
            return rows[np.arange(start, stop)[None]][0] if isinstance(rows, MappedRows) else rows[start:stop]

    def windows(self, starts: Int64[np.ndarray, " B"], length: int) -> UInt[np.ndarray, "B {length} *row"]:
        """For each of `starts` the `length` rows that begin there, in the order given.

        Raises:
            HDF5Error: the file is damaged.
        """
        with reporting(self.path):
            rows = self._rows()
            if isinstance(rows, MappedRows):
                return rows[starts[:, None] + np.arange(length)]
            windows = np.empty((len(starts), length, *rows.shape[1:]), rows.dtype)
            # In file order neighbouring windows find their chunks in HDF5's cache.
            for row in np.argsort(starts, kind="stable"):
                start = int(starts[row])
                rows.read_direct(windows, np.s_[start : start + length], np.s_[int(row)])
            return windows

    @property
    def mapped(self) -> bool:
        """Whether rows are copied from a memory map, which takes no decompressing."""
        if self._mapped is None:
            self._rows()
        return self._mapped is not None

    def _rows(self) -> "MappedRows | h5py.Dataset":
        """Ready to be read; through HDF5 by a handle that belongs to this process."""
        if self._mapped is not None and not self._mapped.open():
            self._mapped = None
        if self._mapped is None and (self._file is None or self._process != os.getpid()):
            self._open()
        return self._mapped or self._file[self.name]  # type: ignore[index]  # a dataset

    def _open(self) -> None:
        self.close()
        self._file, self._process = open_hdf5(self.path), os.getpid()
        rows = dataset(self._file, self.name)
        if rows is None:
            raise HDF5Error(f"{self.path} has no dataset `{self.name}`")
        self.locate(rows)
        if self._mapped is not None:
            self._file.close()
            self._file = None
            if not self._mapped.open():
                raise HDF5Error(f"{self.path} was changed while it was opened")

    def close(self) -> None:
        """Let go of the file; a later read opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None
        if self._mapped is not None:
            self._mapped.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None}


class MappedRows:
    """Rows of `file` whose bytes stand together in blocks of `block` rows that begin at byte `offsets`; see `open`."""

    def __init__(self, file: str, dataset: h5py.Dataset, *, offsets: Int64[np.ndarray, " blocks"], block: int) -> None:
        self._path = Path(file)
        self._identity = identity(self._path.stat())
        self._shape = dataset.shape[1:]
        self._dtype = dataset.dtype
        self._row_bytes = dataset.dtype.itemsize * int(np.prod(self._shape))
        self._offsets = offsets
        self._block = block
        self._at: UInt8[np.ndarray, "places bytes"] | None = None

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
        blocks = -(-len(dataset) // block)
        if dataset.chunks[1:] != dataset.shape[1:] or dataset.id.get_num_chunks() != blocks:
            return None
        offsets = np.full(blocks, -1, np.int64)

        def note(chunk: Any) -> None:
            offsets[chunk.chunk_offset[0] // block] = chunk.byte_offset

        dataset.id.chunk_iter(note)
        return cls(file.filename, dataset, offsets=offsets, block=block) if (offsets >= 0).all() else None

    def open(self) -> bool:
        """Map the file unless it is; False where it was changed since the rows were found in it."""
        if self._at is None:
            with self._path.open("rb", buffering=0) as file:
                stat = os.fstat(file.fileno())
                if identity(stat) != self._identity:
                    return False
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # One window a byte of the file: the one that begins where a row does is that row.
            windows = (stat.st_size - self._row_bytes + 1, self._row_bytes)
            self._at = np.ndarray(windows, np.uint8, mapped, strides=(1, 1))
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._at = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_at": None}

    def __getitem__(self, rows: Int64[np.ndarray, "B T"]) -> UInt[np.ndarray, "B T *row"]:
        assert self._at is not None
        begins = self._offsets[rows // self._block] + rows % self._block * self._row_bytes
        return self._at[begins].view(self._dtype).reshape(*rows.shape, *self._shape)
