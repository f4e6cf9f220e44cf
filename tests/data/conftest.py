from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tinyworlds.data.store import StoreWriter

WriteStore = Callable[..., Path]


def numbered_frames(numbers: Sequence[int], height: int = 8, width: int = 6) -> np.ndarray:
    """Frames from which `numbers_of` reads their number."""
    frames = np.full((len(numbers), height, width, 3), 7, np.uint8)
    frames[..., 0] = np.asarray(numbers)[:, None, None] % 256
    frames[..., 1] = np.asarray(numbers)[:, None, None] // 256
    return frames


def numbers_of(frames: np.ndarray) -> np.ndarray:
    return frames[..., 0, 0, 0].astype(np.int64) + 256 * frames[..., 0, 0, 1].astype(np.int64)


@pytest.fixture
def write_store(tmp_path: Path) -> WriteStore:
    """Writes a store of numbered frames in episodes of the given lengths, action = frame number mod 3."""

    def write(*lengths: int, name: str = "frames.h5", **attributes: object) -> Path:
        path = tmp_path / name
        options = {"source": "a test", "fps": 5.0, "action_names": ["none", "up", "down"]} | attributes
        with StoreWriter(path, height=8, width=6, **options) as writer:
            for length in lengths:
                writer.start_episode()
                numbers = np.arange(writer.num_frames, writer.num_frames + length)
                writer.append(numbered_frames(numbers), numbers % 3 if options["action_names"] else None)
        return path

    return write
