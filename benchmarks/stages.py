"""The stages as `train.py` would build them, untrained."""

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from hydra import compose
from omegaconf import DictConfig

from tinyworlds.command import build
from tinyworlds.models import STAGES, Stage

NONE: Mapping[str, Sequence[str]] = MappingProxyType({})


class Built(NamedTuple):
    """A stage and the composed config of `train.py` that it is of."""

    stage: Stage
    config: DictConfig


def build_stages(
    options: Sequence[str],
    *,
    frame_size: tuple[int, int],
    clip_length: int | None = None,
    stage_options: Mapping[str, Sequence[str]] = NONE,
) -> dict[str, Built]:
    """The three stages by name, of a config composed with `options`; the dynamics have tokenizers of their own.

    `stage_options` holds further options of single stages by name. `clip_length` counts the frames a stage is
    built for; None: as the config has it. Hydra must be initialized.
    """
    built: dict[str, Built] = {}
    for name in STAGES:
        config = compose("train", [f"stage={name}", *options, *stage_options.get(name, ())])
        given: dict[str, Any] = {"dataset": {"clip_length": clip_length or config.data.clip_length}}
        if name == "dynamics":
            given |= copy.deepcopy({tokenizer: made.stage for tokenizer, made in built.items()})
        else:
            given |= {"frame_size": frame_size}
        built[name] = Built(build(config.stage, **given), config)
    return built
