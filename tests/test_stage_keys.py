"""Every key of a stage changes what it learns."""

import zlib

import pytest
import torch
from omegaconf import OmegaConf

from tinyworlds.command import CONF
from tinyworlds.models import STAGES, Stage

from .composing import built, composed

CODEC_OF_BLOCKS = {
    "patch_size": 8, "patches": "conv", "embed_dim": 16, "num_heads": 4, "hidden_dim": 64, "num_blocks": 1,
    "norm": "pre", "qk_norm": True, "positions": "rope",
}  # fmt: skip
OTHER_VALUES = {
    "video_tokenizer": {
        "patch_size": 16, "patches": "linear", "embed_dim": 32, "num_heads": 2, "hidden_dim": 64, "num_blocks": 2,
        "norm": "post", "qk_norm": True, "positions": "rope",
        "local": False, "temporal": True, "latent_dim": 4, "num_bins": 3, "latent_norm": False, "moving_weight": 1,
    },
    "action_tokenizer": {
        "n_actions": 4, "num_bins": 4, "shrink": 1, "latent_norm": False, "usage_weight": 3, "variance_weight": 7,
        "moving_weight": 1, "unscored": 1, "members": 3, "codes": 16,
        "encoder.width": 8, "encoder.channels": 2, "encoder.reach": 3, "encoder.moments": False,
        "encoder.equalized": False,
        "decoder.width": 8, "decoder.mask_ratio": 0.9, "variance_target": 5,
        **{f"{part}.{key}": value for part in ("encoder", "decoder") for key, value in CODEC_OF_BLOCKS.items()},
    },
    "dynamics": {
        "feed_forward.num_experts": 2, "feed_forward.top_k": 1, "feed_forward.balance_weight": 1,
        "embed_dim": 64, "num_heads": 2, "hidden_dim": 64, "num_blocks": 1, "norm": "post",
        "qk_norm": True, "positions": "alibi", "conditioning": "prepend", "last_actions": 3, "feed_forward.z_weight": 1,
        "masking": "anchored", "mask_ratio": 0.9, "context_noise": 0.5, "own_context": 0.25,
        "moving_weight": 3,
    },
}  # fmt: skip
EFFECT_ELSEWHERE = {"decoding", "_target_"}


def first_loss(stage: Stage) -> float:
    """On noise, and with weights under which everything that is computed counts."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(4, 4, 3, 64, 64, generator=generator).round() * 2 - 1
    for name, parameter in stage.named_parameters():
        if parameter.requires_grad:
            # Of its own, or a shape that changes would change all that comes after.
            own = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            torch.nn.init.normal_(parameter, std=0.2, generator=own)
    torch.manual_seed(0)
    return float(stage.train().training_step(frames, 0))


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(("stage", "key"), [(s, key) for s, keys in OTHER_VALUES.items() for key in keys])
def test_every_key_of_a_stage_changes_what_it_learns(stage, key):
    value = OTHER_VALUES[stage][key]
    also = ["stage.n_actions=16"] if key == "num_bins" and stage == "action_tokenizer" else []
    if key == "masking":
        also = ["stage.context_noise=0", "stage.own_context=0"]
    if key == "variance_weight":
        also = ["stage.variance_target=5"]
    if key == "variance_target":
        also = ["stage.variance_weight=7"]
    if key in ("codes", "members"):
        also = ["data.clip_length=4", *(["stage.codes=8"] if key == "members" else [])]
    if key.startswith("feed_forward."):
        also = ["stage/feed_forward=moe"]
    own = key.rpartition(".")[2] if "coder." in key else None
    if own in CODEC_OF_BLOCKS or own == "mask_ratio":
        also = ["stage/encoder=window_attention", "stage/decoder=masked", "stage.decoder.mask_ratio=0.5"]
        also += ["stage.variance_weight=7", "stage.variance_target=5"]  # small changes leave the codes as they are
    losses = [first_loss(built(stage, "experiment=laptop", *also, *o)) for o in ([], [f"stage.{key}={value}"])]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("stage", STAGES)
def test_no_key_of_a_stage_is_forgotten_above(stage):
    config = composed(f"stage={stage}").stage
    groups = {key for key in config if OmegaConf.is_dict(config[key]) and (CONF / "stage" / key).is_dir()}
    keys = set(config) - groups
    for group in groups:
        for choice in (CONF / "stage" / group).glob("*.yaml"):
            chosen = composed(f"stage={stage}", f"stage/{group}={choice.stem}").stage[group]
            keys |= {f"{group}.{key}" for key in chosen if key != "name"}
    assert keys - EFFECT_ELSEWHERE == OTHER_VALUES[stage].keys()
