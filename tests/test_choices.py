"""Every choice goes with every other: all pairs of them composed, and trained for two steps."""

import copy
from collections.abc import Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from tinyworlds.checkpoints import load_stage, save_stage
from tinyworlds.command import CONF, build
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.models import STAGES, Stage
from tinyworlds.models.dynamics import MASKINGS
from tinyworlds.models.tokenizers import Tokenizers
from tinyworlds.nn.block import NORMS
from tinyworlds.nn.patches import PATCHES
from tinyworlds.nn.positions import POSITIONS
from tinyworlds.nn.transformer import CONDITIONINGS
from tinyworlds.optim import Optimization

from .square import record

Row = dict[str, Any]


def files(group: str) -> tuple[str, ...]:
    """The choices of a group in conf/."""
    return tuple(sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "base"))


FLAG = (False, True)
TRAINING = {"optimizer": files("optimizer"), "lr_schedule": files("lr_schedule")}
TRANSFORMER = {"positions": tuple(POSITIONS), "norm": NORMS, "qk_norm": FLAG}
"""Keys of a stage, and of those of its parts that have them."""
CHOICES: dict[str, dict[str, Sequence[Any]]] = {
    "video_tokenizer": {
        **TRAINING,
        **TRANSFORMER,
        "stage.patches": PATCHES,
        "stage.temporal": FLAG,
    },
    "action_tokenizer": {
        **TRAINING,
        **TRANSFORMER,
        "stage/encoder": files("stage/encoder"),
        "stage/decoder": files("stage/decoder"),
        "stage.latent_norm": FLAG,
    },
    "dynamics": {
        **TRAINING,
        **TRANSFORMER,
        "stage/feed_forward": files("stage/feed_forward"),
        "stage.conditioning": CONDITIONINGS,
        "stage.masking": MASKINGS,
        "data.cache_tokens": FLAG,
    },
}
TINY = {"embed_dim": 16, "num_heads": 4, "hidden_dim": 24, "num_blocks": 2, "patch_size": 4, "shrink": 1}
"""Of a stage and its parts, where they have such keys."""


def pairs(row: Row) -> set[frozenset[tuple[str, Any]]]:
    return set(map(frozenset, combinations(row.items(), 2)))


def every_pair(choices: Mapping[str, Sequence[Any]]) -> set[frozenset[tuple[str, Any]]]:
    return {
        frozenset(((one, a), (other, b)))
        for (one, first), (other, second) in combinations(choices.items(), 2)
        for a, b in product(first, second)
    }


def covering(choices: Mapping[str, Sequence[Any]]) -> list[Row]:
    """Few combinations that hold every pair: each begins with one that is missing and is filled up with most others."""
    missing, rows = every_pair(choices), []
    while missing:
        row = dict(min(missing, key=lambda pair: sorted(map(str, pair))))
        for option in sorted(choices.keys() - row.keys(), key=lambda name: (-len(choices[name]), name)):
            row[option] = max(choices[option], key=lambda value: len(missing & pairs({**row, option: value})))
        missing -= pairs(row)
        rows.append(row)
    return rows


ROWS = [(stage, row) for stage in STAGES for row in covering(CHOICES[stage])]
TRAINED = [pytest.param(*one, id=one[0], marks=[pytest.mark.slow] if one[0] != "dynamics" else []) for one in ROWS]


@pytest.mark.parametrize("stage", STAGES)
def test_the_combinations_that_are_trained_hold_every_pair_and_are_few(stage):
    rows = [row for name, row in ROWS if name == stage]
    assert set().union(*map(pairs, rows)) == every_pair(CHOICES[stage])
    *_, second, first = sorted(map(len, CHOICES[stage].values()))
    assert len(rows) <= first * second + 6


def composed(stage: str, row: Row, *options: str) -> DictConfig:
    """The config of a tiny stage in which all is chosen as the row says."""
    overrides = [f"{option}={value}" for option, value in row.items() if option not in TRANSFORMER]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"stage={stage}", "data=video", *overrides, *options, "run_dir=run"])
    chosen = TINY | {key: row[key] for key in TRANSFORMER if key in row}
    for part in filter(None, (config.stage, config.stage.get("encoder"), config.stage.get("decoder"))):
        part.update({key: value for key, value in chosen.items() if key in part})
    return config


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("square") / "square.h5", episodes=3, length=12)


@pytest.fixture(scope="module")
def tokenizers(store: Path) -> Tokenizers:
    """Untrained ones, for the dynamics."""
    configs = [composed(stage, {}, f"data.path={store}") for stage in ("video_tokenizer", "action_tokenizer")]
    return Tokenizers(*(build(config.stage, **known(build(config.data))).eval() for config in configs))


def known(data: ClipDataModule) -> dict[str, Any]:
    return {"frame_size": data.frame_size, "dataset": data.description}


def trained(config: DictConfig, tokenizers: Tokenizers) -> tuple[Stage, lightning.Trainer]:
    """Two steps, and a validation."""
    data = build(config.data)
    given = known(data)
    if config.stage._target_.endswith("Dynamics"):
        data.use_tokenizer(tokenizers)
        both = copy.deepcopy(tokenizers)
        given = {"dataset": given["dataset"], "video_tokenizer": both.video, "action_tokenizer": both.action}
    model = build(config.stage, **given)
    model.optimization = Optimization(build(config.optimizer), build(config.lr_schedule), config.seed)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    limits = {"max_steps": 2, "limit_val_batches": 1, "val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = lightning.Trainer(accelerator="cpu", num_sanity_val_steps=0, gradient_clip_val=1.0, **limits, **quiet)
    trainer.fit(model, data)
    return model, trainer


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
@pytest.mark.parametrize(("stage", "row"), TRAINED)
def test_every_pair_of_choices_trains_and_opens_again(store, tokenizers, tmp_path, stage, row):
    config = composed(stage, row, f"data.path={store}", "data.batch_size=4", "data.clip_length=3")
    model, trainer = trained(config, tokenizers)
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    save_stage(model, tmp_path / "stage.ckpt")
    assert load_stage(tmp_path / "stage.ckpt", type(model)).digest() == model.digest()
