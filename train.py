"""Train one stage, or all three in order: ``python train.py [stage=…] [data=…] [experiment=…]``."""

import contextlib
import logging
import shlex
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from tinyworlds.checkpoints import load_tokenizers, write_result
from tinyworlds.command import build, command
from tinyworlds.data.datamodules import ClipDataModule
from tinyworlds.data.settings import check_whole
from tinyworlds.models import STAGES, Stage
from tinyworlds.models.description import check_limits
from tinyworlds.models.stage import METRIC
from tinyworlds.optim import Optimization
from tinyworlds.trainer import build_trainer

# Lightning's advice and its doubts about what is meant here.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
for doubt in (
    "Checkpoint directory .* exists",
    "Found .* in eval mode",
    ".*does not have many workers",
    ".*LeafSpec",
    "The number of training batches",
):
    warnings.filterwarnings("ignore", doubt)


@command("train")
def main(config: DictConfig) -> float:
    """The best validation loss of the last stage trained, which is what a sweep minimizes."""
    chosen = HydraConfig.get().runtime.choices["stage"]
    return train(config, chosen)[1] if chosen in STAGES else train_all(config)


def train_all(config: DictConfig) -> float:
    """Train the stages in order, each on its own composed config, but no tokenizer that is given."""
    checkpoints = {name: config[name] for name in ("video_tokenizer", "action_tokenizer") if config[name]}
    task = [
        o for o in HydraConfig.get().overrides.task if o.partition("=")[0] not in ("stage", "run_dir", *checkpoints)
    ]
    hydra_dir = Path(HydraConfig.get().runtime.output_dir)
    runs = Path(config.runs_dir, config.data.name)
    here = hydra_dir.relative_to((runs / "all").absolute())
    todo = [name for name in STAGES if name not in checkpoints]
    with contextlib.suppress(OSError):  # nothing is kept there: each stage has a folder of its own
        hydra_dir.rmdir()
        hydra_dir.parent.rmdir()
    for stage in todo:
        build_trainer(compose("train", [*task, f"stage={stage}", "run_dir=none"]))  # typing errors cost no training
    loss = float("nan")
    for stage in todo:
        known = [f"{name}='{path}'" for name, path in checkpoints.items()]
        staged = compose("train", [*task, *known, f"stage={stage}", f"run_dir='{runs / stage / here}'"])
        checkpoints[stage], loss = train(staged, stage)
    return loss


def train(config: DictConfig, stage: str) -> tuple[Path, float]:
    """Train `stage` as its composed `config` says; returns its best checkpoint and the validation loss of that."""
    began = time.monotonic()
    check_whole("seed", config.seed, at_least=0)
    # All that can be refused is refused before the first frame is recorded or read.
    trainer = build_trainer(config)
    data: ClipDataModule = build(config.data)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    model = build_stage(config, stage, data)
    check_limits(model)
    model.optimization = Optimization(build(config.optimizer), build(config.lr_schedule), config.seed)
    model.optimization.lr_schedule(model.optimization.optimizer(model.parameters()), total_steps=1)

    if config.compile:
        model.compile_parts()

    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run_dir / "config.yaml", resolve=True)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    print(f"{stage}: {trained:,} parameters, {run_dir}", flush=True)
    trainer.fit(model, data)
    saved = trainer.checkpoint_callback
    if not isinstance(saved, ModelCheckpoint) or saved.best_model_score is None:
        raise ValueError(f"{stage} ended before its first validation, so nothing was kept: lower validations or steps")
    best, loss = run_dir / Path(saved.best_model_path).name, float(saved.best_model_score)
    write_result(
        run_dir,
        stage=stage,
        checkpoint=best,
        metric=loss,
        seconds=time.monotonic() - began,
        command=shlex.join(["python", "train.py", *HydraConfig.get().overrides.task]),
        tokenizers=[config.video_tokenizer, config.action_tokenizer] if stage == "dynamics" else [],
    )
    print(f"{stage}: {METRIC} {loss:.4g}, {best}", flush=True)
    return best, loss


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


if __name__ == "__main__":
    main()
