"""Progress of a long loop: a bar on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

SECONDS_BETWEEN_LINES = 10.0
MEGABYTE = 10**6

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


class Transfer:
    """Progress of a transfer of about `total` bytes, `initial` of which were there before."""

    def __init__(self, *, total: int | None, initial: int, label: str) -> None:
        self._label, self._total, self._initial, self._done = label, total, initial, initial
        self._begun = self._shown = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, disable=not sys.stdout.isatty())
        self._task = self._bar.add_task(label, total=total, completed=initial)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def update(self, count: int) -> None:
        """`count` more bytes have come; fewer than none where they must come again."""
        self._done += count
        self._bar.advance(self._task, count)
        now = time.monotonic()
        if now - self._shown >= SECONDS_BETWEEN_LINES and self._bar.disable:
            self._print(self._total, now)
            self._shown = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if kind is None and self._bar.disable and self._done >= MEGABYTE:
            self._print(self._done, time.monotonic())

    def _print(self, total: int | None, now: float) -> None:
        done, before = self._done // MEGABYTE, self._initial // MEGABYTE
        megabytes = None if total is None else total // MEGABYTE
        print(line(f"{self._label}, MB", done, megabytes, now - self._begun, before=before), flush=True)


def line(label: str, done: int, total: int | None, seconds: float, *, before: int = 0) -> str:
    """How far a loop has come after `seconds`, in one line; `before` of what is done was so at the start."""
    rate = (done - before) / max(seconds, 1e-9)
    if done == total or total is None:
        return f"{label} {done} · {rate:.1f}/s · {clock(seconds)}"
    left = clock(max(0, total - done) / rate) if rate > 0 else "?"
    return f"{label} {done}/{total} · {rate:.1f}/s · {left} left"


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, ``3:07``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
