"""Processes that train together end together: none is left to wait for one that is gone."""

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from subprocess import TimeoutExpired
from typing import Any

import lightning
import torch.distributed as dist
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback

PARENT = os.getppid()
STARTER = "TINYWORLDS_STARTER"
"""Environment variable by which the processes that Lightning starts learn which one did."""
SECONDS_BETWEEN_LOOKS = 2.0


@contextlib.contextmanager
def ending_together(trainer: lightning.Trainer) -> Iterator[None]:
    """Within, the end of one process of `trainer` ends the others within seconds, each with a sentence.

    Lightning's launcher watches the processes that it started; here these watch the one that started them, which
    NCCL would have them wait for, as do torchrun's. Gloo tells all others at once.

    Raises:
        ValueError: another process ended.
    """
    if trainer.world_size == 1:
        yield
        return
    atexit.register(_leave)
    finished = threading.Event()
    if (parent := _starter(trainer)) is not None:
        threading.Thread(target=_watch, args=(parent, trainer.global_rank, finished), daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise ValueError(_what_ended(trainer.strategy.launcher)) from None
    finally:
        finished.set()
    # The first process, which the others watch, does not leave before they have stopped to.
    trainer.strategy.barrier()


def starts_others(trainer: lightning.Trainer) -> bool:
    """Whether this process will start those that train with it: nothing else has."""
    environment = trainer._accelerator_connector.cluster_environment
    return trainer.world_size > 1 and environment is not None and not environment.creates_processes_externally


def _leave() -> None:
    """End the threads of Gloo too, which can abort a process that ends first; Lightning does so for NCCL alone."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _what_ended(launcher: Any) -> str:
    ended = "another of the processes that train together ended"
    for rank, process in enumerate(getattr(launcher, "procs", []), start=1):
        with contextlib.suppress(TimeoutExpired):
            process.wait(timeout=SECONDS_BETWEEN_LOOKS)
        if process.returncode:
            ended = f"process {rank} of those that train together ended with code {process.returncode}"
    return f"{ended}, so this one did too; its own message, if it left one, stands above"


def _starter(trainer: lightning.Trainer) -> int | None:
    """The number of the process that started this one to train with others; a shell, which may be left, is none."""
    if isinstance(trainer._accelerator_connector.cluster_environment, TorchElasticEnvironment):
        return PARENT
    if starts_others(trainer):
        os.environ[STARTER] = str(os.getpid())
    starter = int(os.environ.get(STARTER, os.getpid()))
    return None if starter == os.getpid() else starter


def _watch(parent: int, rank: int, finished: threading.Event) -> None:
    while not finished.wait(SECONDS_BETWEEN_LOOKS):
        if os.getppid() != parent:
            try:
                print(f"error: the process that started process {rank} ended, so this one did too", file=sys.stderr)
            finally:  # it may have been the reader
                os._exit(1)


class SameBeginning(Callback):
    """Refuses to train unless all processes would begin the same, which `beginning` names.

    Those that something else started chose each by itself what to resume, and only the first knows which runs are being
    trained.

    Raises:
        ValueError: they would not.
    """

    def __init__(self, beginning: str) -> None:
        self._beginning = beginning

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        first = trainer.strategy.broadcast(self._beginning)
        if not trainer.strategy.reduce_boolean_decision(self._beginning == first):
            raise ValueError(
                f"resume: the first of the processes would train {first}, and others would not; name the folder of the "
                "run to all, or begin anew without resume"
            )
