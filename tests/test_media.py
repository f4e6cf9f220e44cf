from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from tinyworlds.media import enlarge, gif_bytes, grid, replacing, save_gif, save_mp4, save_png

RNG = np.random.default_rng(0)
WHITE, DARK = 255, 128


def film(frames: int, height: int, width: int, colours: int = 256) -> np.ndarray:
    palette = RNG.integers(0, 256, (colours, 3), dtype=np.uint8)
    return palette[RNG.integers(0, colours, (frames, height, width))]


def smooth(frames: int, height: int, width: int) -> np.ndarray:
    """A gradient that drifts, with far more than 256 colours."""
    t, y, x = np.mgrid[:frames, :height, :width]
    return np.stack([4 * y + t, 4 * x + t, 2 * (x + y)], axis=-1).clip(0, 255).astype(np.uint8)


def gif_frames(data: bytes) -> tuple[np.ndarray, list[int]]:
    frames, times = [], []
    for frame in ImageSequence.Iterator(Image.open(BytesIO(data))):
        frames.append(np.asarray(frame.convert("RGB")))
        times.append(frame.info["duration"])
    return np.stack(frames), times


def test_enlarge_repeats_every_pixel_in_both_directions():
    frames = film(2, 3, 5)
    large = enlarge(frames, 3)
    assert large.shape == (2, 9, 15, 3)
    for dy in range(3):
        for dx in range(3):
            np.testing.assert_array_equal(large[:, dy::3, dx::3], frames)


@given(rows=st.integers(1, 3), columns=st.integers(1, 3), scale=st.integers(1, 3), gap=st.integers(0, 3))
def test_a_grid_holds_every_picture_at_its_row_and_column(rows, columns, scale, gap):
    images = np.arange(rows * columns * 4 * 5 * 3, dtype=np.uint8).reshape(rows, columns, 4, 5, 3)
    page = grid(images, scale=scale, gap=gap)
    assert page.shape == (rows * (4 * scale + gap) + gap, columns * (5 * scale + gap) + gap, 3)
    for row in range(rows):
        for column in range(columns):
            y, x = gap + row * (4 * scale + gap), gap + column * (5 * scale + gap)
            found = page[y : y + 4 * scale, x : x + 5 * scale]
            np.testing.assert_array_equal(found, enlarge(images[row, column], scale))


def test_labels_stand_beside_their_rows_and_above_their_columns():
    images = np.full((2, 3, 20, 30, 3), WHITE, np.uint8)
    bare = grid(images)
    page = grid(images, labels=["", "imagined"], column_labels=["", "up", ""])
    top, left = page.shape[0] - bare.shape[0], page.shape[1] - bare.shape[1]
    assert (page[top:, left:] == WHITE).all(), "labels stay outside the pictures"
    beside, above = page[top:, :left] < DARK, page[:top, left:] < DARK
    middle_of_rows, thirds = beside.shape[0] // 2, above.shape[1] // 3
    assert not beside[:middle_of_rows].any()
    assert beside[middle_of_rows:].any()
    assert above[:, thirds : 2 * thirds].any()
    assert not above[:, :thirds].any()
    assert not above[:, 2 * thirds :].any()


def test_a_label_too_few_is_refused():
    with pytest.raises(ValueError, match="1 labels for 2"):
        grid(film(2, 4, 4)[:, None], labels=["true"])


@pytest.mark.parametrize("colours", [1, 2, 17, 256])
def test_a_gif_of_up_to_256_colours_keeps_every_pixel(colours):
    frames = film(6, 16, 20, colours)
    shown, times = gif_frames(gif_bytes(frames, fps=10))
    if colours == 1:  # equal frames become one that is shown longer
        frames = frames[:1]
    np.testing.assert_array_equal(shown, frames)
    assert sum(times) == 600


def test_a_gif_of_many_colours_is_near_and_does_not_flicker():
    frames = np.concatenate([smooth(1, 32, 32)] * 2 + [smooth(8, 32, 32)])
    frames[:, :8] = frames[0, :8]
    shown, _ = gif_frames(gif_bytes(frames, fps=10))
    assert np.abs(shown[-1].astype(int) - frames[-1]).mean() < 8
    assert (shown[:, :8] == shown[0, :8]).all(), "what stands still keeps its colour"


@given(fps=st.floats(1, 49))
def test_a_gif_lasts_as_long_as_its_film(fps):
    frames = film(30, 2, 2)
    _, times = gif_frames(gif_bytes(frames, fps))
    assert abs(sum(times) / 1000 - 30 / fps) < 0.02


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 31)])
def test_an_mp4_holds_the_film(tmp_path: Path, height, width):
    frames = smooth(9, height, width)
    save_mp4(tmp_path / "film.mp4", frames, fps=7.5)
    with av.open(str(tmp_path / "film.mp4")) as video:
        assert video.streams.video[0].average_rate == 7.5
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)])
    assert shown.shape == (9, height + height % 2, width + width % 2, 3)
    assert np.abs(shown[:, :height, :width].astype(int) - frames).mean() < 4
    assert np.abs(shown[:, -1, :width].astype(int) - frames[:, -1]).mean() < 8, "no dark line at an odd edge"


def test_files_are_written_in_new_folders_and_read_back(tmp_path: Path):
    frames = film(3, 4, 6)
    save_png(tmp_path / "new" / "a.png", frames[0])
    save_gif(tmp_path / "new" / "a.gif", frames, fps=5)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), frames[0])
    assert (tmp_path / "new" / "a.gif").read_bytes() == gif_bytes(frames, fps=5)
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.png", "a.gif"}


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "film.mp4"
    target.write_text("old")

    def interrupted() -> None:
        with replacing(target) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_two_who_write_one_file_at_once_leave_a_whole_one(tmp_path: Path):
    """As processes of two machines do that have the same number."""
    target = tmp_path / "film.mp4"
    with replacing(target) as one:
        one.write_text("the one")
        with replacing(target) as other:
            other.write_text("the other")
        assert target.read_text() == "the other"
    assert target.read_text() == "the one"
    assert list(tmp_path.iterdir()) == [target]
