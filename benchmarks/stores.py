"""Stores to measure reading with, and the reading."""

import time
from pathlib import Path

import h5py
import numpy as np

from tinyworlds.data.datamodules import ClipDataModule
from tinyworlds.data.store import CHUNK_FRAMES, COMPRESSION, StoreWriter

EPISODE = 200  # frames
VAL_FRACTION = 0.1


def write_film(path: Path, *, frames: int, frame_size: tuple[int, int]) -> None:
    """A store of a square that moves over a picture of coarse noise; about as hard to compress as a game."""
    height, width = frame_size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    background = coarse.repeat(4, axis=0).repeat(4, axis=1)
    with StoreWriter(path, height=height, width=width, source="a moving square") as writer:
        for number in range(frames):
            if number % EPISODE == 0:
                writer.start_episode()
            frame = background.copy()
            row, column = number % (height - 4), 2 * number % (width - 4)
            frame[row : row + 4, column : column + 4] = 255
            writer.append(frame[None])


def write_sparse(path: Path, *, frames: int, frame_size: tuple[int, int]) -> None:
    """A store of so many black frames that takes no room on disk: none of its chunks is ever written."""
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "frames",
            shape=(frames, *frame_size, 3),
            chunks=(CHUNK_FRAMES, *frame_size, 3),
            dtype=np.uint8,
            compression=COMPRESSION,
        )
        file["episode_starts"] = np.arange(0, frames, EPISODE)


def data_module(path: Path, *, clip_length: int, batch_size: int, workers: int) -> ClipDataModule:
    """Clips of a store, ready to be read."""
    data = ClipDataModule(
        name="bench",
        path=str(path),
        clip_length=clip_length,
        clip_stride=1,
        batch_size=batch_size,
        num_workers=workers,
        val_fraction=VAL_FRACTION,
        seed=0,
    )
    data.setup()
    return data


def open_and_read(path: Path, *, clip_length: int, batch_size: int) -> tuple[float, float]:
    """Seconds to open a store and split it, and from there to the first shuffled batch, read in this process."""
    begun = time.perf_counter()
    data = data_module(path, clip_length=clip_length, batch_size=batch_size, workers=0)
    opened = time.perf_counter()
    next(iter(data.train_dataloader()))
    return opened - begun, time.perf_counter() - opened
