"""Stores to measure reading with, and the reading; ``python -m benchmarks.stores`` writes a table into docs/data.md."""

import io
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from benchmarks import measure
from benchmarks.report import duration
from benchmarks.stages import compose_train
from tinyworlds.command import CONF, build
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.collection import open_frames
from tinyworlds.data.store import StoreWriter
from tinyworlds.progress import track

EPISODE = 200  # frames
PAGE = CONF.parent / "docs" / "data.md"
SECTION = "many stores"
STORES, FRAMES, FRAME_SIZE = 1_000, 10_000_000, (64, 64)
CLIP_LENGTH, BATCH_SIZE = 4, 32
BATCHES = (25, 250)
FILM = 20_000  # frames of the store that is read through a file object


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


def write_many(folder: Path, *, stores: int, frames: int, frame_size: tuple[int, int]) -> Path:
    """So many sparse stores of very unequal sizes, with so many frames together; returns the pattern of their names."""
    folder.mkdir()
    shares = np.random.default_rng(0).dirichlet(np.ones(stores)) * (frames - stores * EPISODE)
    borders = np.append(0, np.cumsum(shares).round().astype(int)) + np.arange(stores + 1) * EPISODE
    for number, size in enumerate(track(np.diff(borders).tolist(), total=stores, label="writing stores")):
        write_sparse(folder / f"{number:04}.h5", frames=size, frame_size=frame_size)
    return folder / "*.h5"


def order_an_epoch(path: Path, *, clip_length: int, batch_size: int) -> tuple[int, float]:
    """How many clips an epoch has, and seconds to draw its order and find where each of them is; none is read."""
    data = data_module(path, clip_length=clip_length, batch_size=batch_size, workers=0)
    data.setup()
    begun = time.perf_counter()
    clips = sum(len(data.train_clips.start(np.asarray(batch))) for batch in data.train_dataloader().batch_sampler)
    return clips, time.perf_counter() - begun


def read_batches(path: Path, *, clip_length: int, batch_size: int, batches: int) -> float:
    """Seconds for each of some shuffled batches after the first."""
    data = data_module(path, clip_length=clip_length, batch_size=batch_size, workers=0)
    data.setup()
    loaded = iter(data.train_dataloader())
    next(loaded)
    begun = time.perf_counter()
    for _ in range(batches):
        next(loaded)
    return (time.perf_counter() - begun) / batches


class Counted(io.FileIO):
    """Counts what is read of it: of a file elsewhere, requests."""

    reads = bytes = 0

    def readinto(self, buffer: Any) -> int:
        self.reads += 1
        self.bytes += (count := super().readinto(buffer) or 0)
        return count


def read_through(path: Path, *, clip_length: int, batch_size: int, batches: int) -> tuple[float, float, float]:
    """Seconds, reads and megabytes for each of some shuffled batches that h5py reads from a file object."""
    rng = np.random.default_rng(0)
    with Counted(path) as counted, h5py.File(counted, "r") as file:
        frames = file["frames"]
        before, begun = (counted.reads, counted.bytes), time.perf_counter()
        for _ in range(batches):
            for start in np.sort(rng.integers(0, len(frames) - clip_length, batch_size)):
                frames[start : start + clip_length]
        seconds = time.perf_counter() - begun
        return seconds / batches, (counted.reads - before[0]) / batches, (counted.bytes - before[1]) / batches / 1e6


def hash_twice(path: Path) -> tuple[float, float]:
    """Seconds to hash all stores, and to do so again."""
    frames = open_frames(path)
    begun = time.perf_counter()
    frames.digest()
    hashed = time.perf_counter()
    frames.digest()
    return hashed - begun, time.perf_counter() - hashed


def measure_many(folder: Path) -> list[list[str]]:
    """Rows of the table, each measured in a process of its own."""
    path = write_many(folder / "many", stores=STORES, frames=FRAMES, frame_size=FRAME_SIZE)
    one = folder / "one.h5"
    write_sparse(one, frames=FRAMES, frame_size=FRAME_SIZE)
    clips = {"clip_length": CLIP_LENGTH, "batch_size": BATCH_SIZE}
    (opening, first), peak = measure.in_fresh_process(open_and_read, path, **clips)
    rows = [
        ["opening the stores, each once", duration(opening), ""],
        ["the order of an epoch and its first batch", duration(first), f"{peak:.0f} MB, the opening included"],
    ]
    (count, seconds), peak = measure.in_fresh_process(order_an_epoch, path, **clips)
    rows.append([f"finding each of the {count:,} clips of an epoch, by batches", duration(seconds), f"{peak:.0f} MB"])
    for name, store, batches in (
        ("a batch, first read", path, BATCHES[0]),
        ("a batch, first read, after more of them", path, BATCHES[1]),
        ("the same from one store of as many frames", one, BATCHES[0]),
    ):
        seconds, peak = measure.in_fresh_process(read_batches, store, **clips, batches=batches)
        rows.append([f"{name} (mean of {batches})", duration(seconds), f"{peak:.0f} MB"])
    return rows


def measure_few(folder: Path) -> list[list[str]]:
    """The same of frames that the system keeps in memory."""
    folder.mkdir()
    film, part = folder / "film.h5", folder / "0.part.h5"
    write_film(film, frames=FILM, frame_size=FRAME_SIZE)
    write_film(part, frames=FILM // STORES, frame_size=FRAME_SIZE)
    for number in range(1, STORES):
        shutil.copy(part, folder / f"{number}.part.h5")
    parts = folder / "*.part.h5"
    clips = {"clip_length": CLIP_LENGTH, "batch_size": BATCH_SIZE, "batches": BATCHES[1]}
    (first, again), _ = measure.in_fresh_process(hash_twice, parts)
    size = STORES * part.stat().st_size / 1e6
    many, _ = measure.in_fresh_process(read_batches, parts, **clips)
    one, _ = measure.in_fresh_process(read_batches, film, **clips)
    (through, reads, megabytes), _ = measure.in_fresh_process(read_through, film, **clips)
    return [
        [f"a batch from {STORES:,} stores of {FILM // STORES} frames that are in memory", duration(many), ""],
        [f"a batch from one store of {FILM:,}", duration(one), ""],
        [f"… by h5py from a file object: {reads:.0f} reads, {megabytes:.1f} MB", duration(through), ""],
        [f"hashing the {STORES:,} stores, {size:.0f} MB", duration(first), ""],
        ["asking for the hashes again", duration(again), ""],
    ]


def main() -> None:
    """Measure and write."""
    try:
        measure.check_section(PAGE, SECTION)
    except ValueError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_many(Path(folder)) + measure_few(Path(folder, "few"))
    machine = measure.machine(torch.device("cpu"))
    text = (
        f"{machine['cpu']}, {machine['threads']} thread(s), commit {measure.commit()}: {STORES:,} stores of "
        f"{FRAMES:,} frames in all, batches of {BATCH_SIZE} clips of {CLIP_LENGTH} frames of {FRAME_SIZE[0]}x"
        f"{FRAME_SIZE[1]}.\n\n{measure.table(['', 'time', 'peak memory'], rows)}"
    )
    measure.write_section(PAGE, SECTION, text)
    print(f"wrote the table in {PAGE}")


if __name__ == "__main__":
    main()
