import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tinyworlds.data.store import FrameStore
from tinyworlds.data.video import store_beside

from .conftest import FPS, FRAMES, extraction


def seconds_of(frames: np.ndarray) -> np.ndarray:
    return (frames[:, -1, -1, 0].astype(float) - 40) / 2 / FPS


def test_every_frame_is_kept_where_no_rate_is_asked_for(video: Path, tmp_path: Path) -> None:
    assert extraction().write(video, tmp_path / "game.h5") == FRAMES
    with FrameStore(tmp_path / "game.h5") as store:
        frames = store.read(0, FRAMES)
        assert (store.fps, store.source, store.action_names) == (FPS, "game.mp4", None)
        assert store.settings == extraction().settings(video)
    assert frames.shape == (FRAMES, 16, 16, 3)
    np.testing.assert_allclose(seconds_of(frames), np.arange(FRAMES) / FPS, atol=2 / FPS)
    np.testing.assert_allclose(frames[:, :7, :7, 1], 200, atol=6)
    np.testing.assert_allclose(frames[:, 9:, 9:, 1], 0, atol=6)


@pytest.mark.parametrize("fps", [5, 10, 15, 60])
def test_frames_are_kept_at_the_rate_asked_for(video: Path, tmp_path: Path, fps: int) -> None:
    count = extraction(fps=fps).write(video, tmp_path / "game.h5")
    with FrameStore(tmp_path / "game.h5") as store:
        frames = store.read(0, count)
        assert store.fps == fps
    assert count == pytest.approx(3 * fps, abs=1)
    np.testing.assert_allclose(seconds_of(frames), np.arange(count) / fps, atol=1 / fps + 2 / FPS)


def test_start_and_end_are_seconds_of_the_video(video: Path, tmp_path: Path) -> None:
    count = extraction(start=1, end=2).write(video, tmp_path / "game.h5")
    with FrameStore(tmp_path / "game.h5") as store:
        seconds = seconds_of(store.read(0, count))
    assert count == FPS
    np.testing.assert_allclose(seconds, 1 + np.arange(FPS) / FPS, atol=2 / FPS)


@pytest.mark.parametrize(
    ("crop", "green"),
    [({"bottom": 30, "right": 40}, 200), ({"top": 31, "left": 3}, 0), ({"bottom": 29, "left": 41}, 0)],
)
def test_a_crop_is_exact_to_the_pixel(video: Path, tmp_path: Path, crop: dict[str, int], green: int) -> None:
    extraction(crop=crop, size=[6, 10]).write(video, tmp_path / "game.h5")
    with FrameStore(tmp_path / "game.h5") as store:
        frames = store.read(0, 3)
    assert frames.shape == (3, 6, 10, 3)
    # Colour is stored at half resolution: beside the edge it is a blend.
    np.testing.assert_allclose(frames[:, 1:-1, 1:-1, 1], green, atol=8)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fps": 0}, "fps=0"),
        ({"size": -1}, "size=-1"),
        ({"start": -1}, "start=-1"),
        ({"start": 3, "end": 2}, "end=2"),
    ],
)
def test_an_impossible_setting_is_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        extraction(**settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start": 100}, "has no frame between start=100"),
        ({"crop": {"right": 81}}, "does not fit the picture of 60 rows and 80 columns"),
    ],
)
def test_what_does_not_fit_the_video_leaves_nothing(
    video: Path, tmp_path: Path, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        extraction(**settings).write(video, tmp_path / "game.h5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100], ids=["empty", "text"])
def test_an_unreadable_video_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.mp4 cannot be read as a video"):
        extraction().write(tmp_path / "bad.mp4", tmp_path / "bad.h5")
    assert not (tmp_path / "bad.h5").exists()


def test_a_cut_off_video_is_named(video: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut\.mp4 cannot be read as a video"):
        extraction().write(tmp_path / "cut.mp4", tmp_path / "cut.h5")


def test_a_missing_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no video .*none\.mp4"):
        extraction().write(tmp_path / "none.mp4", tmp_path / "none.h5")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(ValueError, match=r"sound\.wav has no video"):
        extraction().write(tmp_path / "sound.wav", tmp_path / "sound.h5")


def test_an_interrupted_extraction_leaves_nothing(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(iterable: Any, **_: Any) -> Any:
        yield from (frame for frame, _ in zip(iterable, range(20), strict=False))
        raise KeyboardInterrupt

    monkeypatch.setattr("tinyworlds.data.video.track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extraction().write(video, tmp_path / "game.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_kept_beside_its_video() -> None:
    assert store_beside(Path("films/game.mp4")) == Path("films/game.h5")
    assert store_beside(Path("films/game.h5")) == Path("films/game.h5")


def test_the_command_extracts(video: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tinyworlds.data.video",
        f"out={tmp_path / 'out.h5'}",
        "fps=10",
        "size=[8,12]",
    ]
    done = subprocess.run([*command, f"path={video}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with FrameStore(tmp_path / "out.h5") as store:
        assert (store.num_frames, store.height, store.width) == (30, 8, 12)
    again = subprocess.run([*command, f"path={video}"], capture_output=True, text=True)
    sentence = f"error: {tmp_path / 'out.h5'} is there already: move it away, or give another out=\n"
    assert (again.returncode, again.stderr) == (1, sentence)
    (tmp_path / "out.h5").unlink()
    done = subprocess.run([*command, "path=none.mp4"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: there is no video none.mp4\n")
