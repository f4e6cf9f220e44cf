import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants
from safetensors.torch import load_file

from tinyworlds import World
from tinyworlds.checkpoints import write_result
from tinyworlds.media import save_gif
from tinyworlds.models import Dynamics
from tinyworlds.pretrained import CARD, CONFIG, METRICS, PREVIEW, WEIGHTS

from .conftest import reading, roughened
from .test_checkpoints import save

FIGURES = {
    "reconstruction": {"psnr": 33.25, "psnr_moving": None},
    "actions": {"accuracy": 0.75, "names": ["none", "up", "down", "fire|jump"], "reason": "measured"},
    "evaluation": {"clips": 64, "seed": 0},
    "decoding": {"steps": 2, "schedule": "linear"},
}


@pytest.fixture(params=["codes are actions", "actions are read from codes"])
def dynamics(request: pytest.FixtureRequest, dynamics: Dynamics) -> Dynamics:
    if request.param == "codes are actions":
        return dynamics
    tokenizers = {
        "video_tokenizer": dynamics.video_tokenizer,
        "action_tokenizer": reading(dynamics.action_tokenizer, members=2),
    }
    return roughened(Dynamics(**{**dynamics.hparams, "last_actions": 2, **tokenizers})).eval()


@pytest.fixture
def folder(dynamics, tmp_path: Path) -> Path:
    World(dynamics).save_pretrained(tmp_path / "world")
    return tmp_path / "world"


def film(world: World) -> np.ndarray:
    prompt = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), dtype=np.uint8)
    return np.stack([world.reset(prompt), *(world.step(action) for action in (0, 1, 2, 3))])


def same(world: World, other: World) -> bool:
    """Whether weights, hyperparameters and frames are the same, bit for bit."""
    ours, theirs = world.dynamics.state_dict(), other.dynamics.state_dict()
    return (
        ours.keys() == theirs.keys()
        and all(torch.equal(value, theirs[name]) and value.dtype == theirs[name].dtype for name, value in ours.items())
        and dict(world.dynamics.hparams) == dict(other.dynamics.hparams)
        and np.array_equal(film(world), film(other))
    )


def test_a_world_is_the_same_after_it_was_saved(dynamics, folder):
    for opened in (World.from_pretrained(folder), World.load(folder), World.load(str(folder))):
        assert same(World(dynamics), opened)
    assert World.from_pretrained(folder, seed=3, horizon=2).horizon == 2


def test_saving_again_changes_nothing(folder, tmp_path):
    World.load(folder).save_pretrained(tmp_path / "again" / "world")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / "world" / path.name).read_bytes()


def test_half_precision_rounds_what_was_learned_and_nothing_else(dynamics, folder, tmp_path):
    (folder / METRICS).write_text(json.dumps(FIGURES))
    World.load(folder).save_pretrained(tmp_path / "half", half=True)
    learned = {name for name, _ in dynamics.named_parameters()}
    whole, half = (load_file(path / WEIGHTS) for path in (folder, tmp_path / "half"))
    assert {name for name, value in half.items() if value.dtype == torch.float16} == learned
    opened = World.load(tmp_path / "half").dynamics.state_dict()
    for name, value in whole.items():
        assert torch.equal(opened[name], value.half().float() if name in learned else value)
    assert not (tmp_path / "half" / METRICS).exists()  # they are of another world

    (tmp_path / "half" / METRICS).write_text(json.dumps(FIGURES))
    World.load(tmp_path / "half").save_pretrained(tmp_path / "again", half=True)
    for name in (WEIGHTS, METRICS):
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_world_is_decoded_as_it_was_when_it_was_saved(dynamics, folder, tmp_path):
    (folder / METRICS).write_text(json.dumps(FIGURES))
    save_gif(folder / PREVIEW, np.zeros((2, 8, 8, 3), np.uint8), 5)
    World.load(folder, steps=3, order="halton").save_pretrained(tmp_path / "other")
    assert World.load(tmp_path / "other").decoding == dynamics.decoding.changed(steps=3, order="halton")
    assert World.load(folder).decoding == dynamics.decoding
    assert (folder / WEIGHTS).read_bytes() == (tmp_path / "other" / WEIGHTS).read_bytes()
    assert not (tmp_path / "other" / METRICS).exists()
    assert not (tmp_path / "other" / PREVIEW).exists()


