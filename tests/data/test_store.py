import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.data.store import CHUNK_FRAMES, FrameStore, StoreWriter, check_settings

from .conftest import WriteStore, numbered_frames, numbers_of


def test_what_is_written_is_read(write_store: WriteStore) -> None:
    with FrameStore(write_store(300, 5, 400, settings={"frames": 705})) as store:
        assert (store.num_frames, store.height, store.width) == (705, 8, 6)
        assert (store.fps, store.source, store.action_names) == (5.0, "a test", ("none", "up", "down"))
        assert store.episode_starts.tolist() == [0, 300, 305]
        assert store.settings == {"frames": 705}
        np.testing.assert_array_equal(store.read(0, 705), numbered_frames(range(705)))


def test_frames_alone_are_a_store(tmp_path: Path) -> None:
    path = tmp_path / "public.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=numbered_frames(range(20)), compression="lzf")
    with FrameStore(path) as store:
        assert store.episode_starts.tolist() == [0]
        assert (store.fps, store.action_names, store.settings) == (None, None, None)
        assert numbers_of(store.read(3, 6)).tolist() == [3, 4, 5]


@given(starts=st.lists(st.integers(0, 35), max_size=12), length=st.integers(1, 5))
def test_clips_come_in_the_order_asked_for(
    tmp_path_factory: pytest.TempPathFactory, starts: list[int], length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "forty.h5"
    if not path.exists():
        with StoreWriter(path, height=8, width=6, source="a test") as writer:
            writer.append(numbered_frames(range(40)))
    with FrameStore(path) as store:
        clips = store.read_clips(starts, length)
    assert clips.shape == (len(starts), length, 8, 6, 3)
    np.testing.assert_array_equal(numbers_of(clips), np.add.outer(np.array(starts, int), np.arange(length)))


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (0, 11), (5, 4)])
def test_frames_beyond_the_file_are_refused(write_store: WriteStore, start: int, stop: int) -> None:
    with FrameStore(write_store(10)) as store, pytest.raises(ValueError, match="has 10 frames"):
        store.read(start, stop)


@pytest.mark.parametrize("start", [-1, 8])
def test_clips_beyond_the_file_are_refused(write_store: WriteStore, start: int) -> None:
    with FrameStore(write_store(10)) as store, pytest.raises(ValueError, match="has 10 frames"):
        store.read_clips([0, start], 3)


def first_number(store: FrameStore) -> int:
    return int(numbers_of(store.read(2, 3))[0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_open_their_own_handle(write_store: WriteStore, method: str) -> None:
    store = FrameStore(write_store(10))
    assert first_number(store) == 2  # a handle is open here before the process starts
    if method == "spawn":
        assert first_number(pickle.loads(pickle.dumps(store))) == 2
        return
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(first_number, (store,)) == 2
    assert first_number(store) == 2


def test_a_closed_store_opens_again(write_store: WriteStore) -> None:
    store = FrameStore(write_store(10))
    store.read(0, 1)
    store.close()
    assert first_number(store) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "new" / "frames.h5"

    def interrupted() -> None:
        with StoreWriter(path, height=8, width=6, source="a test") as writer:
            writer.append(numbered_frames(range(CHUNK_FRAMES + 1)))
            assert not path.exists()
            raise error

    with pytest.raises(error):
        interrupted()
    assert list(path.parent.iterdir()) == []


def test_an_interrupted_writer_keeps_the_older_file(write_store: WriteStore) -> None:
    path = write_store(10)
    with pytest.raises(RuntimeError), StoreWriter(path, height=8, width=6, source="a test"):
        raise RuntimeError
    with FrameStore(path) as store:
        assert store.num_frames == 10
    assert list(path.parent.iterdir()) == [path]


def test_an_unwritable_path_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ValueError, match=r"file/frames\.h5 cannot be written"),
        StoreWriter(tmp_path / "file" / "frames.h5", height=8, width=6, source="a test"),
    ):
        pass


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.h5"):
        FrameStore(tmp_path / "nothing.h5")


def test_a_file_that_is_not_hdf5_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(ValueError, match=r"text\.h5 cannot be read as an HDF5 file"):
        FrameStore(tmp_path / "text.h5")


@pytest.mark.parametrize(
    ("datasets", "sentence"),
    [
        ({"video": np.zeros(3)}, "no dataset `frames`"),
        ({"frames": np.zeros((4, 8, 8, 3), np.float32)}, "must be uint8"),
        ({"frames": np.zeros((4, 8, 8), np.uint8)}, "must be uint8"),
        ({"frames": np.zeros((4, 3, 8, 8), np.uint8)}, "must be uint8"),
        ({"frames": np.zeros((0, 8, 8, 3), np.uint8)}, "is empty"),
        (
            {"frames": np.zeros((4, 8, 8, 3), np.uint8), "episode_starts": [1, 2]},
            "`episode_starts` must rise",
        ),
        (
            {"frames": np.zeros((4, 8, 8, 3), np.uint8), "episode_starts": [0, 4]},
            "`episode_starts` must rise",
        ),
        (
            {"frames": np.zeros((4, 8, 8, 3), np.uint8), "episode_starts": [0, 2, 2]},
            "`episode_starts` must rise",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, datasets: dict[str, object], sentence: str) -> None:
    path = tmp_path / "odd.h5"
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values
    with pytest.raises(ValueError, match=sentence) as caught:
        FrameStore(path)
    assert "odd.h5" in str(caught.value)


def test_other_settings_are_refused_by_name(write_store: WriteStore) -> None:
    made = {"frames": 10, "crop": {"top": 3}, "hold": [1, 8], "fps": None}
    with FrameStore(write_store(10, settings=made)) as store:
        check_settings(store, made | {"hold": (1, 8)})
        with pytest.raises(ValueError, match=r"frames\.h5 was made with frames=10.*asks for frames=20"):
            check_settings(store, made | {"frames": 20})
        with pytest.raises(ValueError, match=r"made with seed=None.*asks for seed=1"):
            check_settings(store, made | {"seed": 1})


def test_a_store_of_unknown_origin_is_refused(write_store: WriteStore) -> None:
    with (
        FrameStore(write_store(10)) as store,
        pytest.raises(ValueError, match="does not say how it was made"),
    ):
        check_settings(store, {"frames": 10})


def test_two_who_write_one_store_at_once_leave_a_whole_one(tmp_path: Path) -> None:
    one, other = (StoreWriter(tmp_path / "game.h5", height=8, width=6, source=name) for name in ("one", "other"))
    with one:
        one.append(numbered_frames(range(5)))
        with other:
            other.append(numbered_frames(range(3)))
        with FrameStore(tmp_path / "game.h5") as store:
            assert (store.source, store.num_frames) == ("other", 3)
    with FrameStore(tmp_path / "game.h5") as store:
        assert (store.source, store.num_frames) == ("one", 5)
    assert [path.name for path in tmp_path.iterdir()] == ["game.h5"]
