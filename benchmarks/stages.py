"""The stages as `train.py` would build them, untrained."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tinyworlds.command import CONF
from tinyworlds.models import STAGES, Stage
from tinyworlds.plan import untrained

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
    configs = {name: compose_train([f"stage={name}", *options, *stage_options.get(name, ())]) for name in STAGES}
    stages = untrained(configs, size=frame_size, clip_length=clip_length)
    return {name: Built(stage, configs[name]) for name, stage in stages.items()}