def test_weights_that_half_precision_cannot_hold_are_refused(dynamics, tmp_path):
    with torch.no_grad():
        dynamics.mask_token[0] = 1e5
    with pytest.raises(ValueError, match=r"half=True: mask_token holds weights beyond 65504"):
        World(dynamics).save_pretrained(tmp_path / "half", half=True)
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, CARD, METRICS, PREVIEW])
def test_no_file_that_is_there_is_overwritten_unasked(dynamics, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"{name} is there already"):
        World(dynamics).save_pretrained(tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_an_overwritten_world_leaves_no_figures_to_the_next(dynamics, folder):
    (folder / METRICS).write_text(json.dumps(FIGURES))
    save_gif(folder / PREVIEW, np.zeros((2, 8, 8, 3), np.uint8), 5)
    World.load(folder).save_pretrained(folder, overwrite=True)
    assert json.loads((folder / METRICS).read_bytes()) == FIGURES
    World(dynamics).save_pretrained(folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_world_that_was_not_wholly_overwritten_is_none(dynamics, folder):
    (folder / CARD).unlink()
    (folder / CARD / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=CARD):
        World(dynamics).save_pretrained(folder, overwrite=True)
    with pytest.raises(FileNotFoundError, match=f"it has no {CONFIG}"):
        World.load(folder)


def test_an_evaluation_of_ones_own_goes_before_that_which_came_with_the_world(folder, tmp_path):
    (folder / "evaluation").mkdir()
    (folder / METRICS).write_text(json.dumps(FIGURES))
    (folder / "evaluation" / METRICS).write_text(json.dumps({"reconstruction": {"psnr": 7.5}}))
    World.load(folder).save_pretrained(tmp_path / "again")
    assert "| reconstruction.psnr | 7.5 |" in (tmp_path / "again" / CARD).read_text()


def test_the_card_tells_what_is_known(dynamics, tmp_path):
    run = tmp_path / "run"
    (run / "evaluation").mkdir(parents=True)
    (run / "evaluation" / "metrics.json").write_text(json.dumps(FIGURES))
    save_gif(run / "play" / "actions.gif", np.zeros((2, 8, 8, 3), np.uint8), 5)
    command = "python train.py data=vizdoom"
    best = save(dynamics, run / "best.ckpt")
    write_result(run, stage="dynamics", checkpoint=best, metric=0.5, seconds=1.0, command=command)
    World.load(best).save_pretrained(tmp_path / "doom", license="cc-by-4.0")
    World.load(tmp_path / "doom").save_pretrained(tmp_path / "copy" / "doom", license="cc-by-4.0")
    for folder in (tmp_path / "doom", tmp_path / "copy" / "doom"):
        card = ModelCard.load(folder / "README.md")
        assert (card.data.license, card.data.library_name) == ("cc-by-4.0", "tinyworlds")
        assert "world-model" in card.data.tags
        for part in ("| reconstruction.psnr | 33.25 |", "| 1 | up |", "fire\\|jump", command, "(preview.gif)"):
            assert part in card.text, part
        assert "evaluate` with steps=2, schedule=linear, clips=64, seed=0:" in card.text
        assert "psnr_moving" not in card.text
        assert not any(f"| {settings}." in card.text for settings in ("decoding", "evaluation"))
        assert (folder / "preview.gif").read_bytes() == (run / "play" / "actions.gif").read_bytes()
        assert json.loads((folder / "metrics.json").read_bytes()) == FIGURES


def test_the_card_of_an_unknown_world_says_so(folder):
    card = (folder / "README.md").read_text()
    told = ("was not evaluated", "what they mean was not measured", "command was not kept", "`positions=sincos`")
    for part in told:
        assert part in card
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_no_path_of_the_owner_is_shared(dynamics, tmp_path):
    for part in (dynamics.hparams, dynamics.hparams["video_tokenizer"]):
        part["dataset"] = {**part["dataset"], "path": "/home/me/secret/game.h5"}
    world = World(dynamics)
    world.folder = tmp_path / "run"
    words = [
        "python",
        "train.py",
        "data=video",
        "data.path=/home/me/secret/my game.h5",
        "action_tokenizer='/secret/a.ckpt'",
    ]
    known = {"stage": "dynamics", "metric": 0.5, "seconds": 1.0, "command": shlex.join(words)}
    write_result(world.folder, checkpoint=world.folder / "best.ckpt", **known)
    world.save_pretrained(tmp_path / "world")
    for path in (tmp_path / "world").iterdir():
        assert b"secret" not in path.read_bytes(), path
    assert World.load(tmp_path / "world").dynamics.dataset["path"] == "game.h5"
    command = json.loads((tmp_path / "world" / CONFIG).read_bytes())["command"]
    assert shlex.split(command) == [*words[:3], "data.path=my game.h5", "action_tokenizer='a.ckpt'"]


def test_a_shared_world_is_opened_from_the_hub(hub, dynamics, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert World(dynamics).push_to_hub("me/world") == f"{hub.address}/me/world"
    repo = hub.repos["models/me/world"]
    assert "hf://me/world" in ModelCard(repo.files["README.md"].decode()).text
    commit = repo.commit
    assert same(World(dynamics), World.load("hf://me/world"))
    World(dynamics, temperature=0.5).push_to_hub("me/sampled")
    assert World.load("hf://me/sampled").decoding == dynamics.decoding.changed(temperature=0.5)
    repo.files[CONFIG] = b"broken"
    with pytest.raises(ValueError, match="is no config of a world"):
        World.from_pretrained("me/world")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for opened in (World.from_pretrained("me/world", revision=commit), World.load(f"hf://me/world@{commit}")):
        assert same(World(dynamics), opened)


@pytest.mark.parametrize("request_number", range(1, 9))
def test_config_and_weights_are_of_one_commit(hub, dynamics, tmp_path, request_number):
    """Whenever the repository is changed while a world is fetched."""
    contents = []
    for name, steps in (("old", 3), ("new", 4)):
        torch.nn.init.constant_(dynamics.mask_token, len(contents))
        World(dynamics, steps=steps).save_pretrained(tmp_path / name)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    repo = hub.add("models/me/world", contents[0])
    hub.before = lambda number: repo.files.update(contents[1] if number >= request_number else {})
    loaded = World.load("hf://me/world").dynamics
    assert (loaded.decoding.steps, loaded.mask_token[0].item()) in ((3, 0), (4, 1))


@pytest.mark.parametrize("missing", [CONFIG, WEIGHTS])
def test_a_folder_that_lacks_a_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"it has no {missing}"):
        World.load(folder)


def test_a_world_without_network_says_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"config\.json of me/world could not be .* ckpt=FOLDER"):
        World.load("hf://me/world")


def test_a_world_that_is_nowhere_is_named_with_what_there_may_be(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint me/world, nor a folder .* hf://user/name"):
        World.load("me/world")
