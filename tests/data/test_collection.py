import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyworlds.data import collection
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.clips import Clips, split_spans
from tinyworlds.data.collection import MAX_OPEN, Collection, files, open_frames, short_name
from tinyworlds.data.datamodules import Video
from tinyworlds.data.loader import OwnBatches, ShuffledOrder
from tinyworlds.data.store import FrameStore, StoreWriter
from tinyworlds.data.truth import actions_of

from .conftest import WriteStore, extraction, numbered_frames, numbers_of
from .test_datamodules import OPTIONS

OPEN_FILES = Path("/proc/self/fd")
linux = pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="counts open files as Linux lists them")


def write(folder: Path, lengths: list[list[int]], *, compressed: bool = False) -> Path:
    """A store for each list of episode lengths; frames are numbered through all of them. Returns the pattern."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    number = 0
    for index, episodes in enumerate(lengths):
        path = folder / f"{index:04}.h5"
        frames = numbered_frames(range(number, number + sum(episodes)))
        starts = np.cumsum([0, *episodes[:-1]])
        number += sum(episodes)
        with h5py.File(path, "w") as file:
            file.create_dataset(
                "frames", data=frames, chunks=(min(4, len(frames)), 8, 6, 3), compression="lzf" if compressed else None
            )
            file["episode_starts"] = starts
    return folder / "*.h5"


@pytest.fixture
def pattern(tmp_path: Path) -> Path:
    return write(tmp_path / "frames", [[5, 4], [1], [7], [2, 3, 6]])


@pytest.mark.parametrize("compressed", [False, True])
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3), min_size=1, max_size=6), data=st.data())
def test_many_stores_read_as_one(
    tmp_path: Path, compressed: bool, lengths: list[list[int]], data: st.DataObject
) -> None:
    total = sum(map(sum, lengths))
    with open_frames(write(tmp_path / "frames", lengths, compressed=compressed)) as frames:
        assert (frames.num_frames, frames.height, frames.width, frames.mapped) == (total, 8, 6, not compressed)
        flat = [length for episodes in lengths for length in episodes]
        assert frames.episode_starts.tolist() == np.cumsum([0, *flat[:-1]]).tolist()
        start = data.draw(st.integers(0, total))
        stop = data.draw(st.integers(start, total))
        assert numbers_of(frames.read(start, stop)).tolist() == list(range(start, stop))
        length = data.draw(st.integers(1, total))
        starts = data.draw(st.lists(st.integers(0, total - length), max_size=8))
        clips = frames.read_clips(starts, length)
        np.testing.assert_array_equal(numbers_of(clips), np.add.outer(np.array(starts, int), np.arange(length)))
        pieces = [(path, frame) for path, begin, end in frames.pieces(0, total) for frame in range(begin, end)]
        assert len(set(pieces)) == total


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=3), min_size=1, max_size=20),
    length=st.integers(1, 6),
    stride=st.integers(1, 3),
    fraction=st.floats(0.05, 0.5),
)
def test_every_clip_of_an_epoch_is_another_window_of_one_episode_of_one_store(
    pattern: Path, lengths: list[list[int]], length: int, stride: int, fraction: float
) -> None:
    flat = [episode for episodes in lengths for episode in episodes]
    borders = np.cumsum([0, *flat])
    train, val = split_spans(borders[:-1], int(borders[-1]), fraction)
    store, seen = Collection(pattern), []
    for spans in (train, val):
        clips = Clips(store, spans, length=length, stride=stride)
        if len(clips) == 0:
            continue
        order = ShuffledOrder(size=len(clips), seed=1)
        batches = OwnBatches(order, batch_size=7, rank=0, world_size=1, drop_last=False)
        drawn = clips.start(np.concatenate(list(batches)))
        first, last = (np.searchsorted(borders, at, side="right") for at in (drawn, drawn + length - 1))
        np.testing.assert_array_equal(first, last)
        wanted = [s for start, stop in spans.tolist() for s in range(start, stop - length + 1, stride)]
        assert sorted(drawn.tolist()) == wanted
        seen += wanted
    assert len(set(seen)) == len(seen)


@contextmanager
def limited_files(count: int) -> Iterator[None]:
    """No file gets a number of `count` or above."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@linux
