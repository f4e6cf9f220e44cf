"""Training that has gone wrong is stopped before it overwrites what was right."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from tinyworlds.data.loader import ClipLoader

LAST = "last.ckpt"
"""The checkpoint of a run from which it goes on."""
CLIPS_NAMED = 8


def last_good(folder: Path) -> str:
    """What there is in a run's `folder` to go on from, in words."""
    last = folder / LAST
    return f"the last good checkpoint is {last}" if last.exists() else "there is no good checkpoint yet"


class _Step(NamedTuple):
    step: int
    epoch: int
    batch: int
    loss: Tensor


class Divergence(Callback):
    """Stops a run whose loss or weights are no longer finite, or whose loss is above `max_loss`.

    A loss is looked at when the next step is done, so that no device is waited for, and before every validation and
    checkpoint; weights only then.

    Raises:
        ValueError: names the step, the clips of its batch and the last good checkpoint.
        SystemExit: in all processes but the first, which says so.
    """

    def __init__(self, *, max_loss: float) -> None:
        self.max_loss = max_loss
        self._unchecked: _Step | None = None
        self._newest: _Step | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loader: ClipLoader = trainer.train_dataloader  # type: ignore[assignment]  # typed as any iterable
        place = loader.state_dict()
        self._unchecked, self._newest = (
            self._newest,
            _Step(trainer.global_step, place["epoch"], place["batches"] - 1, outputs["loss"]),
        )
        self._check_loss(trainer, self._unchecked)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Look at the loss of the newest step and at the weights that it led to."""
        self._check_loss(trainer, self._newest)
        # Of a sharded weight each process looks at its own part.
        weights = (getattr(weight, "_local_tensor", weight) for weight in trainer.lightning_module.parameters())
        finite = all(bool(torch.isfinite(weight).all()) for weight in weights)
        if not trainer.strategy.reduce_boolean_decision(finite) and self._newest is not None:
            self._stop(trainer, self._newest, "weights are not finite")

    def _check_loss(self, trainer: Trainer, taken: _Step | None) -> None:
        loss = 0.0 if taken is None else float(taken.loss)
        bad = not math.isfinite(loss) or loss > self.max_loss
        if taken is not None and trainer.strategy.reduce_boolean_decision(bad, all=False):
            limit = f", above callbacks.divergence.max_loss={self.max_loss:g}" if math.isfinite(loss) else ""
            self._stop(trainer, taken, f"the loss is {loss:g}{limit}")

    def _stop(self, trainer: Trainer, taken: _Step, what: str) -> None:
        if not trainer.is_global_zero:  # all processes find it at once, the first says it
            raise SystemExit(1)
        data = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it elsewhere
        frames = data.first_frames(taken.epoch, taken.batch)
        named = ", ".join(map(str, frames[:CLIPS_NAMED])) + (", …" if len(frames) > CLIPS_NAMED else "")
        raise ValueError(
            f"{what} at step {taken.step}, on the batch of {len(frames)} clips that begin at the frames {named} of "
            f"{data.path}: {last_good(Path(trainer.default_root_dir))}; lower optimizer.lr or trainer.gradient_clip_val"
        )
