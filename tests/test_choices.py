"""Every choice goes with every other: all pairs of them composed, and trained for two steps."""

import copy
from collections.abc import Mapping, Sequence
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from benchmarks import ranks
from tinyworlds import World
from tinyworlds.checkpoints import load_stage, save_stage
from tinyworlds.command import CONF, build
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.interop import to_public
from tinyworlds.maskgit import SCHEDULES
from tinyworlds.models import STAGES, Dynamics, Stage
from tinyworlds.models.tokenizers import Tokenizers
from tinyworlds.nn.block import NORMS
from tinyworlds.nn.patches import PATCHES
from tinyworlds.nn.positions import POSITIONS
from tinyworlds.nn.transformer import CONDITIONINGS
from tinyworlds.optim import Optimization
from tinyworlds.orders import ORDERS

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
        "stage.local": FLAG,
        "stage.temporal": FLAG,
    },
    "action_tokenizer": {
        **TRAINING,
        **TRANSFORMER,
        "stage/encoder": files("stage/encoder"),
        "stage/decoder": files("stage/decoder"),
        "stage.latent_norm": FLAG,
        "stage.codes": ("null", 8, "4 stage.members=3 stage.n_actions=2"),
    },
    "dynamics": {
        **TRAINING,
        **TRANSFORMER,
        "stage/feed_forward": files("stage/feed_forward"),
        "stage.conditioning": CONDITIONINGS,
        "stage.last_actions": (1, 2),
        "stage.masking": ("clean_context", "anchored stage.context_noise=0 stage.own_context=0"),
        "stage.decoding.schedule": tuple(SCHEDULES),
        "stage.decoding.guidance": (0, 2),
        "stage.decoding.order": tuple(ORDERS),
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

    def found(option: str, value: Any, row: Row) -> tuple[int, int]:
        """How many missing pairs it makes with those in the row, and how many there are of it."""
        return len(missing & pairs({**row, option: value})), sum((option, value) in pair for pair in missing)

    while missing:
        row = dict(max(missing, key=lambda pair: (sum(len(choices[name]) for name, _ in pair), sorted(map(str, pair)))))
        for option in sorted(choices.keys() - row.keys(), key=lambda name: (-len(choices[name]), name)):
            row[option] = max(choices[option], key=lambda value: found(option, value, row))
        missing.difference_update(pairs(row))
        rows.append(row)
    return rows


ROWS = [(stage, row) for stage in STAGES for row in covering(CHOICES[stage])]
TRAINED = [pytest.param(*one, id=one[0], marks=[pytest.mark.slow] if one[0] != "dynamics" else []) for one in ROWS]


@pytest.mark.parametrize("stage", STAGES)
def test_the_combinations_that_are_trained_hold_every_pair_and_are_few(stage):
    rows = [row for name, row in ROWS if name == stage]
    assert set().union(*map(pairs, rows)) == every_pair(CHOICES[stage])
    *_, second, first = sorted(map(len, CHOICES[stage].values()))
    assert first * second <= len(rows) < 2 * first * second


def composed(stage: str, row: Row, *options: str) -> DictConfig:
    """The config of a tiny stage in which all is chosen as the row says."""
    chosen = (f"{option}={value}".split() for option, value in row.items() if option not in TRANSFORMER)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"stage={stage}", "data=video", *chain(*chosen), *options, "run_dir=run"])
    values = TINY | {key: row[key] for key in TRANSFORMER if key in row}
    for part in filter(None, (config.stage, config.stage.get("encoder"), config.stage.get("decoder"))):
        part.update({key: value for key, value in values.items() if key in part})
    return config


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("square") / "square.h5", episodes=3, length=12)


@pytest.fixture(scope="module")
def tokenizers(store: Path) -> Tokenizers:
    """Untrained ones, for the dynamics; what actions there are, several codecs agree on."""
    options = (f"data.path={store}", "data.val_fraction=0.2")
    rows = {
        "video_tokenizer": {},
        "action_tokenizer": {"stage.members": "3 stage.codes=8 stage.n_actions=4 data.clip_length=4"},
    }
    configs = [composed(stage, row, *options) for stage, row in rows.items()]
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
    length = 4 if stage == "action_tokenizer" else 3  # from so many frames actions can be read
    config = composed(stage, row, f"data.path={store}", "data.batch_size=4", f"data.clip_length={length}")
    model, trainer = trained(config, tokenizers)
    assert trainer.global_step == 2
    assert torch.isfinite(trainer.callback_metrics["val/loss"])
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    save_stage(model, tmp_path / "stage.ckpt")
    assert load_stage(tmp_path / "stage.ckpt", type(model)).digest() == model.digest()
    if isinstance(model, Dynamics):
        World(model).save_pretrained(tmp_path / "shared")
        assert World.load(tmp_path / "shared").dynamics.weights_digest() == model.weights_digest()


ROPE = ("stage.positions=rope", "stage.conditioning=prepend", "stage/feed_forward=moe")
ALIBI = ("stage.positions=alibi", "stage.conditioning=adaln_zero", "stage.qk_norm=true", "stage/feed_forward=moe")


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "several"), [("ddp", ROPE), ("fsdp", (*ALIBI, "activation_checkpointing=true"))])
def test_two_processes_learn_what_one_does_and_what_they_learned_is_shared(
    store, tokenizers, tmp_path, strategy, several
):
    paths = {tokenizer.name: tmp_path / f"{tokenizer.name}.ckpt" for tokenizer in tokenizers}
    for tokenizer in tokenizers:
        save_stage(tokenizer, paths[tokenizer.name])
    tiny = [f"stage.{key}={value}" for key, value in TINY.items() if key not in ("patch_size", "shrink")]
    known = [f"data.path={store}", *(f"{name}={path}" for name, path in paths.items())]
    options = ["stage=dynamics", *known, *tiny, *several, "trainer.max_steps=2", "stage.own_context=0"]
    alone, together = (
        ranks.newest(ranks.train(tmp_path, *options, strategy=how), "dynamics") for how in (None, strategy)
    )
    wanted = {name: values for name, values in ranks.curves(alone).items() if name.startswith("train/")}
    assert {"train/loss", "train/experts/balance", "train/experts/z", "train/experts/evenness"} <= wanted.keys()
    for name, values in wanted.items():
        assert ranks.curves(together)[name] == pytest.approx(values, abs=1e-5), name
    world = World.load(together / "best.ckpt")
    world.save_pretrained(tmp_path / "shared")
    again = World.load(tmp_path / "shared")
    prompt = np.random.default_rng(0).integers(0, 256, (4, *world.frame_size, 3), dtype=np.uint8)
    assert np.array_equal(world.reset(prompt), again.reset(prompt))
    assert np.array_equal(world.step(1), again.step(1))
    with pytest.raises(ValueError, match="stands in the way"):
        to_public(world.dynamics, tmp_path / "public")
