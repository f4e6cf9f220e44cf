import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tinyworlds import World
from tinyworlds.data.store import FrameStore, StoreWriter
from tinyworlds.interop import convert, read_checkpoint, stages_of, to_public
from tinyworlds.models import STAGES, Dynamics
from tinyworlds.public_format import tensors

from .public_files import FILES, PUBLIC


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    """What the public project's own models compute with these weights."""
    with np.load(PUBLIC / "expected.npz") as arrays:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return {
        name: tensor.long() if name.endswith("tokens") or "_tokens_" in name else tensor
        for name, tensor in tensors.items()
    }


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The layout of folders; its dynamics are a mixture of experts, its tokenizers' weights those of the files."""
    made = {"dynamics": PUBLIC / "dynamics_step_200"}
    for name, called in (("video_tokenizer", "video_tokenizer"), ("action_tokenizer", "latent_actions")):
        made[name] = tmp_path / f"{called}_step_200"
        made[name].mkdir()
        (made[name] / "state.pt").write_bytes((PUBLIC / made[name].name / "state.pt").read_bytes())
        torch.save(torch.load(FILES[name], weights_only=True)["model"], made[name] / "model_state_dict.pt")
    return made


@pytest.fixture(params=["files", "folders"])
def world(request: pytest.FixtureRequest, folders) -> Dynamics:
    return convert(**(FILES if request.param == "files" else folders))


@pytest.fixture
def interop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Calls ``python -m tinyworlds.interop`` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["interop", *arguments])
        monkeypatch.delitem(sys.modules, "tinyworlds.interop", raising=False)
        runpy.run_module("tinyworlds.interop", run_name="__main__")

    return call


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A store of frames of the size of the public world's."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 32, 32, 3), dtype=np.uint8)
    with StoreWriter(tmp_path / "noise.h5", height=32, width=32, source="noise", fps=5.0) as writer:
        for episode in frames:
            writer.start_episode()
            writer.append(episode)
    return tmp_path / "noise.h5"


def options(paths: dict[str, Path]) -> list[str]:
    return [f"{name}={path}" for name, path in paths.items()]