@pytest.mark.slow
def test_a_thousand_stores_of_unequal_size_are_read_with_few_files_open(tmp_path: Path) -> None:
    """Every clip once an epoch, so that stores are met in proportion to their clips."""
    sizes = [3, 4, 6, 11, 17]
    kinds = write(tmp_path / "kinds", [[size] for size in sizes])
    (tmp_path / "frames").mkdir()
    chosen = np.random.default_rng(0).integers(0, 5, 1000)
    for index, kind in enumerate(chosen):
        shutil.copy(kinds.with_name(f"{kind:04}.h5"), tmp_path / "frames" / f"{index:04}.h5")
    with limited_files(256):
        before = len(list(OPEN_FILES.iterdir()))
        data = ClipDataModule(**OPTIONS | {"path": str(tmp_path / "frames/*.h5"), "batch_size": 100})
        data.setup()
        most, met = 0, []
        for batch in data.train_dataloader():
            most = max(most, len(list(OPEN_FILES.iterdir())))
            met.append(numbers_of(batch.numpy()))
        assert before + MAX_OPEN / 2 < most <= before + MAX_OPEN
    firsts = np.concatenate(met)[:, 0]
    np.testing.assert_array_equal(np.concatenate(met), firsts[:, None] + np.arange(4))  # none crosses a border
    frames = np.cumsum([0, *(sizes[kind] for kind in chosen)])
    trained = np.searchsorted(frames, data.training_spans[:, 0], side="right") - 1
    begins = np.cumsum([0, *sizes])
    expected = np.zeros(int(begins[-1]), int)
    for store in trained:
        expected[begins[chosen[store]] : begins[chosen[store] + 1] - 3] += 1
    left_out = len(data.train_clips) % 100  # an incomplete batch
    counted = np.bincount(firsts, minlength=len(expected))
    assert (counted <= expected).all()
    assert counted.sum() == expected.sum() - left_out


@linux
@pytest.mark.parametrize("compressed", [False, True])
def test_few_files_are_open_whatever_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compressed: bool) -> None:
    monkeypatch.setattr(collection, "MAX_OPEN", 3)
    frames = Collection(write(tmp_path / "frames", [[4]] * 12, compressed=compressed))
    frames.read(0, 1)
    before = len(list(OPEN_FILES.iterdir())) - 1
    for start in np.random.default_rng(0).permutation(45).tolist():
        assert numbers_of(frames.read(start, start + 4)).tolist() == list(range(start, start + 4))
        assert len(list(OPEN_FILES.iterdir())) <= before + 3
    frames.close()
    assert len(list(OPEN_FILES.iterdir())) == before


def test_stores_that_are_read_again_and_again_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "MAX_OPEN", 2)
    frames = Collection(write(tmp_path / "frames", [[3], [3], [3]]))
    closed: list[int] = []
    for number, store in enumerate(frames._stores):
        monkeypatch.setattr(store, "close", lambda number=number: closed.append(number))
    frames.read_clips([0, 3, 0, 6], 2)
    frames.read(0, 1)
    frames.read(3, 4)
    assert closed == [0, 1, 2]


def test_an_open_collection_can_be_pickled(pattern: Path) -> None:
    frames = Collection(pattern)
    assert numbers_of(frames.read(3, 20)).tolist() == list(range(3, 20))
    assert numbers_of(pickle.loads(pickle.dumps(frames)).read(3, 20)).tolist() == list(range(3, 20))


def test_a_store_that_was_replaced_is_read_anew(pattern: Path) -> None:
    frames = Collection(pattern)
    frames.read(0, 28)
    frames.close()
    with h5py.File(pattern.with_name("new"), "w") as file:
        file["something_before"] = np.arange(1000)
        file["frames"] = numbered_frames([77])
    pattern.with_name("new").replace(pattern.with_name("0001.h5"))
    assert numbers_of(frames.read(8, 11)).tolist() == [8, 77, 10]


def test_stores_of_another_size_are_named(pattern: Path) -> None:
    with StoreWriter(pattern.with_name("0002.h5"), height=8, width=12, source="a test") as writer:
        writer.append(np.zeros((3, 8, 12, 3), np.uint8))
    with pytest.raises(ValueError, match=r"0002\.h5 has frames of 8x12, but .*0000\.h5 of 8x6"):
        open_frames(pattern)


def test_a_file_that_is_no_store_is_named(pattern: Path) -> None:
    pattern.with_name("0001.h5").write_text("nothing")
    with pytest.raises(ValueError, match=r"0001\.h5 cannot be read"):
        open_frames(pattern)


def test_no_store_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file matches .*\*\.h5"):
        open_frames(tmp_path / "*.h5")


