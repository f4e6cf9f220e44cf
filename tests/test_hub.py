import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds import World
from tinyworlds.data.store import FrameStore, StoreWriter
from tinyworlds.hub import newest_checkpoint
from tinyworlds.interop import CALLED, convert, to_public

from .data.test_hub import public_file
from .hub_server import Hub
from .public_files import FILES
from .test_checkpoints import save


@pytest.fixture
def run(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``python -m tinyworlds.hub``, logged in, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HF_TOKEN", hub.token)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["hub", *arguments])
        monkeypatch.delitem(sys.modules, "tinyworlds.hub", raising=False)  # runpy runs it anew
        runpy.run_module("tinyworlds.hub", run_name="__main__")

    return call


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A store with frames of the size of the worlds of these tests."""
    path = tmp_path / "frames.h5"
    with StoreWriter(path, height=16, width=24, source="noise", fps=5.0) as writer:
        writer.append(np.random.default_rng(0).integers(0, 256, (60, 16, 24, 3), dtype=np.uint8))
    return path


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "choose download or upload"),
        (["fetch", "dataset=zelda"], "there is no verb fetch; choose download or upload"),
        (["download"], "give either dataset= or world="),
        (["upload", "dataset=a.h5", "world=b"], "give either dataset= or world="),
        (["upload", "dataset=a.h5"], "give repo=user/name"),
        (["download", "dataset=5"], "dataset=5: give one of"),
        (["download", "dataset=zelda", "repo=me/name"], "download has no use for repo=me/name"),
        (["upload", "dataset=a.h5", "repo=me/name", "dir=here"], "upload has no use for dir=here"),
        (["upload", "dataset=a.h5", "repo=name"], "'name' is no repository of the Hub: give user/name"),
        (["upload", "dataset=a.h5", "repo=me/name"], "there is no file a.h5"),
        (["upload", "dataset=a.h5", "repo=me/name", "private=maybe"], "private=maybe"),
        (["upload", "world=a.ckpt", "repo=me/name"], "there is no checkpoint a.ckpt"),
        (["download", "dataset=tetris"], "give one of picodoom, pole_position, pong, sonic, zelda, or user/name"),
        (["download", "dataset=atari_pong"], "give one of picodoom"),
        (["download", "dataset=me/nothing"], "the files of me/nothing"),
        (["download", "world=me/nothing"], "there is no model me/nothing"),
        (["download", "dataset=zelda", "folder=here"], "folder"),
    ],
)
def test_a_mistake_is_one_sentence(run, capfd, arguments, said):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 1
    assert said in capfd.readouterr().err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(("options", "path"), [([], "data/zelda.h5"), (["dir=my frames"], "my frames/zelda.h5")])
def test_a_public_dataset_is_downloaded_once_and_never_overwritten(hub, run, tmp_path, options, path):
    content = public_file(tmp_path / "zelda_frames.h5", size=64).read_bytes()
    hub.add("datasets/AlmondGod/tinyworlds", {"zelda_frames.h5": content})
    for _ in range(2):
        run("download", "dataset=zelda", *options)
        assert FrameStore(path).num_frames == 50
    assert len(hub.contents()) == 1
    public_file(Path(path), count=3, size=64)
    run("download", "dataset=zelda", *options)
    assert FrameStore(path).num_frames == 3


def test_a_shared_dataset_can_be_had_back(run, frames, capsys):
    run("upload", f"dataset={frames}", "repo=me/game", "private=true")
    run("download", "dataset=me/game", "dir=there")
    assert Path("there/frames.h5").read_bytes() == frames.read_bytes()
    assert "60 frames of 16x24 from noise" in capsys.readouterr().out


def test_a_shared_world_can_be_played_from_the_hub_or_from_a_folder(hub, run, dynamics, frames, entry_point, tmp_path):
    run("upload", f"world={save(dynamics, tmp_path / 'best.ckpt')}", "repo=me/world", "license=cc0-1.0")
    assert b"license: cc0-1.0" in hub.repos["models/me/world"].files["README.md"]
    run("download", "world=me/world")
    run("download", "world=me/world", "dir=mine")
    assert {path.name for path in Path("mine").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    with pytest.raises(SystemExit):
        run("download", "world=me/world", "dir=mine")
    films = []
    for ckpt, out in (
        (Path("mine").absolute(), Path("mine/play").absolute()),
        ("hf://me/world", "runs/hub/me/world/play"),
    ):
        entry_point("play.py", "mode=rollout", f"ckpt={ckpt}", f"store={frames}", "frames=3", "clips=2")
        films.append(Path(out, "rollout.gif").read_bytes())
    assert films[0] == films[1]


@given(steps=st.lists(st.integers(0, 10**6), min_size=1, unique=True), folders=st.booleans())
def test_the_newest_checkpoint_is_that_of_the_highest_step(steps, folders):
    names = [f"zelda/some/latent_actions_step_{step}" for step in steps]
    files = ["model_state_dict.pt", "optim_state_dict.pt", "state.pt"]
    paths = [f"{name}/{file}" for name in names for file in files] if folders else [f"{name}.pth" for name in names]
    others = ["zelda/dynamics_step_9999999.pth", "zelda/video_tokenizer_step_9999999.pth", "zelda/actions.txt"]
    newest = names[steps.index(max(steps))]
    wanted = [f"{newest}/model_state_dict.pt", f"{newest}/state.pt"] if folders else [f"{newest}.pth"]
    assert newest_checkpoint(others + paths, "actions") == wanted
    assert newest_checkpoint(others, "actions") == []


@pytest.mark.parametrize("layout", ["files", "folders"])
def test_the_original_projects_newest_world_is_fetched_and_converted(hub, run, tmp_path, layout):
    wanted = dict(FILES)
    if layout == "folders":
        to_public(convert(**FILES), tmp_path / "public")
        wanted = {name: tmp_path / "public" / f"{called}_step_0" for name, called in CALLED.items()}
    there = {"README.md": b"", "zelda/dynamics_step_900.pth": b"another game"}
    for path in wanted.values():
        for file in path.iterdir() if path.is_dir() else [path]:
            there[f"sonic/{file.relative_to(path.parent)}".replace("step_0", "step_200")] = file.read_bytes()
        there[f"sonic/old/{path.stem.rpartition('_')[0]}_20.pth"] = b"an older one"
        there[f"sonic/{path.stem}/optim_state_dict.pt"] = b"not needed"
    hub.add("models/AlmondGod/tinyworlds-models", there)
    run("download", "world=sonic")
    world = World.load("worlds/sonic")
    for name, value in convert(**FILES).state_dict().items():
        assert torch.equal(value, world.dynamics.state_dict()[name]), name
    fetched = {path.rpartition("/main/")[2] for _, path, _ in hub.asked}
    assert not any("optim" in path or "old" in path or "zelda" in path for path in fetched)
    with pytest.raises(SystemExit):
        run("download", "world=sonic")


def test_a_game_without_a_world_is_refused_with_those_that_have_one(hub, run, capfd):
    hub.add("models/AlmondGod/tinyworlds-models", {"sonic/dynamics.pth": b"", "README.md": b"", "zelda/a.pth": b""})
    for world, said in (("doom", "world=doom: give one of sonic, zelda, or user/name"), ("sonic", "has no checkpoint")):
        with pytest.raises(SystemExit):
            run("download", f"world={world}")
        assert said in capfd.readouterr().err
    assert list(Path.cwd().iterdir()) == []


def test_a_world_of_the_hub_opens_without_being_downloaded_first(hub, run, dynamics):
    World(dynamics).push_to_hub("me/world", private=True)
    assert hub.repos["models/me/world"].private
    assert World.load("hf://me/world").n_actions == 4
