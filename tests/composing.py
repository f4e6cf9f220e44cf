"""Configs of conf/, and untrained stages as they say."""

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tinyworlds.command import CONF, build
from tinyworlds.models import ActionTokenizer, Stage, VideoTokenizer

KNOWN = {"frame_size": (64, 64)}


def composed(*overrides: str, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, [*overrides, "run_dir=run"] if name == "train" else list(overrides))


def dataset(config: DictConfig) -> dict[str, object]:
    return {
        "name": "test",
        "path": "",
        "val_fraction": 0.1,
        "clip_length": config.data.clip_length,
        "fps": None,
    }


def built(stage: str, *overrides: str) -> Stage:
    """Untrained; the tokenizers of the dynamics have the first of the overrides alone."""
    torch.manual_seed(0)
    config = composed(f"stage={stage}", *overrides)
    if stage != "dynamics":
        return build(config.stage, dataset=dataset(config), **KNOWN)
    tokenizers = {kind.name: built(kind.name, *overrides[:1]) for kind in (VideoTokenizer, ActionTokenizer)}
    return build(config.stage, dataset=dataset(config), **tokenizers)
