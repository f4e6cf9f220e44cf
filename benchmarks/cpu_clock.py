"""How much processor time the steps of a training run take; a callback for `train.py`."""

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from tinyworlds.media import replacing

FILE = "cpu.json"
BLOCK = 10
"""Steps that are timed together: what is done every ten steps is done once in each block."""


class CpuClock(Callback):
    """Writes `FILE` into the run's folder: ``steps``, the CPU ``seconds`` of all, and ``seconds_per_step``.

    The latter are those of the fastest `BLOCK` but the first, since other work on the machine slows a step down and
    never speeds it up. A step includes the reading of its batch, where no other process does that; validation after the
    last step is not counted. With `enough` seconds the run ends after so many, but not before the second block.
    """

    def __init__(self, *, enough: float | None = None) -> None:
        self.enough = enough

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._now = self._block_began = time.process_time()
        self._blocks: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._now = time.process_time()
        if trainer.global_step % BLOCK == 0:
            self._blocks.append(self._now - self._block_began)
            self._block_began = self._now
        if self.enough is not None and self._now - self._began >= self.enough and len(self._blocks) > 1:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seconds, steps = self._now - self._began, trainer.global_step
        fastest = min(self._blocks[1:]) / BLOCK if len(self._blocks) > 1 else seconds / steps
        found = {"steps": steps, "seconds": seconds, "seconds_per_step": fastest}
        with replacing(Path(trainer.default_root_dir, FILE)) as unfinished:
            unfinished.write_text(json.dumps(found, indent=2) + "\n")
