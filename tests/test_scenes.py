import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tinyworlds import World, scenes
from tinyworlds.scenes import SCENES, find, held_out, png_bytes, read


@pytest.fixture
def found() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 4, 16, 24, 3), dtype=np.uint8)


@pytest.fixture
def store(small_store, dynamics) -> Path:
    """Frames of the size of `dynamics`, which was trained on them."""
    rng = np.random.default_rng(0)
    with h5py.File(small_store, "a") as file:
        del file["frames"]
        file["frames"] = rng.integers(0, 256, (48, 16, 24, 3), dtype=np.uint8)
    dynamics.dataset["path"] = str(small_store)
    return small_store


def test_scenes_come_back_as_they_were_kept(found, tmp_path):
    (tmp_path / SCENES).write_bytes(png_bytes(found))
    assert np.array_equal(read(tmp_path / SCENES, size=(16, 24)), found)


@pytest.mark.parametrize("size", [(16, 23), (15, 24), (480, 24)])
def test_scenes_of_frames_of_another_size_are_refused(found, tmp_path, size):
    (tmp_path / SCENES).write_bytes(png_bytes(found))
    with pytest.raises(ValueError, match=r"scenes\.png does not hold scenes of frames"):
        read(tmp_path / SCENES, size=size)


def test_what_is_no_picture_or_far_too_much_is_refused(found, tmp_path, monkeypatch):
    path = tmp_path / SCENES
    for content in (b"", b"garbage", png_bytes(found)[:200]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"scenes\.png cannot be read as scenes"):
            read(path, size=(16, 24))
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(path)
    with pytest.raises(ValueError, match="does not hold scenes"):
        read(path, size=(16, 24))
    monkeypatch.setattr(scenes, "MAX_BYTES", 10)
    path.write_bytes(png_bytes(found))
    with pytest.raises(ValueError, match="over 10 bytes"):
        read(path, size=(16, 24))


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path):
    Image.new("RGB", (24, 16 * 65)).save(tmp_path / SCENES)
    with pytest.raises(ValueError, match="does not hold scenes"):
        read(tmp_path / SCENES, size=(16, 24))


def test_a_store_that_is_named_goes_before_scenes_and_these_before_the_store_of_the_training(
    dynamics, found, store, tmp_path
):
    (tmp_path / SCENES).write_bytes(png_bytes(found))
    held_out = find(dynamics, store=None, folder=None)
    assert held_out.shape == (scenes.COUNT, 4, 16, 24, 3)
    assert np.array_equal(find(dynamics, store=None, folder=tmp_path), found)
    assert np.array_equal(find(dynamics, store=str(store), folder=tmp_path), held_out)
    with h5py.File(store) as file:
        spans = scenes.held_out(dynamics, store=None).held_out_spans
        frames = np.concatenate([file["frames"][start:stop] for start, stop in spans])
        assert len(frames) == 12, "one of four episodes"
    assert all(any(np.array_equal(scene[0], frame) for frame in frames) for scene in held_out)
    store.unlink()
    with pytest.raises(FileNotFoundError, match="store=PATH"):
        find(dynamics, store=None, folder=tmp_path / "elsewhere")


def test_a_shared_world_brings_scenes_where_its_store_is_at_hand(dynamics, store, tmp_path):
    World(dynamics).save_pretrained(tmp_path / "world")
    wanted = find(dynamics, store=None, folder=None)
    store.unlink()
    opened = World.load(tmp_path / "world")
    assert np.array_equal(find(opened.dynamics, store=None, folder=opened.folder), wanted)
    assert "ckpt=hf://user/world\n" in (tmp_path / "world" / "README.md").read_text()
    opened.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / SCENES).read_bytes() == (tmp_path / "world" / SCENES).read_bytes()
    World(dynamics).save_pretrained(tmp_path / "without")
    assert not (tmp_path / "without" / SCENES).exists()
    assert "store=FRAMES.h5" in (tmp_path / "without" / "README.md").read_text()


def test_other_frames_than_before_are_not_held_out_where_stores_were_added(dynamics, store, tmp_path):
    (tmp_path / "many").mkdir()
    for number in range(2):
        shutil.copy(store, tmp_path / "many" / f"{number}.h5")
    dynamics.dataset |= {"path": str(tmp_path / "many" / "*.h5"), "stores": 2}
    assert held_out(dynamics, store=None).store.num_frames == 96
    shutil.copy(store, tmp_path / "many" / "2.h5")
    with pytest.raises(ValueError, match=r"was trained on 2 stores, .*\*\.h5 matches 3.*store="):
        held_out(dynamics, store=None)
    assert held_out(dynamics, store=dynamics.dataset["path"]).store.num_frames == 144
    assert held_out(dynamics, store=str(store)).store.num_frames == 48


def test_a_store_of_another_game_is_no_reason_not_to_share(dynamics, small_store, tmp_path):
    dynamics.dataset["path"] = str(small_store)  # 16x16
    World(dynamics).save_pretrained(tmp_path / "world")
    assert not (tmp_path / "world" / SCENES).exists()


def test_a_shared_world_without_a_store_goes_on_from_its_scenes(dynamics, found, tmp_path, entry_point, capsys):
    World(dynamics).save_pretrained(tmp_path / "world")
    (tmp_path / "world" / SCENES).write_bytes(png_bytes(found))
    names = ["up", None, "down", "noop"]
    (tmp_path / "world" / "metrics.json").write_text(json.dumps({"actions": {"names": names}}))
    entry_point("play.py", "mode=rollout", f"ckpt={tmp_path}/world", "frames=3", "out=films")
    assert sorted(path.name for path in Path("films").iterdir()) == [
        "actions.gif", "actions.png", "rollout.gif", "rollout.mp4", "rollout.png",
    ]  # fmt: skip
