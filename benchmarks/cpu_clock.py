"""How much processor time the steps of a training run take; a callback for `train.py`."""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tinyworlds.media import replacing

FILE = "cpu.json"
WARM_UP = 5
"""Steps at the beginning that do not count for the mean."""


class CpuClock(Callback):
    """Writes `FILE` into the run's folder: ``steps``, the CPU ``seconds`` of all, and of a step after `WARM_UP` others.

    A step includes the reading of its batch, where no other process does that, and its share of checkpoints and logs;
    validation at the end of the run is left out. With `enough` seconds the run ends when as many have passed, but not
    before as many steps as `WARM_UP` were counted.
    """

    def __init__(self, *, enough: float | None = None) -> None:
        self.enough = enough

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._warm = self._now = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._now = time.process_time()
        if trainer.global_step == WARM_UP:
            self._warm = self._now
        late = self.enough is not None and self._now - self._began >= self.enough
        if late and trainer.global_step >= 2 * WARM_UP:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        steps = trainer.global_step
        counted = steps - WARM_UP if steps > WARM_UP else steps
        found = {
            "steps": steps,
            "seconds": self._now - self._began,
            "seconds_per_step": (self._now - self._warm) / counted,
        }
        with replacing(Path(trainer.default_root_dir, FILE)) as unfinished:
            unfinished.write_text(json.dumps(found, indent=2) + "\n")
