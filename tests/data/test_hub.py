import re
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest
from huggingface_hub import DatasetCard, constants
from PIL import Image

from tinyworlds.data.datamodules import PublicStore, Sonic, Zelda
from tinyworlds.data.hub import contact_sheet, fetch_shared, fetch_store, upload_store
from tinyworlds.data.store import CHUNK_FRAMES, FrameStore

from .conftest import numbered_frames

PUBLIC = "AlmondGod/tinyworlds"
OPTIONS = {
    "clip_length": 4,
    "clip_stride": 1,
    "batch_size": 2,
    "num_workers": 0,
    "cache_tokens": False,
    "val_fraction": 0.2,
    "seed": 0,
}


def public_file(path: Path, count: int = 50, size: int = 32) -> Path:
    """As the public files are: frames alone, chunked by h5py's guess."""
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=numbered_frames(range(count), size, size), compression="lzf")
    return path


@pytest.fixture
def public(hub, tmp_path: Path):
    """The public datasets' repository."""
    content = public_file(tmp_path / "on the hub.h5").read_bytes()
    hub.add(f"datasets/{PUBLIC}", {"picodoom_frames.h5": content, "zelda_frames.h5": content})
    return hub


def test_a_public_file_is_downloaded_and_rewritten(public, tmp_path):
    path = tmp_path / "data" / "picodoom.h5"
    fetch_store(PUBLIC, "picodoom_frames.h5", path, size=32)
    with FrameStore(path) as store:
        assert store.source == "AlmondGod/tinyworlds/picodoom_frames.h5"
        np.testing.assert_array_equal(store.read(0, 50), numbered_frames(range(50), 32, 32))
    with h5py.File(path) as file:
        assert file["frames"].chunks == (CHUNK_FRAMES, 32, 32, 3)
    assert [file.name for file in path.parent.iterdir()] == ["picodoom.h5"]


def test_the_cached_download_makes_it_anew_offline(public, tmp_path, monkeypatch):
    path = tmp_path / "picodoom.h5"
    fetch_store(PUBLIC, "picodoom_frames.h5", path, size=32)
    path.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fetch_store(PUBLIC, "picodoom_frames.h5", path, size=32)
    assert FrameStore(path).num_frames == 50


def test_a_file_placed_by_hand_is_used_and_stays(tmp_path):
    public_file(tmp_path / "sonic_frames.h5")
    fetch_store(PUBLIC, "sonic_frames.h5", tmp_path / "sonic.h5", size=32)
    with FrameStore(tmp_path / "sonic.h5") as store:
        assert store.num_frames == 50
    assert (tmp_path / "sonic_frames.h5").exists()


def test_a_failed_download_says_how_to_place_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        fetch_store(PUBLIC, "sonic_frames.h5", tmp_path / "sonic.h5", size=128)
    sentence = str(caught.value)
    assert "https://huggingface.co/datasets/AlmondGod/tinyworlds/resolve/main/sonic_frames.h5" in sentence
    assert str(tmp_path / "sonic_frames.h5") in sentence
    assert "\n" not in sentence
    assert not list(tmp_path.glob("*.h5"))


def test_frames_of_another_size_are_refused(public, tmp_path):
    zelda = Zelda(name="zelda", path=str(tmp_path / "zelda.h5"), **OPTIONS)
    assert zelda.frame_size == (64, 64)
    with pytest.raises(ValueError, match="frames of 32x32, this dataset has 64x64"):
        zelda.prepare_data()
    assert not zelda.path.exists()
    public_file(zelda.path)
    with pytest.raises(ValueError, match="frames of 32x32, this dataset has 64x64"):
        zelda.setup()


def test_sonic_alone_is_larger():
    assert {kind: kind.side for kind in PublicStore.__subclasses__() if kind.side != 64} == {Sonic: 128}
    assert len(PublicStore.__subclasses__()) == 5


def test_what_is_no_store_or_a_damaged_one_is_refused(tmp_path):
    original = tmp_path / "zelda_frames.h5"
    original.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match=r"zelda_frames\.h5 cannot be read"):
        fetch_store(PUBLIC, "zelda_frames.h5", tmp_path / "zelda.h5", size=32)
    content = bytearray(public_file(original, 500).read_bytes())
    content[-2000:-1000] = bytes(1000)
    original.write_bytes(content)
    with pytest.raises(ValueError, match=r"zelda_frames\.h5 .* is damaged"):
        fetch_store(PUBLIC, "zelda_frames.h5", tmp_path / "zelda.h5", size=32)
    assert not (tmp_path / "zelda.h5").exists()


def test_a_store_is_shared_with_a_card_and_fetched_again(hub, write_store, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    path = write_store(30, 20, name="game.h5")
    assert upload_store(path, "me/game", private=False, license="cc0-1.0") == f"{hub.address}/datasets/me/game"
    repo = hub.repos["datasets/me/game"]
    assert not repo.private
    card = DatasetCard(repo.files["README.md"].decode())
    assert card.data.license == "cc0-1.0"
    for row in ("frames | 50", "size | 8 x 6", "frames per second | 5", "episodes | 2", "none, up, down"):
        assert f"| {row} |" in re.sub("true actions, for evaluation alone [|] ", "", card.text)
    assert "(contact_sheet.png)" in card.text
    fetched = fetch_shared("me/game", tmp_path / "new")
    assert fetched.read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match=r"game\.h5 is there already"):
        fetch_shared("me/game", tmp_path / "new")


@pytest.mark.parametrize("name", ["game.hdf5", "-game.h5", "$(game).h5"])
def test_a_store_that_could_not_be_fetched_again_is_not_shared(hub, write_store, name):
    path = write_store(30)
    with pytest.raises(ValueError, match="is to be shared: rename it"):
        upload_store(path.rename(path.with_name(name)), "me/game", private=False, license="mit")
    assert hub.repos == {}


def test_a_contact_sheet_goes_from_the_first_frame_to_the_last(write_store):
    with FrameStore(write_store(90)) as store:
        sheet = np.array(Image.open(BytesIO(contact_sheet(store))))
    assert sheet.shape == (4 * (8 + 2) + 2, 8 * (6 + 2) + 2, 3)
    assert sheet[2, 2, 0] == 0
    assert sheet[-3, -3, 0] == 89


@pytest.mark.parametrize("names", [[], ["a.h5", "b.h5"]])
def test_a_repository_without_one_store_is_refused(hub, tmp_path, names):
    hub.add("datasets/me/game", dict.fromkeys(names, b""))
    with pytest.raises(ValueError, match=f"has {len(names)} stores"):
        fetch_shared("me/game", tmp_path)
