"""What `benchmarks.ablations` measures, and with what: all that conf/ablations.yaml says."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from benchmarks import measure
from benchmarks.stages import compose_train
from tinyworlds.checkpoints import load_stage, newest
from tinyworlds.data.settings import check_device, check_number, check_whole
from tinyworlds.models import STAGES, ActionTokenizer, Dynamics, VideoTokenizer
from tinyworlds.runs import flat

TIMINGS = "timings"
"""With ``measure=timings`` only how long steps take is measured."""
DECODING = "decoding"
"""Beside the stages: other ways to decode, tried on finished dynamics."""
NEEDED = {Dynamics.name: (VideoTokenizer.name, ActionTokenizer.name), DECODING: (Dynamics.name,)}
"""The finished stages that are built on."""
COMMON = ("data.num_workers=0", "validations=1")
"""Options of `train.py` for all: one process, which reads its clips itself and validates at the end alone."""
TRAINERS = {"cpu": ("trainer=cpu",), "cuda": ("trainer=gpu", "trainer.precision=32")}
"""Options of `train.py` for each device, with the same precision but for TF32."""
LEARNED_WITH = (
    "stage",
    "optimizer",
    "lr_schedule",
    "data.batch_size",
    "data.clip_length",
    "data.clip_stride",
    "data.cache_tokens",
    "data.val_fraction",
    "trainer.accumulate_grad_batches",
    "trainer.gradient_clip_val",
    "trainer.precision",
)
"""What of a config decides what is learned in so many steps."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A variant of a stage, on one game, with one seed, given so many `seconds`; None where nothing is trained."""

    stage: str
    variant: str
    game: str
    seed: int
    seconds: float | None

    def __str__(self) -> str:
        return f"{self.stage} {self.variant}, {self.game}, seed {self.seed}"

    @property
    def learner(self) -> str:
        """The stage whose options it is about."""
        return Dynamics.name if self.stage == DECODING else self.stage


def check(config: DictConfig) -> None:
    """
    Raises:
        ValueError: an option of conf/ablations.yaml is impossible.
    """
    if not isinstance(config.measure, bool) and config.measure != TIMINGS:
        raise ValueError(f"measure={config.measure} must be true, false or {TIMINGS}")
    if config.device not in TRAINERS:
        raise ValueError(f"device={config.device}: must be {' or '.join(TRAINERS)}")
    check_device(config.device)
    check_number("seconds", config.seconds, at_least=0.1)
    check_number("timing", config.timing, at_least=0)
    check_whole("clips", config.clips, at_least=1)
    for key in ("stages", "games", "seeds", "finished", "options", "only"):
        if (key, config[key]) != ("only", None):
            measure.check_list(config, key)
    if not OmegaConf.is_dict(config.baseline) or not set(config.baseline) <= set(config.variants):
        raise ValueError(
            f"baseline={config.baseline}: give lists of options by stage, one of {', '.join(config.variants)}"
        )
    if len(config.finished) != len(config.seeds):
        raise ValueError(f"finished={config.finished}: give one runs_dir for each of seeds={config.seeds}")
    for stage in config.stages:
        if stage not in config.variants:
            raise ValueError(f"stages: {stage} is none of {', '.join(config.variants)}")
    known = {name for stage in config.stages for name in config.variants[stage]}
    for name in config.only or ():
        if name not in known:
            raise ValueError(f"only: {name} is no variant of {', '.join(config.stages)} in conf/ablations.yaml")


def planned(config: DictConfig) -> list[Trial]:
    """All that is to be measured: of each stage every variant on one game with one seed before the next."""
    return [
        Trial(
            stage=stage,
            variant=variant,
            game=game,
            seed=seed,
            seconds=None if stage == DECODING else float(config.seconds),
        )
        for stage in config.stages
        for seed in config.seeds
        for game in config.games
        for variant in config.variants[stage]
        if config.only is None or variant in config.only
    ]


def changes(config: DictConfig, trial: Trial) -> list[str]:
    """The options of `train.py` by which a trial differs from ``experiment=laptop``."""
    return [*_baseline(config, trial), *_own_options(config, trial)]


def _baseline(config: DictConfig, trial: Trial) -> list[str]:
    return list(config.baseline.get(trial.stage, ()))


def _own_options(config: DictConfig, trial: Trial) -> list[str]:
    return [*config.options, *config.variants[trial.stage][trial.variant]]


def training_options(config: DictConfig, trial: Trial, runs_dir: str | Path, *, device: str) -> list[str]:
    """The options of `train.py` that train it, but for the number of steps."""
    return [
        f"stage={trial.learner}",
        f"data={trial.game}",
        f"seed={trial.seed}",
        f"data_dir='{config.data_dir}'",
        f"runs_dir='{runs_dir}'",
        *(f"{name}='{path}'" for name, path in built_on(config, trial).items()),
        *TRAINERS[device],
        *COMMON,
        *changes(config, trial),
    ]


def built_on(config: DictConfig, trial: Trial) -> dict[str, Path]:
    """The laptop's checkpoints that a trial needs, by stage.

    Raises:
        FileNotFoundError: one is not there.
    """
    finished = config.finished[list(config.seeds).index(trial.seed)]
    return {name: newest(finished, trial.game, name) for name in NEEDED.get(trial.stage, ())}


def setting(config: DictConfig, trial: Trial) -> dict[str, Any]:
    """All that a trial is measured with and that may be another one day, as it goes into the results."""
    found = steps_setting(config, trial)
    if config.device != "cpu":
        found["device"] = config.device
    if trial.stage in NEEDED:
        found["upon"] = {name: _weights(path, name) for name, path in built_on(config, trial).items()}
        found["clips"] = config.clips
    return found


def steps_setting(config: DictConfig, trial: Trial) -> dict[str, Any]:
    """The part of the `setting` that decides how long a step takes."""
    unlike = unlike_reference(trial.learner, tuple(changes(config, trial)))
    if trial.stage == DECODING:
        unlike = {key: value for key, value in unlike.items() if key.startswith("stage.decoding.")}
    found: dict[str, Any] = {"options": _own_options(config, trial), "unlike_reference": unlike}
    if baseline := _baseline(config, trial):
        found["baseline"] = baseline
    return found


def unlike_reference(stage: str, options: tuple[str, ...]) -> dict[str, Any]:
    """What a stage learns with, by keys with dots, where it is not as published.

    A key that comes into being later changes nothing of this until it is used.
    """
    own, published = (_learned_with((f"stage={stage}", *more)) for more in (options, ("experiment=reference",)))
    return {key: value for key, value in own.items() if key not in published or value != published[key]}


@cache
def composed(options: tuple[str, ...]) -> DictConfig:
    """What ``python train.py`` with these options would run on; not to be changed."""
    return compose_train(options)


def _learned_with(options: tuple[str, ...]) -> dict[str, Any]:
    config = composed(options)
    found: dict[str, Any] = {}
    for key in LEARNED_WITH:
        node = OmegaConf.select(config, key)
        found |= flat(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node, key)
    return found


@cache
def _weights(path: Path, stage: str) -> str:
    """Names the weights in a checkpoint."""
    return load_stage(path, STAGES[stage]).weights_digest()[:12]
