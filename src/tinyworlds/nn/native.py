"""Our C++ compiled on the user's machine, for its processor, at first use."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tinyworlds.media import replacing

FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-signed-zeros",
    "-Wno-psabi",
)
SHARED = ("-fPIC", "-shared", "-fopenmp")
SECONDS = 120


def compiler() -> str | None:
    """The C++ compiler: what ``CXX`` names, or else the first of the usual ones."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)


@functools.cache
def library(source: Path) -> ctypes.CDLL | None:
    """The shared library made of `source`, kept from process to process; None where it can't be compiled."""
    cxx = compiler()
    if cxx is None:
        return None
    try:
        # What it includes is part of the name, and what the processor can do, which macros tell: a home directory may
        # be shared by unlike machines.
        whole = _run(cxx, *FLAGS, "-dD", "-E", str(source))
        name = hashlib.sha256(b"\0".join([whole, *map(str.encode, SHARED)])).hexdigest()[:32]
        path = _folder() / f"{source.stem}-{name}.so"
        if not path.is_file():
            with replacing(path) as unfinished:
                _run(cxx, *FLAGS, *SHARED, str(source), "-o", str(unfinished))
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return None


def call(source: Path, name: str, tensors: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Call a function of the `library` of `source`: with contiguous tensors, sizes and the number of threads."""
    found = library(source)
    assert found is not None
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    found[name](*pointers, *map(ctypes.c_int64, sizes), ctypes.c_int(torch.get_num_threads()))


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL).stdout


def _folder() -> Path:
    """Where libraries are kept: the user's cache, or for this process alone where that can't be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyworlds"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="tinyworlds-"))
    return cache if os.access(cache, os.W_OK) else Path(tempfile.mkdtemp(prefix="tinyworlds-"))
