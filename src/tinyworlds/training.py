"""Running the trainer: from where, and what is said when it ends before its time."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.divergence import LAST, last_good
from tinyworlds.interruption import Interrupted
from tinyworlds.last_checkpoint import LastCheckpoint, take_back
from tinyworlds.models import Stage
from tinyworlds.processes import SameBeginning, ending_together
from tinyworlds.saving import discard_unfinished

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""Errors of a disk that is full or may not be written to."""


def fit(trainer: Trainer, model: Stage, data: ClipDataModule, *, resumed: bool, again: Callable[[], str]) -> None:
    """Train; with `resumed` go on from the last checkpoint in the trainer's folder, or at the beginning where none is.

    Raises:
        SystemExit: the run was interrupted; `again` gives the command that goes on, which was printed.
    """
    folder = Path(trainer.default_root_dir)
    last = folder / LAST
    if resumed and trainer.is_global_zero:
        discard_unfinished(folder)
        if not last.exists():
            take_back(folder, {})
    checkpoint = last if resumed and last.exists() else None
    beginning = f"{model.name} {f'from {checkpoint}' if checkpoint else 'anew'}"
    trainer.callbacks.append(SameBeginning(beginning))  # type: ignore[attr-defined]  # Lightning sets it elsewhere
    try:
        with ending_together(trainer):
            trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    except Interrupted as stop:
        if trainer.is_global_zero:
            saved = f"{last} is saved" if last.exists() else "nothing was done yet"
            print(f"stopped by {stop.signal.name} at step {trainer.global_step}, {saved}; to go on:", flush=True)
            print(f"  {again()}", flush=True)
        raise
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # before the first step; Lightning makes it a 1
            raise stop.__context__ from None
        raise


def outcome(trainer: Trainer) -> tuple[str, float, float]:
    """The name of the best checkpoint in the run's folder, its validation loss, and the seconds that the run took.

    Raises:
        ValueError: nothing was kept.
    """
    kept = {type(callback): callback for callback in trainer.checkpoint_callbacks}
    best, last = kept.get(ModelCheckpoint), kept.get(LastCheckpoint)
    if not isinstance(best, ModelCheckpoint) or not isinstance(last, LastCheckpoint):
        raise ValueError("callbacks: checkpoint and last are needed, without them nothing is kept")
    if best.best_model_score is None:
        raise ValueError("the run ended before its first validation, so nothing was kept: lower validations or steps")
    return Path(best.best_model_path).name, float(best.best_model_score), last.seconds


@contextmanager
def writing_explained(folder: Path) -> Iterator[None]:
    """Say what is left of a run where its `folder` can't be written to any more.

    Raises:
        ValueError: it can't.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        what = f"{error.filename or folder} could not be written: {error.strerror}"
        raise ValueError(f"{what}; {last_good(folder)}") from None


@contextmanager
def memory_explained() -> Iterator[None]:
    """Say which options take less memory, where there is not enough of it.

    Raises:
        ValueError: there is not.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        said = str(error)
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not any(
            sign in said for sign in ("not enough memory", "can't allocate memory", "out of memory")
        ):
            raise
        what = said.partition("\n")[0].rstrip(".") or "an allocation failed"
        raise ValueError(
            f"there is not enough memory ({what}): lower data.batch_size and raise trainer.accumulate_grad_batches as "
            "much, give activation_checkpointing=true, or trainer=fsdp on several GPUs, or lower data.clip_length or "
            "stage.embed_dim"
        ) from None
