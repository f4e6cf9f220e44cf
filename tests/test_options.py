"""Every option of training outside `stage` changes what is built; those of the stages are in test_stage_keys.py."""

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

from tinyworlds.command import CONF, build
from tinyworlds.nn.feed_forward import SwiGLU
from tinyworlds.trainer import build_trainer

BASE = [
    "stage=video_tokenizer",
    "optimizer=adamw",
    "lr_schedule=cosine",
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "run_dir=run",
]
TRAINER = (
    "num_devices", "num_nodes", "precision", "max_steps", "accumulate_grad_batches", "gradient_clip_val",
    "limit_val_batches", "val_check_interval", "log_every_n_steps", "default_root_dir",
)  # fmt: skip
OTHER_VALUES = {
    "seed": 1, "data_dir": "elsewhere", "runs_dir": "elsewhere", "run_dir": "elsewhere", "validations": 2,
    "optimizer.lr": 1, "optimizer.betas": [0.5, 0.6], "optimizer.weight_decay": 0.5,
    "lr_schedule.warmup": 0.5, "lr_schedule.final": 0.5,
    "data.name": "other", "data.path": "other.h5", "data.clip_length": 7, "data.clip_stride": 2,
    "data.batch_size": 3, "data.num_workers": 2, "data.cache_tokens": False, "data.val_fraction": 0.5, "data.seed": 3,
    "trainer.devices": 2, "trainer.num_nodes": 2, "trainer.precision": "64-true",
    "trainer.max_steps": 16, "trainer.accumulate_grad_batches": 2, "trainer.gradient_clip_val": 0.5,
    "trainer.use_distributed_sampler": True, "trainer.limit_val_batches": 3, "trainer.log_every_n_steps": 3,
    "trainer.enable_model_summary": True, "trainer.strategy.broadcast_buffers": True,
    "trainer.strategy.gradient_as_bucket_view": False,
    "logger.save_dir": "elsewhere", "logger.name": "other", "logger.version": "other",
    "logger.default_hp_metric": True,
    "callbacks.checkpoint.dirpath": "elsewhere", "callbacks.checkpoint.filename": "other",
    "callbacks.checkpoint.monitor": "val/psnr", "callbacks.checkpoint.enable_version_counter": True,
    "callbacks.checkpoint.auto_insert_metric_name": True, "callbacks.last.every_n_steps": 7,
    "callbacks.divergence.max_loss": 7, "callbacks.throughput.every_n_steps": 7,
    "callbacks.pictures.every_n_steps": 7, "callbacks.pictures.fps": 7,
}  # fmt: skip
OF_OTHER_CHOICES = {
    "optimizer=muon": {"lr": 1, "betas": [0.5, 0.6], "weight_decay": 0.5, "matrix_factor": 1, "momentum": 0.5},
    "optimizer=soap": {"lr": 1, "betas": [0.5, 0.6], "weight_decay": 0.5, "frequency": 3, "max_side": 3},
    "lr_schedule=wsd": {"warmup": 0.5, "decay": 0.5, "final": 0.5},
    "lr_schedule=constant": {"warmup": 0.5},
}
SHOWN_ELSEWHERE = {
    "data.recording": "tests/data/test_record.py",
    "video_tokenizer": "tests/test_train.py",
    "action_tokenizer": "tests/test_train.py",
    "compile": "tests/test_train.py",
    "resume": "tests/test_resume.py",
    "activation_checkpointing": "tests/models/test_stage.py",
    "trainer.accelerator": "tests/test_trainer.py",
}


@functools.cache
def composed(*choices: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*BASE, *choices], return_hydra_config=True)


def plain(thing: Any) -> dict[str, str]:
    """The attributes of an object as text, those left out that hold an address in memory."""
    return {key: repr(value) for key, value in vars(thing).items() if " at 0x" not in repr(value)}


def trainer(config: DictConfig) -> Any:
    built = build_trainer(config)
    shown = {name: getattr(built, name) for name in TRAINER}
    callbacks = [type(callback).__name__ for callback in built.callbacks]
    own_sampler = built._accelerator_connector.use_distributed_sampler
    return shown, callbacks, own_sampler, built.logger.log_dir, plain(built.logger), plain(built.strategy)


def optimizer(config: DictConfig) -> Any:
    built = build(config.optimizer)(SwiGLU(embed_dim=4, hidden_dim=6))
    return [{key: value for key, value in group.items() if key != "params"} for group in built.param_groups]


def lr_schedule(config: DictConfig) -> Any:
    schedule = build(config.lr_schedule)(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1), total_steps=100)
    return [schedule.lr_lambdas[0](step) for step in range(100)]


def data(config: DictConfig) -> Any:
    return {key: value for key, value in plain(build(config.data)).items() if not key.startswith("_")}


def callbacks(config: DictConfig) -> Any:
    return [plain(build(node)) for node in config.callbacks.values()]


def folder(config: DictConfig) -> Any:
    return Path(config.hydra.run.dir).parent, Path(config.hydra.sweep.dir).parent


GROUPS = {
    "optimizer": optimizer, "lr_schedule": lr_schedule, "data": data, "trainer": trainer, "callbacks": callbacks,
    "logger": trainer, "validations": trainer, "run_dir": trainer, "seed": data, "data_dir": data, "runs_dir": folder,
}  # fmt: skip


@functools.cache
def before(group: str, *choices: str) -> Any:
    return GROUPS[group](composed(*choices))


def after(key: str, value: Any, *choices: str) -> Any:
    """What is built where a key has another value."""
    changed = copy.deepcopy(composed(*choices))
    with open_dict(changed):
        OmegaConf.update(changed, key, value)
    return GROUPS[key.partition(".")[0]](changed)


@pytest.mark.parametrize("key", OTHER_VALUES)
def test_every_option_changes_what_is_built(key):
    assert after(key, OTHER_VALUES[key]) != before(key.partition(".")[0])


@pytest.mark.parametrize("choice", OF_OTHER_CHOICES)
def test_every_option_of_another_choice_changes_what_is_built(choice):
    group, values = choice.partition("=")[0], OF_OTHER_CHOICES[choice]
    assert before(group, choice) != before(group)
    assert set(values) == {*leaves(composed(choice)[group])}
    for key, value in values.items():
        assert after(f"{group}.{key}", value, choice) != before(group, choice), key


@pytest.mark.parametrize("group", ["optimizer", "lr_schedule"])
def test_there_are_no_other_choices(group):
    known = {choice.partition("=")[2] for choice in OF_OTHER_CHOICES if choice.startswith(f"{group}=")}
    files = {path.stem for path in (CONF / group).glob("*.yaml")} - {"base"}
    assert files == known | {composed().hydra.runtime.choices[group]}


def leaves(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        inner = None if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key) else node[key]
        if isinstance(inner, DictConfig):
            yield from leaves(inner, f"{prefix}{key}.")
        elif key != "_target_" and key != "_partial_":
            yield f"{prefix}{key}"


def test_no_option_is_forgotten_above():
    known = (*SHOWN_ELSEWHERE, "hydra", "stage")
    for key in leaves(composed()):
        assert key in OTHER_VALUES or any(key == other or key.startswith(f"{other}.") for other in known), key
    for path in SHOWN_ELSEWHERE.values():
        assert (CONF.parent / path).is_file()