def test_more_than_memory_can_order_is_refused(pattern: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("MAX_FRAMES", "MAX_EPISODES"):
        with monkeypatch.context() as patch:
            patch.setattr(collection, limit, 6)
            with pytest.raises(ValueError, match="28 frames in 7 episodes: more than"):
                open_frames(pattern)
    monkeypatch.setattr(collection, "MAX_STORES", 3)
    with pytest.raises(ValueError, match="matches 4 files, more than 3"):
        open_frames(pattern)


def test_what_lies_beside_stores_is_none(pattern: Path) -> None:
    found = files(pattern)
    assert [path.name for path in found] == ["0000.h5", "0001.h5", "0002.h5", "0003.h5"]
    for name in (".hidden.h5", "0000.tokens/cache.h5", "folder.h5/x"):
        path = pattern.parent / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert files(pattern) == found
    assert files(pattern.parents[1] / "*" / "*.h5") == found
    assert files(pattern.parent / "*" / "*.h5") == []


def test_a_name_with_signs_of_a_pattern_may_be_one_file(write_store: WriteStore) -> None:
    assert isinstance(open_frames(write_store(5, name="game[1].h5")), FrameStore)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/game.h5", "game.h5"),
        ("/home/me/frames/*.h5", "frames/*.h5"),
        ("frames/*.h5", "frames/*.h5"),
        ("*.h5", "*.h5"),
        ("data/frames/*/part-?.h5", "frames/*/part-?.h5"),
    ],
)
def test_a_short_name_does_not_say_where_the_folder_lies(path: str, name: str) -> None:
    assert short_name(path) == name


def test_what_is_said_of_all_is_true_of_each(write_store: WriteStore, tmp_path: Path) -> None:
    write_store(4, name="a.h5", settings={"fps": 5})
    write_store(4, name="b.h5", settings={"fps": 5})
    frames = open_frames(tmp_path / "?.h5")
    assert (frames.fps, frames.action_names) == (5.0, ("none", "up", "down"))
    assert (frames.settings, frames.source) == ({"fps": 5}, "2 stores")
    write_store(4, name="c.h5", fps=6.0, action_names=["left", "right", "jump"])
    frames = open_frames(tmp_path / "?.h5")
    assert (frames.fps, frames.action_names, frames.settings) == (None, None, None)


def test_true_actions_are_those_of_each_store(write_store: WriteStore, tmp_path: Path) -> None:
    write_store(4, name="a.h5")
    write_store(7, name="b.h5")
    frames = open_frames(tmp_path / "*.h5")
    assert actions_of(frames, 0, 11).tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 1, 2, 0]
    assert actions_of(frames, 2, 6).tolist() == [2, 0, 0, 1]
    write_store(4, name="c.h5", action_names=["left", "right", "jump"])
    with pytest.raises(ValueError, match=r"c\.h5 has other action_names than .*a\.h5"):
        actions_of(open_frames(tmp_path / "*.h5"), 0, 15)
    write_store(4, name="c.h5", action_names=None)
    with pytest.raises(ValueError, match=r"c\.h5 holds no true actions"):
        actions_of(open_frames(tmp_path / "*.h5"), 0, 15)


def test_the_digest_is_of_all_contents_in_order(pattern: Path) -> None:
    first = Collection(pattern).digest()
    notes = {path: path.stat().st_mtime_ns for path in pattern.parent.glob("stores.tokens/*.json")}
    assert len(notes) == 4
    assert Collection(pattern).digest() == first
    shutil.copy(pattern.with_name("0001.h5"), pattern.with_name("copy"))
    pattern.with_name("copy").replace(pattern.with_name("0001.h5"))  # the same once more
    assert Collection(pattern).digest() == first
    changed = [path.name for path, time in notes.items() if path.stat().st_mtime_ns != time]
    assert changed == ["0001.json"]  # the others were not hashed again
    pattern.with_name("0001.h5").rename(pattern.with_name("0009.h5"))
    assert Collection(pattern).digest() != first


def test_a_video_may_be_many_stores(pattern: Path) -> None:
    data = Video(copies="none", extraction=extraction(), **OPTIONS | {"path": str(pattern), "clip_length": 2})
    data.prepare_data()
    data.setup()
    assert data.store.num_frames == 28
    assert data.description == {
        "name": "test", "path": str(pattern), "val_fraction": 0.2, "clip_length": 2, "stores": 4
    }  # fmt: skip
    assert next(iter(data.train_dataloader())).dtype == torch.uint8
