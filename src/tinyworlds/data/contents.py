"""What files hold, as hashes that are noted until a file changes."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tinyworlds.json_files import read_object
from tinyworlds.media import replacing
from tinyworlds.progress import track

HASH_BLOCK = 2**28


def identity(stat: os.stat_result) -> list[int]:
    """Numbers that change with every change to a file.

    The system notes the time of every change, and lets nobody set it: as long as that time, the size and the inode
    are the same, the contents are.
    """
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def content_digest(path: Path, *, memo: Path) -> str:
    """SHA-256 of the file `path`, remembered in `memo` until the file changes or is replaced."""
    return content_digests({path: memo}, label=f"hashing {path.name}")[0]


def content_digests(memos: Mapping[Path, Path], *, label: str) -> list[str]:
    """SHA-256 of each of several files, remembered in a memo each; `label` says what is hashed."""
    found = {path: _noted(path, memo) for path, memo in memos.items()}
    unknown = {path: memos[path] for path, digest in found.items() if digest is None}
    if unknown:
        blocks = sum(-(-path.stat().st_size // HASH_BLOCK) for path in unknown)
        for _ in track(_hash(unknown, found), total=blocks, label=label):
            pass
    return [str(digest) for digest in found.values()]


def _hash(memos: Mapping[Path, Path], digests: dict[Path, str | None]) -> Iterator[None]:
    """Put the digest of each file into `digests` and its memo, block by block."""
    for path, memo in memos.items():
        hashed, before = hashlib.sha256(), identity(path.stat())
        with path.open("rb") as file:
            while block := file.read(HASH_BLOCK):
                hashed.update(block)
                yield
        digests[path] = hashed.hexdigest()
        # Where nothing can be written there may still be a cache to read.
        with contextlib.suppress(OSError), replacing(memo) as unfinished:
            unfinished.write_text(json.dumps({"identity": before, "sha256": digests[path]}))


def _noted(path: Path, memo: Path) -> str | None:
    # What is there but cannot be read is made anew.
    with contextlib.suppress(ValueError, FileNotFoundError):
        noted = read_object(memo, "note of a hash")
        if noted.get("identity") == identity(path.stat()):
            return str(noted.get("sha256"))
    return None
