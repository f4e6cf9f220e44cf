"""What ``python train.py`` does: one stage trained, or the three in order, anew or resumed."""

import contextlib
import io
import logging
import os
import shlex
import warnings
from pathlib import Path
from typing import Any

import lightning
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tinyworlds.checkpoints import RESULT, finished, load_stage, load_tokenizers, write_result
from tinyworlds.command import build
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.settings import MAX_SEED, check_flag, check_whole
from tinyworlds.devices import keep_freed_memory
from tinyworlds.divergence import LAST
from tinyworlds.models import STAGES, Stage
from tinyworlds.models.description import check_limits
from tinyworlds.models.stage import METRIC
from tinyworlds.optim import Optimization
from tinyworlds.processes import starts_others
from tinyworlds.runs import (
    CONFIG,
    LOCK,
    check_same,
    claimed,
    continued,
    discard,
    first_process,
    run_folder,
    save_config,
    unfinished,
)
from tinyworlds.trainer import build_trainer
from tinyworlds.training import fit, memory_explained, outcome, writing_explained

RESUMED = "TINYWORLDS_RESUMED"
"""Environment variable by which the processes that Lightning starts learn what the first one resumes."""

# Lightning's advice and its doubts about what is meant here.
for name in ("lightning.pytorch", "lightning.fabric.utilities"):
    logging.getLogger(name).setLevel(logging.WARNING)
for doubt in (
    "Checkpoint directory .* exists",
    "Found .* in eval mode",
    ".*does not have many workers",
    ".*LeafSpec",
    "The number of training batches",
    "`broadcast_buffers` is deprecated",  # what replaces it is new in torch 2.13
    "FSDP2-wrapped module .* returned a view",  # nothing is changed in place
):
    warnings.filterwarnings("ignore", doubt)


def run(config: DictConfig) -> float:
    """Train as conf/train.yaml says; the best validation loss of the last stage trained."""
    chosen = HydraConfig.get().runtime.choices["stage"]
    keep_freed_memory()
    if config.resume is not None or not first_process():
        discard(Path(HydraConfig.get().runtime.output_dir))  # what begins anew makes it again
    folder = folder_to_resume(config, chosen)
    # The first of the processes that train together speaks for all.
    silent = contextlib.nullcontext() if first_process() else contextlib.redirect_stdout(io.StringIO())
    with silent, memory_explained():
        if chosen not in STAGES:
            return train_all(config, folder)
        if folder is not None:
            config.run_dir = str(folder)
        return train(config, chosen, resumed=folder is not None)[1]


def train_all(config: DictConfig, resumed: Path | None) -> float:
    """Train the stages in order, each on its own composed config, but no tokenizer that is given.

    While they are trained, runs/<dataset>/all/<time>/ says what is being done.
    """
    checkpoints = {name: config[name] for name in ("video_tokenizer", "action_tokenizer") if config[name]}
    replaced = ("stage", "run_dir", "resume", *checkpoints)
    task = [o for o in HydraConfig.get().overrides.task if o.partition("=")[0] not in replaced]
    record = resumed or Path(HydraConfig.get().runtime.output_dir)
    runs = Path(config.runs_dir, config.data.name)
    todo = [name for name in STAGES if name not in checkpoints]
    if resumed is None:
        discard(record)
    for name, path in checkpoints.items():
        load_stage(path, STAGES[name])
    for stage in todo:
        trainer_for(compose("train", [*task, f"stage={stage}", "run_dir=none"]))  # typing errors cost no training
    loss = float("nan")
    with continued(record) if resumed else claimed(record) as record, writing_explained(record):
        if resumed:
            check_same(record, config)
        else:
            save_config(config, record)
        here = record.absolute().relative_to((runs / "all").absolute())
        for stage in todo:
            known = [f"{name}='{path}'" for name, path in checkpoints.items()]
            folder = runs / stage / here
            staged = compose("train", [*task, *known, f"stage={stage}", f"run_dir='{folder}'"])
            begun = resumed is not None and (folder / CONFIG).exists()
            checkpoints[stage], loss = train(staged, stage, resumed=begun, record=record)
    if first_process():
        discard(record, CONFIG, LOCK)
    return loss


