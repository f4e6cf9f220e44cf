"""Stores and films that strangers made to do harm."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest

from tinyworlds.data.hdf5 import FILTERS
from tinyworlds.data.hub import rewrite
from tinyworlds.data.store import FrameStore
from tinyworlds.data.truth import true_actions
from tinyworlds.data.video import Extraction

from ..contained import contained, outcome
from ..exploits import CANARY, EXTRACTION, Call, frames_in, linux


def put(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((8, 16, 16, 3), np.uint8)
    layout[:] = h5py.VirtualSource("secret.h5", "frames", (8, 16, 16, 3))
    del file["frames"]
    file.create_virtual_dataset("frames", layout)


def instead(**options: Any) -> Callable[[h5py.File], None]:
    """`frames` made with other options."""

    def make(file: h5py.File) -> None:
        del file["frames"]
        file.create_dataset("frames", **options)

    return make


def linked(link: Any, name: str = "frames") -> Callable[[h5py.File], None]:
    def make(file: h5py.File) -> None:
        if name in file:
            file.move(name, "elsewhere")
        file[name] = link

    return make


def filtered(file: h5py.File) -> None:
    """Packed by a filter that HDF5 would have to load."""
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk((1, 16, 16, 3))
    made.set_filter(32768 - 2, h5py.h5z.FLAG_OPTIONAL)
    assert 32768 - 2 not in FILTERS
    del file["frames"]
    space = h5py.h5s.create_simple((8, 16, 16, 3))
    h5py.h5d.create(file.id, b"frames", h5py.h5t.NATIVE_UINT8, space, made)


RAGGED = np.array([np.zeros(1, np.uint8), np.zeros(2, np.uint8)], object)
SHAPE = {"dtype": np.uint8, "chunks": (1, 16, 16, 3)}
STORES: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "external link": (linked(h5py.ExternalLink("secret.h5", "/frames")), "is a link to elsewhere"),
    "soft link": (linked(h5py.SoftLink("/elsewhere")), "is a link to elsewhere"),
    "link to itself": (linked(h5py.SoftLink("/frames")), "is a link to elsewhere"),
    "link of episodes": (linked(h5py.ExternalLink("secret.h5", "/x"), "episode_starts"), "is a link to elsewhere"),
    "virtual": (virtual, "are in other files"),
    "external values": (
        instead(shape=(8, 16, 16, 3), dtype=np.uint8, external=[("secret.h5", 0, 8 * 768)]), "are in other files",
    ),
    "foreign filter": (filtered, "is packed by filter 32766"),
    "group": (lambda file: (file.move("frames", "x"), file.create_group("frames"))[0], "is no dataset"),
    "frames without end": (instead(shape=(2**40, 16, 16, 3), **SHAPE), "more than 33554432"),
    "frames without sides": (instead(shape=(8, 0, 16, 3), dtype=np.uint8), "is empty"),
    "vast frames": (instead(shape=(8, 2**15, 16, 3), **SHAPE), "larger than 2048x2048"),
    "vast chunks": (
        instead(shape=(2**18, 64, 64, 3), dtype=np.uint8, chunks=(2**15, 64, 64, 3), compression="gzip"),
        "in chunks of",
    ),
    "references": (instead(shape=(8,), dtype=h5py.ref_dtype), "must be uint8"),
    "texts": (instead(shape=(8,), dtype=h5py.string_dtype()), "must be uint8"),
    "episodes without end": (
        lambda file: file.create_dataset("episode_starts", (2**40,), np.int64, chunks=(1024,)), "at most 1048576",
    ),
    "episodes of floats": (lambda file: file.__setitem__("episode_starts", [0.0, 2.5]), "whole numbers"),
    "fps of text": (put("fps", "x"), "fps is no positive number"),
    "fps of nothing": (put("fps", float("nan")), "fps is no positive number"),
    "endless fps": (put("fps", float("inf")), "fps is no positive number"),
    "many fps": (put("fps", np.ones(50)), "fps is no positive number"),
    "empty fps": (put("fps", h5py.Empty("f")), "is damaged"),
    "vast source": (put("source", "x" * 10**6), "source is no line of text"),
    "escape in the source": (put("source", "\x1b]0;owned\x07"), "source is no line of text"),
    "pickle for a source": (put("source", np.void(pickle.dumps(Call()))), "source is neither numbers nor text"),
    "no text for a source": (put("source", b"\xff\xfe"), "source is no line of text"),
    "lists of lists for action names": (
        lambda file: file.attrs.create("action_names", shape=(2,), data=RAGGED, dtype=h5py.vlen_dtype(np.uint8)),
        "action_names is neither numbers nor text",
    ),
    "one action name": (put("action_names", "up"), "action_names is no list"),
    "numbers for action names": (put("action_names", [1, 2]), "action_names is no line of text"),
    "settings nested deeply": (put("settings", '{"a":' * 5000 + "1" + "}" * 5000), "read: it is nested too deeply"),
    "settings that are none": (put("settings", "[1]"), "settings cannot be read: it is no object"),
    "pickle for settings": (put("settings", np.void(pickle.dumps(Call()))), "settings is neither numbers nor text"),
}  # fmt: skip


@linux
def test_stores_that_reach_out_or_declare_too_much_are_refused(folder):
    frames_in(folder / "secret.h5")

    def read() -> list[str]:
        sentences = []
        for number, (change, _) in enumerate(STORES.values()):
            with h5py.File(frames_in(folder / f"store{number}.h5"), "r+") as file:
                change(file)
            sentences.append(outcome(lambda path=folder / f"store{number}.h5": FrameStore(path)))
        return sentences

    for name, sentence in zip(STORES, contained(read), strict=True):
        assert STORES[name][1] in sentence, (name, sentence)
    assert not (folder / CANARY).exists()


def test_actions_in_other_files_or_beyond_their_names_are_refused(folder):
    frames_in(folder / "secret.h5")
    for value, named in (
        (h5py.ExternalLink("secret.h5", "/frames"), "is a link to elsewhere"),
        (np.array([0, 2]), "stand for none of the action_names"),
        (np.array([0, -1]), "stand for none of the action_names"),
        (np.array([0.0, 1.0]), "one whole number a frame"),
    ):
        with h5py.File(frames_in(folder / "store.h5"), "r+") as file:
            file["actions"] = value
            file.attrs["action_names"] = ["up", "down"]
        assert named in outcome(lambda: true_actions(folder / "store.h5", 0, 2))


def test_a_small_file_is_not_made_into_a_vast_store(folder):
    frames_in(folder / "public.h5", data=None, shape=(2**20, 16, 16, 3), dtype=np.uint8, chunks=(64, 16, 16, 3))
    sentence = outcome(lambda: rewrite(folder / "public.h5", folder / "store.h5", source="x", size=16))
    assert "far more than it can hold" in sentence
    assert not (folder / "store.h5").exists()


def film(path: Path, times: list[int]) -> Path:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for time in times:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), time % 256, np.uint8), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile secret.mp4\n",
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.5,\nsecret.mp4\n#EXT-X-ENDLIST\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>secret.mp4</BaseURL></MPD>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ffconcat"])
def test_a_list_of_other_films_is_no_video(folder, name, suffix):
    film(folder / "secret.mp4", list(range(5)))
    path = folder / f"game{suffix}"
    path.write_text(LISTS[name])
    assert "cannot be read as a video" in outcome(lambda: Extraction(**EXTRACTION).write(path, folder / "out.h5"))
    assert not (folder / "out.h5").exists()
    assert Extraction(**EXTRACTION).write(folder / "secret.mp4", folder / "out.h5") == 5


def test_a_film_whose_clock_jumps_does_not_fill_the_disk(folder):
    film(folder / "game.mp4", [0, 1, 2, 10**6])
    sentence = outcome(lambda: Extraction(**EXTRACTION).write(folder / "game.mp4", folder / "out.h5"))
    assert "jumps by more than 3600 s" in sentence
    assert not (folder / "out.h5").exists()
