"""Checkpoints that are complete or absent."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from tinyworlds.media import replacing


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its name, waits until it is on the disk, and moves it into place.

    A process that is killed, a machine that loses power or a disk that is full leave the checkpoint that was there
    before.

    Raises:
        ValueError: it can't be written.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        try:
            with replacing(path) as unfinished, unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            reason: BaseException | None = error
            while reason is not None and not isinstance(
                reason, OSError
            ):  # torch.save reports failed writes in its own way
                reason = reason.__context__
            if reason is None:
                raise
            kept = "the one that was there before is untouched" if Path(path).exists() else "nothing was there before"
            raise ValueError(f"{path} could not be written: {reason.strerror or reason}; {kept}") from None
        _sync_folder(Path(path).parent)


def discard_unfinished(folder: Path) -> None:
    """Remove what killed processes left of checkpoints in a run's `folder`, which nobody else is writing to."""
    for path in folder.glob(".*.ckpt.*"):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Wait until the names of its files are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
