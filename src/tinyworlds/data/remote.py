"""Stores at addresses that fsspec knows, as ``s3://bucket/game/*.h5``, copied to this machine before they are read.

They are not read where they are: training takes clips from anywhere in the stores, thousands a second, and each would
be a request of its own (docs/data.md has figures).
"""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.callbacks import Callback

from tinyworlds.data.collection import files
from tinyworlds.media import replacing
from tinyworlds.progress import Transfer
from tinyworlds.torch_files import first_line

NAMES = re.compile(r"[\w*][\w.* -]*(/[\w*][\w.* -]*)*\.h5")
"""Of stores and the folders they are in: none that leads elsewhere, or that means something to a shell or a glob."""


def is_address(path: str) -> bool:
    """Whether `path` is an address with a protocol, as ``s3://bucket/game.h5``."""
    return "://" in path


def local_path(address: str, folder: Path) -> Path:
    """Where what is at `address` is copied to: into `folder`, under its own name, which may be a pattern with ``*``.

    Raises:
        ValueError: it is no name of a store.
    """
    parts = address.partition("://")[2].split("/")
    starred = ["*" in part for part in parts]
    name = "/".join(parts[starred.index(True) if True in starred else -1 :])
    if len(parts) < 2 or not NAMES.fullmatch(name):
        raise ValueError(
            f"data.path={address}: at an address there must be stores (.h5), named by letters, digits, spaces and any "
            "of . _ - with * for any of them; copy others to this machine first"
        )
    if "**" in name:
        raise ValueError(f"data.path={address}: ** is of no known depth, give a * for each folder, as in */*.h5")
    return folder / name


def fetch_stores(address: str, folder: Path) -> None:
    """Copy what is at `address` to `local_path`, but for what was copied before.

    Of processes that do so at once, as those that train together, one copies while the others wait.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it cannot be read, or what is here already is something else; the sentence names it.
    """
    target = local_path(address, folder)
    with _reporting(address):
        system, sizes = _listed(address)
    depth = len(target.relative_to(folder).parts)
    copies = {folder.joinpath(*remote.split("/")[-depth:]): remote for remote in sizes}
    if len(copies) < len(sizes):
        raise ValueError(f"data.path={address} has stores of one name in several folders: give * instead of a choice")
    _check(address, target, folder, {path: sizes[remote] for path, remote in copies.items()})
    if all(path.exists() for path in copies):
        return
    with _one_at_a_time(address, folder):
        missing = {path: remote for path, remote in copies.items() if not path.exists()}
        total = sum(sizes[remote] or 0 for remote in missing.values())
        with Transfer(total=total or None, initial=0, label=f"copying {address}") as transfer:
            for path, remote in missing.items():
                with replacing(path) as unfinished:
                    with _reporting(remote):
                        system.get_file(remote, str(unfinished), callback=_Report(transfer))
                    if sizes[remote] not in (None, unfinished.stat().st_size):
                        raise ValueError(f"{remote} came in part: start again, what came whole is kept")


@contextmanager
def _one_at_a_time(address: str, folder: Path) -> Iterator[None]:
    """In one process alone; where the file system has no locks in all of them, each with the whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another process that copies {address}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield


def _listed(address: str) -> tuple[Any, dict[str, int | None]]:
    """The file system of an address, and the files there with their sizes in bytes where it tells."""
    system, path = fsspec.core.url_to_fs(address)
    found = list(system.glob(path)) if "*" in path else [path]
    sizes = {remote: system.info(remote).get("size") for remote in found}
    if not sizes:
        raise FileNotFoundError(f"no store is at {address}")
    return system, sizes


def _check(address: str, target: Path, folder: Path, sizes: dict[Path, int | None]) -> None:
    """Refuse odd names, and files here that are not those there."""
    for path in [*sizes, *files(target)]:
        if not NAMES.fullmatch(path.relative_to(folder).as_posix()):
            raise ValueError(f"data.path={address} has a store of the odd name {path.name!r}: copy it by hand")
        if path not in sizes or (path.exists() and sizes[path] not in (None, path.stat().st_size)):
            raise ValueError(
                f"{path} is not what is at data.path={address}: move it away, or give another data.name= "
                f"(data.path={target} takes what is here)"
            )


@contextmanager
def _reporting(address: str) -> Iterator[None]:
    """Whatever a file system says of an address, in one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no store at {address}, or it cannot be reached") from None
    except Exception as error:  # each file system has its own
        raise ValueError(f"{address} cannot be read: {first_line(error)}") from None


class _Report(Callback):  # type: ignore[misc]  # fsspec is untyped
    """Tells a `Transfer` how many bytes came."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__()
        self._transfer = transfer

    def relative_update(self, inc: int = 1) -> None:
        self._transfer.update(inc)
