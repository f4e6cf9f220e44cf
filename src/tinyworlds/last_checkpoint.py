"""The checkpoint from which a run goes on as if it had never been stopped."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import TensorBoardLogger

from tinyworlds.data.loader import ClipLoader
from tinyworlds.data.settings import check_whole
from tinyworlds.divergence import LAST, Divergence
from tinyworlds.interruption import Interruption

EVENTS = "events.out.tfevents.*"


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every `every_n_steps` optimizer steps, after each validation and before an interruption.

    It is written between two batches, after all that belongs to the step: weights, optimizer, schedule, place in the
    data and logs are then of one moment. What TensorBoard was told later is taken back when the run goes on from it.

    Raises:
        ValueError: `every_n_steps` is below 1.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        check_whole("callbacks.last.every_n_steps", every_n_steps, at_least=1)
        self.every_n_steps = every_n_steps
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self._seen = self._saved = 0

    @property
    def seconds(self) -> float:
        """What the run has taken, with what it took before it was resumed."""
        return self._seconds_before + time.monotonic() - self._began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = self._saved = trainer.global_step
        self._interruption = Interruption()
        self._interruption.watch(trainer)
        loader: ClipLoader = trainer.train_dataloader  # type: ignore[assignment]  # typed as any iterable
        loader.between = partial(self._between, trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _between(self, trainer: Trainer) -> None:
        step = trainer.global_step
        if step == self._seen and step > 0:  # gradients are being accumulated, or nothing was done yet
            return
        self._seen = step
        interrupted = self._interruption.agreed(trainer)
        if step > self._saved and (interrupted or step % self.every_n_steps == 0):
            self._save(trainer)
        if interrupted:
            if trainer.is_global_zero:
                self._interruption.requeue(interrupted)
            raise interrupted

    def _save(self, trainer: Trainer) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it elsewhere
            if isinstance(callback, Divergence):
                callback.check(trainer)
        self._saved = trainer.global_step
        trainer.save_checkpoint(Path(trainer.default_root_dir, LAST))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        events: dict[str, int] = {}
        if trainer.is_global_zero:
            for folder in _boards(trainer):
                events |= {path.name: path.stat().st_size for path in folder.glob(EVENTS)}
        checkpoint["run"] = {"seconds": self.seconds, "events": events}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        run = checkpoint["run"]
        self._seconds_before = run["seconds"]
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    take_back(Path(logger.log_dir), run["events"])


def take_back(folder: Path, events: dict[str, int]) -> None:
    """Leave of TensorBoard's files in `folder` those in `events`, and of each only as many bytes."""
    for path in folder.glob(EVENTS):
        if path.name not in events:
            path.unlink()
        elif path.stat().st_size > events[path.name]:
            os.truncate(path, events[path.name])


def _boards(trainer: Trainer) -> list[Path]:
    """Folders of TensorBoard's files, to which all has been written that was logged."""
    boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    for logger in boards:
        logger.save()
    return [Path(logger.log_dir) for logger in boards]
