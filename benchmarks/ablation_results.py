"""What `benchmarks.ablations` has measured: a JSON file of one line an entry, to which several processes add."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinyworlds.media import replacing

Entry = dict[str, Any]

NAMED_BY = {
    "timings": ("stage", "variant", "hardware"),
    "trials": ("stage", "variant", "game", "seed", "seconds"),
}
"""The kinds of entries, and what names an entry of each: there is one of a name."""
SETTING = "setting"
"""In every entry, all that it was measured with and that may be another one day."""


def read(path: Path) -> dict[str, list[Entry]]:
    """The entries of each kind, none where there is no file.

    Raises:
        ValueError: it holds something else.
    """
    if not path.is_file():
        return {kind: [] for kind in NAMED_BY}
    try:
        found = json.loads(path.read_text())
        return {kind: [dict(entry) for entry in found[kind]] for kind in NAMED_BY}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} holds no results of ablations: give another file with results=") from None


def find(path: Path, kind: str, wanted: Entry) -> Entry | None:
    """The entry with the name and the setting of `wanted`."""
    return next((e for e in read(path)[kind] if _same(kind, e, wanted) and e[SETTING] == wanted[SETTING]), None)


def add(path: Path, kind: str, entry: Entry) -> None:
    """Add an entry, in place of the one of that name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(path.parent):
        found = read(path)
        found[kind] = [*(e for e in found[kind] if not _same(kind, e, entry)), entry]
        found[kind].sort(key=lambda e: [str(e[key]) for key in NAMED_BY[kind]])
        lines = {kind: ",\n".join(map(json.dumps, entries)) for kind, entries in found.items()}
        text = ",\n".join(f'"{kind}": [\n{entries}\n]' for kind, entries in lines.items())
        with replacing(path) as unfinished:
            unfinished.write_text(f"{{\n{text}\n}}\n")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process is here with the same folder; the system lets the next in when this one ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _same(kind: str, one: Entry, other: Entry) -> bool:
    return all(one[key] == other[key] for key in NAMED_BY[kind])
