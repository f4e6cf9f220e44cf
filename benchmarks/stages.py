"""The stages as `train.py` would build them, untrained."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tinyworlds.command import CONF, build
from tinyworlds.models import STAGES, Stage

# There is no trainer that would log.
warnings.filterwarnings("ignore", message=".*self.log.*")

NONE: Mapping[str, Sequence[str]] = MappingProxyType({})


class Built(NamedTuple):
    """A stage and the composed config of `train.py` that it is of."""

    stage: Stage
    config: DictConfig


def compose_train(options: Sequence[str]) -> DictConfig:
    """What ``python train.py`` with these options would run on, within a command of Hydra's or outside."""
    if GlobalHydra.instance().is_initialized():
        return compose("train", list(options))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", list(options))


def build_stages(
    options: Sequence[str],
    *,
    frame_size: tuple[int, int],
    clip_length: int | None = None,
    stage_options: Mapping[str, Sequence[str]] = NONE,
) -> dict[str, Built]:
    """The three stages by name, of a config composed with `options`; the dynamics have tokenizers of their own.

    `stage_options` holds further options of single stages by name. `clip_length` counts the frames a stage is
    built for; None: as the config has it.
    """
    built: dict[str, Built] = {}
    for name in STAGES:
        config = compose_train([f"stage={name}", *options, *stage_options.get(name, ())])
        given: dict[str, Any] = {"dataset": {"clip_length": clip_length or config.data.clip_length}}
        if name == "dynamics":
            given |= copy.deepcopy({tokenizer: made.stage for tokenizer, made in built.items()})
        else:
            given |= {"frame_size": frame_size}
        built[name] = Built(build(config.stage, **given), config)
    return built
