"""Stores to measure reading with, and the reading."""

import time
from pathlib import Path

import h5py
import numpy as np

from benchmarks.stages import compose_train
from tinyworlds.command import build
from tinyworlds.data.datamodules import ClipDataModule
from tinyworlds.data.store import StoreWriter

EPISODE = 200  # frames


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
    """A store of so many frames, laid out as ours are, that takes next to no room on disk: no frame is written."""
    write_film(path, frames=1, frame_size=frame_size)
    with h5py.File(path, "r+") as file:
        layout = file["frames"].id.get_create_plist()
        kind, space = file["frames"].id.get_type(), file["frames"].id.get_space()
        space.set_extent_simple((frames, *frame_size, 3), (h5py.h5s.UNLIMITED, *frame_size, 3))
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        del file["frames"], file["episode_starts"]
        h5py.h5d.create(file.id, b"frames", kind, space, layout)
        file["episode_starts"] = np.arange(0, frames, EPISODE)


def data_module(path: Path, *, clip_length: int, batch_size: int, workers: int) -> ClipDataModule:
    """Clips of a store, to be set up."""
    options = {"path": f"'{path}'", "clip_length": clip_length, "batch_size": batch_size, "num_workers": workers}
    config = compose_train(
        ["stage=video_tokenizer", "data=video", *(f"data.{name}={value}" for name, value in options.items())]
    )
    data: ClipDataModule = build(config.data)
    return data


def open_and_read(path: Path, *, clip_length: int, batch_size: int) -> tuple[float, float]:
    """Seconds to open a store and split it, and from there to the first shuffled batch, read in this process."""
    data = data_module(path, clip_length=clip_length, batch_size=batch_size, workers=0)
    begun = time.perf_counter()
    data.setup()
    opened = time.perf_counter()
    next(iter(data.train_dataloader()))
    return opened - begun, time.perf_counter() - opened