def train(config: DictConfig, stage: str, *, resumed: bool = False, record: Path | None = None) -> tuple[Path, float]:
    """Train `stage` as its composed `config` says; returns its best checkpoint and the validation loss of that.

    With `resumed` it goes on in the run's folder. `record` is what is to be resumed where it is part of more.
    """
    folder = Path(config.run_dir)
    if resumed and (folder / RESULT).exists():
        best, loss = finished(folder)
        print(f"{stage}: has finished, {best}", flush=True)
        return best, loss
    with continued(folder) if resumed else claimed(folder) as folder, writing_explained(folder):
        config.run_dir = str(folder)
        if resumed:
            check_same(folder, config)
            told = DictConfig(OmegaConf.load(folder / CONFIG))
            config.video_tokenizer, config.action_tokenizer = told.video_tokenizer, told.action_tokenizer
        trainer, model, data = prepared(config, stage)
        if not resumed:
            save_config(config, folder)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        print(f"{stage}: {trained:,} parameters, {folder}{', resumed' if resumed else ''}", flush=True)
        fit(trainer, model, data, resumed=resumed, again=lambda: command_line(resume=record or folder))
        name, loss, seconds = outcome(trainer)
        best = Path(trainer.strategy.broadcast(str(folder)), name)  # others may have thought of another
        if first_process():
            write_result(
                folder,
                stage=stage,
                checkpoint=best,
                metric=loss,
                seconds=seconds,
                command=command_line(),
                tokenizers=[config.video_tokenizer, config.action_tokenizer] if stage == "dynamics" else [],
            )
    print(f"{stage}: {METRIC} {loss:.4g}, {best}", flush=True)
    return best, loss


def prepared(config: DictConfig, stage: str) -> tuple[lightning.Trainer, Stage, ClipDataModule]:
    """What trains, is trained and is trained on; what can be refused is refused before the first frame is read."""
    check_whole("seed", config.seed, at_least=0, at_most=MAX_SEED)
    check_flag("compile", config.compile)
    trainer = trainer_for(config)
    data: ClipDataModule = build(config.data)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model = build_stage(config, stage, data)
    check_limits(model)
    model.optimization = Optimization(build(config.optimizer), build(config.lr_schedule), config.seed)
    model.optimization.lr_schedule(model.optimization.optimizer(model), total_steps=1)
    if config.activation_checkpointing:
        model.checkpoint_activations()
    if config.compile:
        model.compile_parts()
    return trainer, model, data


def trainer_for(config: DictConfig) -> lightning.Trainer:
    """The trainer; refused where members of a sweep would start processes, which know the sweep but not the member."""
    trainer = build_trainer(config)
    if HydraConfig.get().mode == RunMode.MULTIRUN and starts_others(trainer):
        raise ValueError(
            f"trainer.devices={config.trainer.devices}: members of a sweep (-m) start no processes of their own; give "
            "trainer.devices=1, or have them started: hydra/launcher=slurm hydra.launcher.tasks_per_node="
        )
    return trainer


def command_line(resume: Path | None = None) -> str:
    """How this process was started, or how to `resume` a run of it."""
    task = HydraConfig.get().overrides.task
    if resume is not None:
        task = [*(o for o in task if o.partition("=")[0] != "resume"), f"resume={resume}"]
    return shlex.join(["python", "train.py", *task])


def folder_to_resume(config: DictConfig, stage: str) -> Path | None:
    """What ``resume`` means; None: to begin anew."""
    if config.resume is None:
        return None
    if not isinstance(config.resume, str):
        raise ValueError(f"resume={config.resume} must be auto, or the folder of a run")
    runs = Path(config.runs_dir, config.data.name, stage)
    if not first_process() and RESUMED in os.environ:  # started by the process that chose, with the same command line
        return Path(os.environ[RESUMED]) if os.environ[RESUMED] else None
    if config.resume == "auto":
        folder = unfinished(runs, config, needs=CONFIG if stage == "all" else LAST)
        if folder is None:
            print(f"resume=auto: no unfinished run of this config in {runs}/, so this one begins anew", flush=True)
    else:
        folder = run_folder(config.resume, record=runs if stage == "all" else None)
    os.environ[RESUMED] = str(folder or "")
    return folder


def build_stage(config: DictConfig, stage: str, data: ClipDataModule) -> Stage:
    """The untrained stage; dynamics take the tokenizers given, or else the newest finished ones of the dataset."""
    known: dict[str, Any] = {"frame_size": data.frame_size, "dataset": data.description}
    if stage != "dynamics":
        return build(config.stage, **known)
    tokenizers = load_tokenizers(
        video_tokenizer=config.video_tokenizer,
        action_tokenizer=config.action_tokenizer,
        runs_dir=config.runs_dir,
        **known,
    )
    for tokenizer in tokenizers:  # so that the run's config.yaml says which
        config[tokenizer.name] = str(tokenizer.loaded_from)
    data.use_tokenizer(tokenizers)
    return build(
        config.stage,
        dataset=data.description,
        video_tokenizer=tokenizers.video,
        action_tokenizer=tokenizers.action,
    )
