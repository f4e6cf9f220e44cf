import contextlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tinyworlds.media import gif_bytes, save_mp4
from tinyworlds.play import uploads
from tinyworlds.play.uploads import read_scene

SIZE = (16, 24)


def encoded(picture: np.ndarray, form: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(picture).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


def halves(height: int, width: int) -> np.ndarray:
    """Red at the left, blue at the right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[:, : width // 2, 0], picture[:, width // 2 :, 2] = 255, 255
    return picture


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("JPEG", "RGB"), ("BMP", "L")]
)
def test_a_picture_is_one_frame_of_the_worlds_size(form, mode):
    frames = read_scene(encoded(halves(64, 96), form, mode), size=SIZE, count=4)
    assert frames.shape == (1, *SIZE, 3)
    if mode != "L":
        assert np.abs(frames[0].astype(int) - halves(*SIZE)).max() < 20


def test_the_middle_is_cut_out_of_another_form():
    tall = np.concatenate([np.zeros((40, 48, 3), np.uint8), halves(32, 48), np.zeros((40, 48, 3), np.uint8)])
    assert np.array_equal(read_scene(encoded(tall, "PNG"), size=SIZE, count=1)[0], halves(*SIZE))


def test_pictures_that_are_stored_turned_are_turned_back():
    turned = Image.fromarray(np.rot90(halves(16, 24)).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it
    buffer = BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    assert np.array_equal(read_scene(buffer.getvalue(), size=SIZE, count=1)[0], halves(*SIZE))


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_of_a_film_the_first_frames_are_taken(kind, tmp_path: Path):
    film = np.stack([np.full((32, 48, 3), 40 * n, np.uint8) for n in range(6)])
    content = gif_bytes(film, 15)
    if kind == "mp4":
        save_mp4(tmp_path / "film.mp4", film, 15)
        content = (tmp_path / "film.mp4").read_bytes()
    frames = read_scene(content, size=SIZE, count=4)
    assert frames.shape == (4, *SIZE, 3)
    assert np.abs(frames.mean((1, 2, 3)) - [0, 40, 80, 120]).max() < 3


def test_of_a_quick_film_frames_are_left_out(tmp_path: Path):
    film = np.stack([np.full((32, 48, 3), 8 * n, np.uint8) for n in range(30)])
    save_mp4(tmp_path / "film.mp4", film, 60)
    frames = read_scene((tmp_path / "film.mp4").read_bytes(), size=SIZE, count=4)
    assert np.abs(frames.mean((1, 2, 3)) - [0, 32, 64, 96]).max() < 3


def test_what_is_too_large_is_refused_before_it_is_decoded(monkeypatch):
    bomb = encoded(np.zeros((5000, 5000, 3), np.uint8), "PNG")
    with pytest.raises(ValueError, match="5000x5000 pixels"):
        read_scene(bomb, size=SIZE, count=1)
    monkeypatch.setattr(uploads, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="at most 0 MB"):
        read_scene(bytes(101), size=SIZE, count=1)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"%!PS\n", b"#!AVS1\n", b"ffconcat version 1.0\nfile /etc/passwd\n"]
)
def test_anything_else_is_refused_in_one_sentence(content):
    with pytest.raises(ValueError, match=r"^this [^\n]*$"):
        read_scene(content, size=SIZE, count=1)


@given(place=st.integers(0, 200), value=st.integers(0, 255), cut=st.integers(1, 200))
def test_damaged_pictures_are_read_or_refused(place, value, cut):
    content = bytearray(encoded(halves(16, 24), "PNG"))[:cut]
    content[place % len(content)] = value
    with contextlib.suppress(ValueError):  # and nothing else
        assert read_scene(bytes(content), size=SIZE, count=2).shape[1:] == (*SIZE, 3)
