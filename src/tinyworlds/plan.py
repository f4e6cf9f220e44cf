"""What it takes to train a stage, found out without a GPU: ``python -m tinyworlds.plan size=7b gpus=64``."""

import copy
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tinyworlds.command import build, command
from tinyworlds.data.settings import check_number, check_whole, frame_size
from tinyworlds.media import replacing
from tinyworlds.models import STAGES, ActionTokenizer, Dynamics, Stage, VideoTokenizer
from tinyworlds.nn.block import Block
from tinyworlds.rehearsal import PRECISIONS, Rehearsal, nbytes, rehearse

warnings.filterwarnings("ignore", ".*self.log")  # there is no trainer that would log

GIB = 2**30
SECONDS_A_DAY = 86400


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What training takes. `memory` is of one GPU, by part, in bytes; `at_most` of it is held at once.

    `seconds` of a step are those of its operations, and those of moving tensors to and from memory.
    """

    stage: str
    parameters: Mapping[str, int]
    trained: int
    flops: int
    clips_per_gpu: int
    memory: Mapping[str, int]
    at_most: int
    usable_memory: int
    tokens_per_step: int
    seconds: Mapping[str, float]
    seconds_per_step: float
    tokens: int
    days: float

    @property
    def fits(self) -> bool:
        return self.at_most <= self.usable_memory


@command("plan")
def main(config: DictConfig) -> None:
    """Print the plan, and write it as JSON where `out` says."""
    name = HydraConfig.get().runtime.choices["stage"]
    if name not in STAGES:
        raise ValueError(f"stage={name} cannot be planned at once: give one of {', '.join(STAGES)}")
    check(config)
    with torch.device("meta"):
        stage = untrained(stage_configs(config, name), size=frame_size(config.frame_size, name="frame_size"))[name]
    made = plan(stage, config)
    print(in_words(made, config))
    if config.out is not None:
        with replacing(config.out) as unfinished:
            unfinished.write_text(json.dumps({**asdict(made), "fits": made.fits}, indent=2) + "\n")


def check(config: DictConfig) -> None:
    """
    Raises:
        ValueError: an option of the plan is impossible.
    """
    check_whole("gpus", config.gpus, at_least=1)
    check_whole("data.batch_size", config.data.batch_size, at_least=1)
    check_whole("trainer.max_steps", config.trainer.max_steps, at_least=1)
    check_whole("trainer.accumulate_grad_batches", config.trainer.accumulate_grad_batches, at_least=1)
    if config.device not in config.devices:
        raise ValueError(f"device={config.device} is none of {', '.join(config.devices)}")
    if config.trainer.precision not in ("auto", *PRECISIONS):
        raise ValueError(
            f"trainer.precision={config.trainer.precision}: auto, {' and '.join(PRECISIONS)} can be planned"
        )
    if config.trainer.strategy != "auto" and not spread(config):
        raise ValueError(f"trainer.strategy={config.trainer.strategy}: trainer=ddp and trainer=fsdp can be planned")
    if config.gpus > 1 and not spread(config):
        raise ValueError(f"gpus={config.gpus}: this trainer uses one; give trainer=ddp or trainer=fsdp")
    check_number("utilization", config.utilization, at_least=1e-6, at_most=1)
    check_number("reserve", config.reserve, at_least=0, at_most=0.99)
    for key in ("peak_tflops", "bandwidth", "gpu_memory"):
        if config[key] is not None:
            check_number(key, config[key], at_least=1e-6)
    if config.tokens is not None:
        check_number("tokens", config.tokens, at_least=1)


def stage_configs(config: DictConfig, name: str) -> dict[str, DictConfig]:
    """Those of a stage and, before it, of the tokenizers it needs, for which the options of the stage are not meant."""
    if name != Dynamics.name:
        return {name: config}
    task = [
        o for o in HydraConfig.get().overrides.task if not o.lstrip("+~").startswith(("stage=", "stage.", "stage/"))
    ]
    tokenizers = (VideoTokenizer.name, ActionTokenizer.name)
    return {kind: compose("plan", [*task, f"stage={kind}"]) for kind in tokenizers} | {name: config}


def untrained(
    configs: Mapping[str, DictConfig], *, size: tuple[int, int], clip_length: int | None = None
) -> dict[str, Stage]:
    """Stages for frames of `size` pixels by name, each from its config; the dynamics take copies of those before them.

    `clip_length` counts the frames they are built for; None: as each config has it.
    """
    stages: dict[str, Stage] = {}
    for name, config in configs.items():
        noise = {"name": "noise", "path": "noise.h5", "val_fraction": 0.1}
        given: dict[str, Any] = {"dataset": {**noise, "clip_length": clip_length or config.data.clip_length}}
        given |= copy.deepcopy(stages) if name == Dynamics.name else {"frame_size": size}
        stages[name] = build(config.stage, **given)
    return stages


def plan(stage: Stage, config: DictConfig) -> Plan:
    """Plan the training of `stage`, which lies on torch's device ``meta`` and is used up.

    Raises:
        ValueError: the stage can't be rehearsed.
    """
    parameters: dict[str, int] = {}
    for name, parameter in stage.named_parameters():
        part = name.partition(".")[0]
        parameters[part] = parameters.get(part, 0) + parameter.numel()
    trained = sum(p.numel() for p in stage.parameters() if p.requires_grad)
    blocks = [nbytes(block.parameters()) for block in stage.modules() if isinstance(block, Block) and _trains(block)]
    rehearsal = _rehearsed(stage, config)
    memory, at_most = memory_of(rehearsal, shards=_shards(config), blocks=blocks)
    batches = config.gpus * config.trainer.accumulate_grad_batches
    tokens_per_step = batches * config.data.batch_size * _tokens_per_clip(stage)
    seconds = _seconds(rehearsal, config)
    tokens = int(config.tokens or tokens_per_step * config.trainer.max_steps)
    return Plan(
        stage=stage.name,
        parameters=parameters,
        trained=trained,
        flops=batches * rehearsal.flops,
        clips_per_gpu=config.data.batch_size,
        memory=memory,
        at_most=at_most,
        usable_memory=int((config.gpu_memory or config.devices[config.device].memory) * GIB * (1 - config.reserve)),
        tokens_per_step=tokens_per_step,
        seconds=seconds,
        seconds_per_step=sum(seconds.values()),
        tokens=tokens,
        days=math.ceil(tokens / tokens_per_step) * sum(seconds.values()) / SECONDS_A_DAY,
    )


def _rehearsed(stage: Stage, config: DictConfig) -> Rehearsal:
    """What one GPU does with one batch."""
    if config.activation_checkpointing:
        stage.checkpoint_activations()
    return rehearse(
        stage,
        batch_size=config.data.batch_size,
        tokens=config.data.cache_tokens,
        optimizer=build(config.optimizer),
        precision=precision(config),
        shards=_shards(config),
        kept_gradients=config.trainer.accumulate_grad_batches > 1 or spread(config) == "ddp",
    )


def _shards(config: DictConfig) -> int:
    """Equal parts of what is trained, of which each GPU holds one."""
    return int(config.gpus) if spread(config) == "fsdp" else 1


def _seconds(rehearsal: Rehearsal, config: DictConfig) -> dict[str, float]:
    """Of a step, by what it spends them on; each GPU updates what it holds of the weights."""
    device, accumulated = config.devices[config.device], config.trainer.accumulate_grad_batches
    rate = 1e12 * (config.peak_tflops or device[precision(config)]) * config.utilization
    bandwidth = 1e12 * (config.bandwidth or device.bandwidth)
    return {
        "computing": accumulated * rehearsal.flops / rate,
        "moving": (accumulated * rehearsal.traffic + rehearsal.update / _shards(config)) / bandwidth,
    }


def _tokens_per_clip(stage: Stage) -> int:
    """What is learned from in a clip: video tokens, or actions."""
    frames = int(stage.dataset["clip_length"])
    if isinstance(stage, ActionTokenizer):
        return frames - 1
    tokenizer = stage.video_tokenizer if isinstance(stage, Dynamics) else stage
    assert isinstance(tokenizer, VideoTokenizer)
    return frames * tokenizer.num_patches


def _trains(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())


def spread(config: DictConfig) -> str:
    """How GPUs share the work: ``fsdp``, ``ddp``, or not at all: ``""``."""
    strategy = config.trainer.strategy
    if not OmegaConf.is_config(strategy):
        return "ddp" if strategy == "ddp" else ""
    target = str(strategy._target_).rpartition(".")[2]
    return {"FullyShardedStrategy": "fsdp", "DDPStrategy": "ddp"}.get(target, "")


def precision(config: DictConfig) -> str:
    """That of training on GPUs."""
    return "bf16-mixed" if config.trainer.precision == "auto" else str(config.trainer.precision)


def memory_of(rehearsal: Rehearsal, *, shards: int, blocks: Sequence[int]) -> tuple[dict[str, int], int]:
    """Bytes that one GPU holds, by part, and how many at most at once: activations go as gradients come.

    Of `blocks` of so many bytes in `shards` FSDP has in one piece two, that which computes and the next one, and the
    gradients of one, each with the buffer that it is sent in; and all the time what lies outside of blocks.
    """
    gathered = 0 if shards == 1 else rehearsal.gradients - sum(blocks) + 5 * max(blocks, default=0)
    parts = {
        "weights": math.ceil(rehearsal.gradients / shards) + rehearsal.weights - rehearsal.gradients,
        "gradients": math.ceil(rehearsal.gradients / shards),
        "optimizer": math.ceil(rehearsal.optimizer / shards),
        "activations": rehearsal.then["activations"],
        "weights in bfloat16": rehearsal.then["copies"],
        "gathered": gathered,
    }
    kept = parts["weights"] + parts["optimizer"] + parts["gathered"]
    return parts, kept + max(sum(rehearsal.then.values()), parts["gradients"])


def in_words(made: Plan, config: DictConfig) -> str:
    """The plan for people to read."""
    shared = f", {spread(config).upper()}" if config.gpus > 1 else ""
    lines = [
        f"{made.stage}: {made.trained:,} parameters to train",
        *(f"  {name:<22}{number:>16,}" for name, number in made.parameters.items()),
        f"{config.gpus} {config.device}{shared}, {precision(config)}, {made.clips_per_gpu} clips on each:",
        f"  {made.flops:.3g} FLOPs a step: {made.seconds['computing']:.3g} s at utilization={config.utilization}",
        f"  {made.seconds['moving']:.3g} s more to move tensors to and from memory",
        f"  {made.tokens_per_step:,} tokens a step, {made.tokens_per_step / made.seconds_per_step:,.0f} a second",
        f"  {made.tokens:.3g} tokens take {made.days:.3g} days",
        "memory of each, GiB:",
        *(f"  {name:<22}{held / GIB:>16.2f}" for name, held in made.memory.items() if held),
        f"  {'at most at once':<22}{made.at_most / GIB:>16.2f}",
    ]
    verdict = "fits" if made.fits else "does not fit"
    lines.append(f"{verdict} into {made.usable_memory / GIB:.1f} GiB, the memory less the reserve")
    return "\n".join([*lines, *(f"  try {words}" for words in advice(made, config))])


def advice(made: Plan, config: DictConfig) -> list[str]:
    """What to change where it does not fit."""
    if made.fits:
        return []
    found = []
    if sum(made.memory[name] for name in ("weights", "gradients", "optimizer")) > made.usable_memory / 2:
        found.append("more gpus" if spread(config) == "fsdp" else "trainer=fsdp on more gpus")
    if not config.activation_checkpointing and made.stage != ActionTokenizer.name:
        found.append("activation_checkpointing=true")
    accumulated = config.trainer.accumulate_grad_batches
    # While gradients are accumulated they are there all the time.
    kept = made.memory["gradients"] if accumulated == 1 else 0
    room = made.usable_memory - (made.at_most + kept - made.memory["activations"])
    clips = made.clips_per_gpu * room // made.memory["activations"]
    if clips > 0:
        parts = math.ceil(made.clips_per_gpu / clips)
        batch_size = math.ceil(made.clips_per_gpu / parts)
        found.append(f"data.batch_size={batch_size} trainer.accumulate_grad_batches={parts * accumulated}")
    return found or ["shorter clips by data.clip_length, or fewer tokens in a frame"]


if __name__ == "__main__":
    main()
