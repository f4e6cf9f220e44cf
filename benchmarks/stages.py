"""The stages as `train.py` would build them, untrained."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra import compose
from omegaconf import DictConfig

from tinyworlds.command import build
from tinyworlds.models import STAGES, Stage


class Built(NamedTuple):
    """A stage and the composed config of `train.py` that it is of."""

    stage: Stage
    config: DictConfig


def build_stages(
    options: Sequence[str], *, frame_size: tuple[int, int], clip_length: int | None = None
) -> dict[str, Built]:
    """The three stages by name, of a config composed with `options`; the dynamics have tokenizers of their own.

    `clip_length` counts the frames a stage is built for; None: as the config has it. Hydra must be initialized.
    """
    built: dict[str, Built] = {}
    for name in STAGES:
        config = compose("train", [f"stage={name}", *options])
        given: dict[str, Any] = {"dataset": {"clip_length": clip_length or config.data.clip_length}}
        if name == "dynamics":
            given |= copy.deepcopy({tokenizer: made.stage for tokenizer, made in built.items()})
        else:
            given |= {"frame_size": frame_size}
        built[name] = Built(build(config.stage, **given), config)
    return built
