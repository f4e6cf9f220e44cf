from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tinyworlds.data.store import StoreWriter
from tinyworlds.data.video import Extraction

WriteStore = Callable[..., Path]
FPS, FRAMES = 30, 90


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


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds at 30 frames/s: red says the time, the upper left quarter is green."""
    path = tmp_path_factory.mktemp("video") / "game.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        for number in range(FRAMES):
            picture = np.zeros((60, 80, 3), np.uint8)
            picture[..., 0] = 40 + 2 * number
            picture[:30, :40, 1] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def extraction(**settings: Any) -> Extraction:
    whole = {"top": 0, "bottom": None, "left": 0, "right": None}
    return Extraction(**{"fps": None, "size": 16, "crop": whole, "start": 0, "end": None} | settings)
