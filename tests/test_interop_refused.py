"""Files of the public project that are no world, and worlds that it has no place for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tinyworlds.interop import convert, stages_of, to_public

from .public_files import FILES


@pytest.mark.parametrize(
    ("stage", "option", "value", "named"),
    [
        ("video_tokenizer", "patches", "conv", r"video_tokenizer: stage\.patches=conv stands in the way"),
        ("video_tokenizer", "local", True, r"video_tokenizer: stage\.local=True"),
        ("video_tokenizer", "temporal", False, r"video_tokenizer: stage\.temporal=False"),
        ("action_tokenizer", "shrink", 2, r"action_tokenizer: stage\.shrink=2"),
        ("dynamics", "norm", "pre", r"dynamics: stage\.norm=pre"),
        ("dynamics", "positions", "rope", r"dynamics: stage\.positions=rope"),
        ("dynamics", "conditioning", "prepend", r"dynamics: stage\.conditioning=prepend"),
        ("dynamics", "last_actions", 2, r"dynamics: stage\.last_actions=2"),
        ("action_tokenizer", "codes", 8, r"action_tokenizer: stage\.codes=8"),
        ("dynamics", "qk_norm", True, r"dynamics: stage\.qk_norm=True"),
        ("video_tokenizer", "positions", "alibi", r"video_tokenizer: stage\.positions=alibi"),
    ],
)
def test_an_option_that_the_public_project_lacks_is_named(tmp_path, stage, option, value, named):
    world = convert(**FILES)
    stages_of(world)[stage].hparams[option] = value
    with pytest.raises(ValueError, match=named):
        to_public(world, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_codec_that_the_public_project_lacks_is_named(dynamics, tmp_path):
    with pytest.raises(ValueError, match="stands in the way"):
        to_public(dynamics, tmp_path)
    for option, value in (("name", "motion"), ("name", "window_attention"), ("positions", "rope"), ("qk_norm", True)):
        world = convert(**FILES)
        world.action_tokenizer.hparams["encoder"][option] = value
        with pytest.raises(ValueError, match=rf"stage\.encoder\.{option}={value}"):
            to_public(world, tmp_path)
    world = convert(**FILES)
    world.action_tokenizer.hparams["decoder"]["num_blocks"] = 3
    with pytest.raises(ValueError, match=r"encoder\.num_blocks=2 and stage\.decoder\.num_blocks=3"):
        to_public(world, tmp_path)


def changed(tmp_path: Path, name: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Path]:
    """The files, one of them with something changed."""
    file = torch.load(FILES[name], weights_only=True)
    change(file)
    torch.save(file, tmp_path / f"{name}.pth")
    return {**FILES, name: tmp_path / f"{name}.pth"}


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("video_tokenizer", lambda f: f.pop("config"), "has no model with a config"),
        ("video_tokenizer", lambda f: f.update(model=[1]), "has no model with a config"),
        ("video_tokenizer", lambda f: f["model"].update(a=1), "its model holds more than tensors"),
        ("dynamics", lambda f: f["model"].pop("output_mlp.bias"), r"it has no output_mlp\.bias"),
        ("action_tokenizer", lambda f: f["model"].update({"encoder.window_attn.x": torch.zeros(1)}),
         r"encoder\.window_attn\.x, for which there is no place"),
        ("dynamics", lambda f: f["model"].update({"mask_token": torch.zeros(5)}), r"mask_token has the shape \(5,\)"),
        ("video_tokenizer", lambda f: f["model"]["quantizer.basis"].copy_(torch.tensor([256, 64, 16, 4, 1])),
         "codes are numbered by"),
    ],
)  # fmt: skip
def test_what_is_no_such_model_is_refused(tmp_path, name, change, named):
    with pytest.raises(ValueError, match=rf"{name}\.pth .*{named}"):
        convert(**changed(tmp_path, name, change))


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("dynamics", {"frame_size": 64}, r"frame_size=64, but .*video_tokenizer.* has frame_size=32"),
        ("dynamics", {"hidden_dim": 96}, r"ffn\.w_g\.bias has the shape \(42,\), but by the config it is \(64,\)"),
        ("video_tokenizer", {"num_heads": 5}, "embed_dim=32 does not divide into num_heads=5"),
        ("video_tokenizer", {"num_blocks": 10**9}, "num_blocks=1000000000"),
        ("action_tokenizer", {"n_actions": 6}, "n_actions=6 is no power"),
        ("dynamics", {"context_length": 1024, "num_blocks": "2"}, "num_blocks=2: must be a whole number"),
        ("dynamics", {"use_rope": True}, "use_rope=True"),
        ("dynamics", {"context_length": 2**20}, "context_length=1048576"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, name, change, named):
    with pytest.raises(ValueError, match=named):
        convert(**changed(tmp_path, name, lambda file: file["config"].update(change)))


def test_a_world_too_large_to_play_is_refused_before_it_is_made(tmp_path):
    large = {"frame_size": 1024, "patch_size": 1, "context_length": 1024, "num_bins": 64, "latent_dim": 5}
    paths = dict(FILES)
    for name in FILES:
        paths[name] = changed(tmp_path, name, lambda file: file["config"].update(large))[name]
    with pytest.raises(ValueError, match="tokens, more than"):
        convert(**paths)


def test_another_stage_in_its_place_is_refused():
    with pytest.raises(ValueError, match=r"latent_actions_step_100\.pth can't be converted"):
        convert(**{**FILES, "video_tokenizer": FILES["action_tokenizer"]})
