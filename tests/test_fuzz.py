"""Damaged and doctored files are read as what they were, or refused with a sentence: nothing else happens."""

import copy
import json
import random
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyworlds import World
from tinyworlds.checkpoints import load_stage, save_stage
from tinyworlds.data.store import FrameStore
from tinyworlds.data.truth import true_actions
from tinyworlds.data.video import Extraction
from tinyworlds.models import VideoTokenizer
from tinyworlds.pretrained import CONFIG, WEIGHTS, read_config

from .contained import contained, outcome

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process as Linux does")
effort = pytest.mark.parametrize("effort", [1, pytest.param(10, marks=pytest.mark.slow)])
ODD = st.sampled_from(
    [None, True, -1, 0, 1, 3, 2**16, 2**40, 10**400, 0.5, 1e308, "", "x", "\x1b[0m", [], [2, [3]], {}, {"name": "moe"}]
)


def fuzz(examples: int, data: Callable[..., Any]) -> None:
    """Call `data` with that many different ``st.data()``."""
    quiet = settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    quiet(given(drawn=st.data())(lambda drawn: data(drawn)))()


def damaged(content: bytes, drawn: st.DataObject, *, first: int = 0, last: int | None = None) -> bytes:
    """With a few bytes between `first` and `last` changed, or cut off."""
    changed = bytearray(content)
    last = len(content) if last is None else last
    for _ in range(drawn.draw(st.integers(1, 4))):
        changed[drawn.draw(st.integers(first, last - 1))] = drawn.draw(st.sampled_from([0, 1, 127, 128, 255]))
    return bytes(changed[: drawn.draw(st.sampled_from([len(content)] * 4 + [last - 1, len(content) // 2]))])


@pytest.fixture
def world(dynamics, tmp_path: Path) -> Path:
    World(dynamics).save_pretrained(tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def store(small_store: Path, tmp_path: Path) -> Path:
    """A small store with all that a store may have."""
    path = tmp_path / "small.h5"
    shutil.copy(small_store, path)
    with h5py.File(path, "r+") as file:
        file["actions"] = np.arange(48) % 3
        file.attrs["action_names"] = ["none", "up", "down"]
        file.attrs["settings"] = json.dumps({"frames": 48, "crop": {"top": 3}})
        file.create_dataset("packed", data=file["frames"][:], compression="gzip", chunks=(2, 16, 16, 3))
    return path


def parts(config: Any) -> list[Any]:
    """Every dict and list inside."""
    inner = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    return ([config] if inner else []) + [part for each in inner for part in parts(each)]


@effort
def test_configs(world, dynamics, effort):
    original = (world / CONFIG).read_text()
    weights = dynamics.state_dict()

    def one(drawn: st.DataObject) -> None:
        config = json.loads(original)
        for _ in range(drawn.draw(st.integers(1, 2))):
            part = drawn.draw(st.sampled_from(parts(config)))
            key = drawn.draw(st.sampled_from(sorted(part) if isinstance(part, dict) else range(len(part))))
            if drawn.draw(st.booleans()):
                part[key] = copy.deepcopy(drawn.draw(ODD))  # which the next change may change
            elif isinstance(part, dict):
                part.pop(key)
        (world / CONFIG).write_text(json.dumps(config))
        loaded: list[World] = []
        if not outcome(lambda: loaded.append(World.load(world))):
            state = loaded[0].dynamics.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in weights.items())
            frame = loaded[0].reset(np.zeros((2, 16, 24, 3), np.uint8))
            assert frame.shape == (16, 24, 3)

    fuzz(40 * effort, one)


@effort
def test_texts_of_configs(world, effort):
    original = (world / CONFIG).read_bytes()

    def one(drawn: st.DataObject) -> None:
        (world / CONFIG).write_bytes(damaged(original, drawn))
        outcome(lambda: read_config(world / CONFIG))

    fuzz(100 * effort, one)


@effort
def test_headers_of_weights(world, dynamics, effort):
    original = (world / WEIGHTS).read_bytes()
    end = 8 + struct.unpack("<Q", original[:8])[0]
    weights = dynamics.state_dict()

    def one(drawn: st.DataObject) -> None:
        (world / WEIGHTS).write_bytes(damaged(original, drawn, last=end))
        loaded: list[World] = []
        if not outcome(lambda: loaded.append(World.load(world))):
            assert loaded[0].dynamics.state_dict().keys() == weights.keys()

    fuzz(25 * effort, one)


@effort
@pytest.mark.parametrize("where", ["anywhere", "pickle", "directory"])
@pytest.mark.filterwarnings("ignore")
def test_checkpoints(video_tokenizer, tmp_path, effort, where):
    path = tmp_path / "tokenizer.ckpt"
    save_stage(video_tokenizer, path)
    original = path.read_bytes()
    weights = video_tokenizer.state_dict()
    begin, end = {
        "anywhere": (0, len(original)),
        "pickle": (0, original.index(b"PK\x07\x08")),
        "directory": (original.index(b"PK\x01\x02"), len(original)),
    }[where]

    def one(drawn: st.DataObject) -> None:
        path.write_bytes(damaged(original, drawn, first=begin, last=end))
        loaded: list[VideoTokenizer] = []
        if not outcome(lambda: loaded.append(load_stage(path, VideoTokenizer))):
            state = loaded[0].state_dict()
            assert all(torch.equal(value, state[name]) for name, value in weights.items())

    fuzz(25 * effort, one)


def changes(content: bytes, count: int, last: int | None = None) -> Iterator[bytes]:
    """Damaged copies."""
    chosen = random.Random(0)
    for _ in range(count):
        copy = bytearray(content)
        for _ in range(chosen.randint(1, 4)):
            copy[chosen.randrange(last or len(copy))] = chosen.choice([0, 1, 2, 127, 128, 255, chosen.randrange(256)])
        yield bytes(copy[: chosen.choice([len(copy)] * 9 + [chosen.randrange(len(copy))])])


@linux
@effort
def test_stores(store, effort):
    original = store.read_bytes()
    metadata = original.rindex(b"settings") + 2000

    def read(path: Path) -> None:
        with FrameStore(path) as frames:
            frames.read(0, min(frames.num_frames, 4))
            frames.read_clips([0, 3], 2)
        true_actions(path, 0, 4)

    def task() -> list[str]:
        sentences = []
        for content in changes(original, 200 * effort, last=metadata):
            store.write_bytes(content)
            sentences.append(outcome(lambda: read(store)))
        return sentences

    sentences = contained(task, seconds=30 * effort)
    assert "" in sentences
    assert len(set(sentences)) > 5


@linux
@effort
def test_videos(tmp_path, effort):
    path = tmp_path / "game.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(8):
            picture = np.full((32, 32, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    original = path.read_bytes()
    extraction = Extraction(fps=10, size=16, crop={}, start=0, end=None)

    def task() -> list[str]:
        sentences = []
        for content in changes(original, 60 * effort):
            path.write_bytes(content)
            sentences.append(outcome(lambda: extraction.write(path, tmp_path / "game.h5")))
        return sentences

    sentences = contained(task, seconds=30 * effort)
    assert "" in sentences
    assert len(set(sentences)) > 1