def close(ours: Tensor, public: Tensor) -> None:
    torch.testing.assert_close(ours, public, rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_video_tokenizer_computes_the_same(world, expected):
    tokenizer = world.video_tokenizer
    assert torch.equal(tokenizer.tokenize(expected["frames"]), expected["video_tokens"])
    close(tokenizer.encode(expected["frames"]), expected["video_latents"])
    close(tokenizer(expected["frames"]), expected["reconstruction"])


@torch.inference_mode()
def test_the_action_tokenizer_computes_the_same(world, expected):
    tokenizer = world.action_tokenizer
    assert torch.equal(tokenizer.tokenize(expected["frames"]), expected["action_tokens"])
    close(tokenizer.latents(expected["frames"]), expected["action_latents_continuous"])
    close(tokenizer.encode(expected["frames"]), expected["action_latents"])
    close(tokenizer.decode(expected["frames"][:, :-1], expected["action_latents"]), expected["action_decoder_frames"])


@torch.inference_mode()
@pytest.mark.parametrize(
    ("layout", "array", "conditioned"),
    [
        ("files", "dynamics_logits", True),
        ("files", "dynamics_logits_no_actions", False),
        ("folders", "dynamics_moe_logits", True),
    ],
)
def test_the_dynamics_compute_the_same(folders, expected, layout, array, conditioned):
    world = convert(**(FILES if layout == "files" else folders))
    tokens, actions = expected["video_tokens"][:1], expected["action_tokens"][:1]
    seen = torch.zeros_like(tokens, dtype=torch.bool)
    features = world(tokens, seen, world.condition(actions) if conditioned else None)
    logits = world.to_logits(features)[:, :, ::8]
    # The numbers were rounded to half precision: by at most 2**-11 of themselves.
    torch.testing.assert_close(logits, expected[array].float(), rtol=2**-11, atol=1e-4)


@torch.inference_mode()
def test_greedy_decoding_gives_the_same_tokens(expected):
    world = convert(**FILES)
    tokens, actions = expected["video_tokens"], expected["action_tokens"]
    assert (world.decoding.steps, world.decoding.temperature) == (10, 0)
    imagined = world.predict(tokens[:, :3], actions, horizon=1, decoding=world.decoding)
    assert torch.equal(imagined, expected["maskgit_tokens_T0_steps10"])
    codes = world.video_tokenizer.quantizer.codes(torch.cat([tokens[:, :3], imagined], dim=1))
    close(codes, expected["maskgit_latents_T0_steps10"])


def test_there_and_back_nothing_changes(world, folders, tmp_path):
    to_public(world, tmp_path / "back")
    written = {name: next((tmp_path / "back").glob(f"{path.name.partition('_step')[0]}*")) for name, path in
               folders.items()}  # fmt: skip
    again = convert(**written)
    assert dict(again.hparams) == dict(world.hparams)
    for name, tensor in world.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    plain = world.hparams["feed_forward"]["name"] == "swiglu"
    for name, path in (FILES if plain else folders).items():
        config, weights = read_checkpoint(path)
        config_back, weights_back = read_checkpoint(written[name])
        assert weights.keys() == weights_back.keys()
        assert all(torch.equal(weights[key], weights_back[key]) for key in weights)
        of_models = config.keys() & config_back.keys()
        assert of_models >= {"frame_size", "patch_size", "embed_dim", "num_heads", "hidden_dim", "num_blocks"}
        assert all(config[key] == config_back[key] for key in of_models)


def test_the_public_project_reads_what_is_written(tmp_path):
    """As `load_*_from_checkpoint` of its utils/utils.py do: plain weights, and options in a plain config."""
    to_public(convert(**FILES), tmp_path)
    assert len(list(tmp_path.glob("*latent_actions_step_*"))) == 1
    for folder in tmp_path.iterdir():
        weights = torch.load(folder / "model_state_dict.pt", weights_only=True)
        config = torch.load(folder / "state.pt", weights_only=True)["config"]
        embed = weights.get("encoder.patch_embed.proj.weight", torch.zeros(32, 48, 1, 1))
        assert embed.shape == (config["embed_dim"], 3 * config["patch_size"] ** 2, 1, 1)
        for key, tensor in weights.items():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, key
            if key.endswith("to_gamma_beta.1.weight") and "dynamics" in folder.name:
                assert tensor.shape[1] == config["conditioning_dim"]


def test_a_missing_file_is_named(tmp_path, folders):
    with pytest.raises(FileNotFoundError, match="nothing"):
        convert(**{**FILES, "dynamics": tmp_path / "nothing"})
    (folders["video_tokenizer"] / "model_state_dict.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"model_state_dict\.pt"):
        convert(**folders)


def test_the_command_makes_a_world_that_plays(interop, entry_point, noise, capsys):
    interop(*options(FILES), "out=world.ckpt")
    interop(*options(FILES), "out=world")
    Path("public/mine").mkdir(parents=True)
    interop("--to-public", "ckpt=world", "out=public")
    written = ["dynamics_step_0", "latent_actions_step_0", "video_tokenizer_step_0"]
    assert sorted(path.name for path in Path("public").iterdir()) == [*written[:2], "mine", written[2]]
    assert f"wrote {', '.join(written)} to public" in capsys.readouterr().out
    entry_point("play.py", "mode=rollout", "ckpt=world.ckpt", f"store={noise}", "frames=2", "clips=2", "out=play")
    assert Path("play/rollout.png").is_file()
    assert "8 actions" in capsys.readouterr().out
    worlds = [World.load("world.ckpt"), World.load("world"), World(convert(**FILES))]
    with FrameStore(noise) as store:
        prompt = store.read(0, 4)
    for world in worlds[:2]:
        assert np.array_equal(world.reset(prompt), worlds[2].reset(prompt))
        assert np.array_equal(world.step(3), worlds[2].step(3))


def test_without_frames_to_play_on_the_option_is_named(interop, entry_point, capsys):
    interop(*options(FILES), "out=world.ckpt")
    with pytest.raises(SystemExit):
        entry_point("play.py", "mode=rollout", "ckpt=world.ckpt")
    assert "give frames of its game with store=PATH" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "out is missing: give it a value, as out="),
        (["out=x"], "video_tokenizer= is missing"),
        (["--to-public", "out=x"], "ckpt= is missing"),
        ([*options(FILES), "out=."], "out=. is there already"),
    ],
)
def test_a_wrong_command_is_one_sentence(interop, capsys, arguments, sentence):
    with pytest.raises(SystemExit):
        interop(*arguments)
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_every_stage_is_written(tmp_path):
    assert {name: len(tensors(stage)) for name, stage in stages_of(convert(**FILES)).items()} == {
        name: len(read_checkpoint(path)[1]) for name, path in FILES.items()
    }
    assert list(stages_of(convert(**FILES))) == list(STAGES)
