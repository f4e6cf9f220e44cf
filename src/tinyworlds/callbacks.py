"""What a training run shows while it runs: progress, speed and pictures."""

import sys
import time
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng
from tensorboard.compat.proto.summary_pb2 import Summary

from tinyworlds.data.settings import check_number, check_whole
from tinyworlds.media import gif_bytes, save_gif, save_png
from tinyworlds.progress import SECONDS_BETWEEN_LINES, clock


class DrawsPictures(Protocol):
    """A LightningModule that can show on a batch what it has learned."""

    def pictures(self, batch: Any) -> dict[str, np.ndarray]:
        """Pictures (uint8 H W 3) and films (uint8 T H W 3) by name."""


def progress_bar() -> ProgressBar:
    """A Rich bar on a terminal, plain lines anywhere else."""
    return RichProgressBar() if sys.stdout.isatty() else LogLines()


class LogLines(ProgressBar):
    """Training progress for logs: ``step 200/1000 · loss 0.123 · 3.4 steps/s · 3:12 left``.

    A line at most every `every_seconds`, one after each validation and one at the end. They show what the
    module logs with ``prog_bar=True``: a validation line the metrics called ``val…``, the others the rest.
    """

    def __init__(self, *, every_seconds: float = SECONDS_BETWEEN_LINES) -> None:
        super().__init__()
        self.every_seconds = every_seconds
        self.enable()

    def enable(self) -> None:
        """Print from now on."""
        self._enabled = True

    def disable(self) -> None:
        """Print nothing from now on; Lightning asks for this on every process but the first."""
        self._enabled = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first_step = self._line_step = trainer.global_step
        self._first_time = self._line_time = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now, step = time.monotonic(), trainer.global_step
        if now - self._line_time < self.every_seconds:
            return
        rate = (step - self._line_step) / (now - self._line_time)
        self._line_step, self._line_time = step, now
        left = [] if (seconds := self._seconds_left(trainer, now)) is None else [f"{clock(seconds)} left"]
        self._line(self._progress(trainer), *self._metrics(trainer), f"{rate:.3g} steps/s", *left)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            metrics = self._metrics(trainer, of_validation=True)
            self._line(f"validation at step {trainer.global_step}", *metrics)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        elapsed = clock(time.monotonic() - self._first_time)
        self._line(f"finished at {self._progress(trainer)}", *self._metrics(trainer), f"{elapsed} taken")

    def _line(self, *parts: str) -> None:
        if self._enabled:
            print(*parts, sep=" · ", flush=True)

    def _progress(self, trainer: Trainer) -> str:
        total = trainer.estimated_stepping_batches
        return f"step {trainer.global_step}" + (f"/{total}" if total < float("inf") else "")

    def _metrics(self, trainer: Trainer, of_validation: bool = False) -> list[str]:
        metrics = trainer.progress_bar_metrics.items()
        return [f"{name} {value:.4g}" for name, value in metrics if name.startswith("val") == of_validation]

    def _seconds_left(self, trainer: Trainer, now: float) -> float | None:
        """By the mean speed since the start, validations included; None for a run without an end."""
        steps = trainer.global_step - self._first_step
        total = trainer.estimated_stepping_batches
        if steps == 0 or total == float("inf"):
            return None
        return (now - self._first_time) / steps * (total - trainer.global_step)


class Throughput(Callback):
    """Logs ``steps_per_second`` every `every_n_steps` optimizer steps: the mean since then, validation left out."""

    def __init__(self, *, every_n_steps: int) -> None:
        check_whole("every_n_steps", every_n_steps, at_least=1)
        self.every_n_steps = every_n_steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step, self._since = trainer.global_step, time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = trainer.global_step - self._step
        if steps == 0 or trainer.global_step % self.every_n_steps:
            return
        now = time.monotonic()
        for logger in trainer.loggers:
            # Lightning counts the step that just ended as global_step - 1 in what it logs itself.
            logger.log_metrics({"steps_per_second": steps / (now - self._since)}, trainer.global_step - 1)
        self._step, self._since = trainer.global_step, now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._since += time.monotonic() - self._validation_began


class Pictures(Callback):
    """What the module draws of the first validation batch, every `every_n_steps` or more and at the end.

    The module's ``pictures(batch)`` gives pictures (uint8 H W 3) and films (uint8 T H W 3, shown at `fps`) by
    name. Right after a validation they go to TensorBoard and, as PNG and GIF files, to
    ``pictures/<name>-<step>`` in the trainer's ``default_root_dir``.
    """

    def __init__(self, *, every_n_steps: int, fps: float) -> None:
        check_whole("every_n_steps", every_n_steps, at_least=1)
        check_number("fps", fps, at_least=0.01)
        self.every_n_steps = every_n_steps
        self.fps = fps
        self._drawn_at: int | None = None

    def state_dict(self) -> dict[str, int | None]:
        return {"drawn_at": self._drawn_at}

    def load_state_dict(self, state_dict: dict[str, int | None]) -> None:
        self._drawn_at = state_dict["drawn_at"]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0 and dataloader_idx == 0:
            self._batch = batch

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = trainer.global_step
        ending = trainer.should_stop or step == trainer.max_steps
        due = self._drawn_at is None or step - self._drawn_at >= self.every_n_steps or ending
        if trainer.sanity_checking or not due:
            return
        self._drawn_at = step
        # Drawn on every process, since a sharded model can't run on one alone, and the same way every time;
        # training goes on as if nothing had been drawn.
        with isolate_rng():
            torch.manual_seed(0)
            pictures = cast(DrawsPictures, pl_module).pictures(self._batch)
        if trainer.is_global_zero:
            for name, picture in pictures.items():
                self._write(trainer, name, picture)

    def _write(self, trainer: Trainer, name: str, picture: np.ndarray) -> None:
        step = trainer.global_step
        path = Path(trainer.default_root_dir) / "pictures" / f"{name}-{step:06d}"
        boards = [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if picture.ndim == 3:
            save_png(path.with_suffix(".png"), picture)
            for board in boards:
                board.add_image(name, picture, step, dataformats="HWC")
            return
        save_gif(path.with_suffix(".gif"), picture, self.fps)
        # SummaryWriter.add_video would want moviepy; TensorBoard shows any GIF that is given as an image.
        image = Summary.Image(
            height=picture.shape[1],
            width=picture.shape[2],
            colorspace=3,
            encoded_image_string=gif_bytes(picture, self.fps),
        )
        for board in boards:
            board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)
