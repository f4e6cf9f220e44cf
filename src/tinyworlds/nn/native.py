"""Our C++ compiled on the user's machine, for its processor, at first use."""

import contextlib
import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
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
SHARED = ("-fPIC", "-shared")
OPENMP = "-fopenmp"
SECONDS = 120


def compiler() -> str | None:
    """The C++ compiler: what ``CXX`` names, or else the first of the usual ones."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)


@functools.cache
def library(source: Path) -> ctypes.CDLL | None:
    """The shared library made of `source`, kept from process to process; None where it can't be compiled.

    A compiler that fails is warned of.
    """
    cxx = compiler()
    if cxx is None:
        return None
    try:
        # What it includes is part of the name, and what the processor can do, which macros tell: a home directory may
        # be shared by unlike machines.
        whole = _run(cxx, *FLAGS, "-dD", "-E", str(source))
        name = hashlib.sha256(b"\0".join([whole, *map(str.encode, (*FLAGS, *SHARED))])).hexdigest()[:32]
        path = _folder() / f"{source.stem}-{name}.so"
        if path.is_file():
            with contextlib.suppress(OSError):  # or else it is damaged
                return ctypes.CDLL(str(path))
        with replacing(path) as unfinished:
            _compile(cxx, source, unfinished)
        return ctypes.CDLL(str(path))
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip().splitlines()
        why = next((line for line in said if "error" in line), f"it ended with {error.returncode}")
    except (OSError, subprocess.SubprocessError) as error:
        why = str(error)
    warnings.warn(f"{cxx} can't compile {source.name}, and without that small models are slow: {why}", stacklevel=2)
    return None


def _compile(cxx: str, source: Path, to: Path) -> None:
    """With threads if the compiler has OpenMP, else without."""
    command = [cxx, *FLAGS, *SHARED, str(source), "-o", str(to)]
    try:
        _run(*command, OPENMP)
    except subprocess.CalledProcessError:
        _run(*command)


def has_library(source: Path) -> bool:
    """Whether there is a `library` of `source`; the first call compiles it, in some seconds."""
    return library(source) is not None


torch.compiler.assume_constant_result(has_library)  # type: ignore[no-untyped-call]  # it marks the function


def call(source: Path, name: str, tensors: Sequence[Tensor], sizes: Sequence[int]) -> None:
    """Call a function of the `library` of `source`: with contiguous tensors, sizes and the number of threads."""
    found = getattr(library(source), name)
    pointers = (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
    found(pointers, (ctypes.c_int64 * len(sizes))(*sizes), ctypes.c_int(torch.get_num_threads()))


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL).stdout


def _folder() -> Path:
    """Where libraries are kept: the user's cache, or for this process alone where that is not theirs to write."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyworlds"
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(cache, os.W_OK) and cache.stat().st_uid == os.getuid():
            return cache
    except (OSError, RuntimeError):  # the latter of a user who has no home
        pass
    return Path(_of_this_process().name)


@functools.cache
def _of_this_process() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="tinyworlds-")
