"""Progress of a long loop: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0

T = TypeVar("T")


def track(iterable: Iterable[T], *, total: int | None, label: str) -> Iterator[T]:
    """Yield from `iterable` while showing how many of about `total` items are done, None for nobody knows."""
    return _bar(iterable, total, label) if sys.stdout.isatty() else _lines(iterable, total, label)


def _bar(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        yield from progress.track(iterable, total=total, description=label)


def _lines(iterable: Iterable[T], total: int | None, label: str) -> Iterator[T]:
    begun = shown = time.monotonic()
    done = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - shown >= SECONDS_BETWEEN_LINES and done != total:
            print(line(label, done, total, now - begun), flush=True)
            shown = now
    print(line(label, done, done, time.monotonic() - begun), flush=True)


def line(label: str, done: int, total: int | None, seconds: float) -> str:
    """How far a loop has come after `seconds`, in one line."""
    rate = done / max(seconds, 1e-9)
    if done == total or total is None:
        return f"{label} {done} · {rate:.1f}/s · {clock(seconds)}"
    return f"{label} {done}/{total} · {rate:.1f}/s · {clock(max(0, total - done) / rate)} left"


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, ``3:07``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
