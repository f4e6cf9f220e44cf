"""The trainer: on which devices, how precisely, how long, and how often it validates."""

from typing import Any

import lightning
import torch
from omegaconf import DictConfig

from tinyworlds.command import build
from tinyworlds.data.settings import check_number, check_whole
from tinyworlds.devices import allow_tf32
from tinyworlds.saving import WholeFiles


def build_trainer(config: DictConfig) -> lightning.Trainer:
    """The trainer, with precision chosen by device, and validations that divide the run evenly."""
    _check(config.trainer)
    options: dict[str, Any] = {
        "default_root_dir": config.run_dir,
        "val_check_interval": validation_interval(config.trainer.max_steps, config.validations)
        * config.trainer.accumulate_grad_batches,  # Lightning counts batches
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
    }
    for key in options:
        if key in config.trainer:
            raise ValueError(f"trainer.{key} is not to be chosen: run_dir and validations decide it")
    gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    if gpu:
        allow_tf32("cuda")
    if config.trainer.precision == "auto":
        options["precision"] = "bf16-mixed" if gpu and torch.cuda.is_bf16_supported() else "32-true"
    callbacks = [build(node) for node in config.callbacks.values()]
    return build(config.trainer, logger=build(config.logger), callbacks=callbacks, plugins=[WholeFiles()], **options)


def _check(trainer: DictConfig) -> None:
    """Refuse what Lightning would only stumble over later, or would say less clearly."""
    check_whole("trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, at_least=1)
    check_whole("trainer.log_every_n_steps", trainer.log_every_n_steps, at_least=1)
    if trainer.gradient_clip_val is not None:
        check_number("trainer.gradient_clip_val", trainer.gradient_clip_val, at_least=0)
    if not trainer.limit_val_batches:
        raise ValueError("trainer.limit_val_batches=0: without validation no checkpoint would be kept")
    if trainer.devices in (0, None):
        raise ValueError(f"trainer.devices={trainer.devices}: give how many to train on")
    if trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(f"trainer.accelerator={trainer.accelerator}: torch finds no GPU here; use trainer=cpu")


def validation_interval(max_steps: Any, validations: Any) -> int:
    """Steps between validations: the fewest that divide `max_steps` into at most `validations` equal parts."""
    check_whole("trainer.max_steps", max_steps, at_least=1)
    check_whole("validations", validations, at_least=1)
    return max_steps // max(n for n in range(1, min(validations, max_steps) + 1) if max_steps % n == 0)
