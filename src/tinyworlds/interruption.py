"""Signals that end a training run: noted at once, obeyed between two batches, when nothing is half done."""

import os
import signal
import subprocess
import threading
from types import FrameType

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer


class Interrupted(SystemExit):
    """The run was stopped by `signal` after its checkpoint was written. The exit code is the shell's for it.

    Of processes that train together only the first gives it, since Lightning takes another's for a crash.
    """

    def __init__(self, number: signal.Signals, *, first: bool) -> None:
        super().__init__(128 + number if first else 0)
        self.signal = number


class Interruption:
    """Notes Ctrl-C, SIGTERM and, on SLURM, the signal that announces the end of the allotted time.

    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self._noted: signal.Signals | None = None
        self._requeue: signal.Signals | None = None

    def watch(self, trainer: Trainer) -> None:
        """Take over until the fit ends from Lightning's handlers, which save and stop in the middle of a batch."""
        environment = trainer._accelerator_connector.cluster_environment
        watched = [signal.SIGINT, signal.SIGTERM]
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue = signal.Signals(environment.requeue_signal or signal.SIGUSR1)
            watched.append(self._requeue)
        if threading.current_thread() is threading.main_thread():
            for number in watched:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted is not None and number == signal.SIGINT:
            raise SystemExit(128 + number)
        self._noted = signal.Signals(number)

    def agreed(self, trainer: Trainer) -> Interrupted | None:
        """What ends the run now, on all processes alike, though it may have come to one alone; or None."""
        number = int(self._noted or 0)
        if trainer.world_size > 1:
            own = torch.tensor(number, device=trainer.strategy.root_device)
            number = int(trainer.strategy.reduce(own, reduce_op="max"))
        return Interrupted(signal.Signals(number), first=trainer.is_global_zero) if number else None

    def requeue(self, interrupted: Interrupted) -> None:
        """Have SLURM run the job again, if the signal was the one that asks for it."""
        if interrupted.signal != self._requeue:
            return
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array and task else os.environ["SLURM_JOB_ID"]
        try:
            subprocess.run(["scontrol", "requeue", job], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"SLURM will not run job {job} again, submit it once more: {error}", flush=True)
