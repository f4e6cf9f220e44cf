"""Processes that train together end together: none is left to wait for one that is gone."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from subprocess import TimeoutExpired
from typing import Any

import lightning
from torch.distributed import DistError

PARENT = os.getppid()
SECONDS_BETWEEN_LOOKS = 2.0


@contextlib.contextmanager
def ending_together(trainer: lightning.Trainer) -> Iterator[None]:
    """Within, the end of one process of `trainer` ends the others within seconds, each with a sentence.

    Lightning's launcher watches the processes that it started; here these watch the one that started them, which
    NCCL would have them wait for. Gloo tells all others at once.

    Raises:
        ValueError: another process ended.
    """
    if trainer.world_size == 1:
        yield
        return
    finished = threading.Event()
    if trainer.strategy.launcher is None:
        threading.Thread(target=_watch_parent, args=(trainer.global_rank, finished), daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, DistError) and "gloo" not in str(error):
            raise
        raise ValueError(_what_ended(trainer.strategy.launcher)) from None
    finally:
        finished.set()
    # The first process, which the others watch, does not leave before they have stopped to.
    trainer.strategy.barrier()


def _what_ended(launcher: Any) -> str:
    ended = "another of the processes that train together ended"
    for rank, process in enumerate(getattr(launcher, "procs", []), start=1):
        with contextlib.suppress(TimeoutExpired):
            process.wait(timeout=SECONDS_BETWEEN_LOOKS)
        if process.returncode:
            ended = f"process {rank} of those that train together ended with code {process.returncode}"
    return f"{ended}, so this one did too; its own message, if it left one, stands above"


def _watch_parent(rank: int, finished: threading.Event) -> None:
    while not finished.wait(SECONDS_BETWEEN_LOOKS):
        if os.getppid() != PARENT:
            print(f"error: the process that started process {rank} ended, so this one did too", file=sys.stderr)
            os._exit(1)
