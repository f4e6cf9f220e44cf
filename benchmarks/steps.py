"""Time one training step of each stage, and playing: ``make bench``.

    python benchmarks/steps.py experiment=reference data.batch_size=16

On noise of 64x64 pixels: what is in the frames changes no time. Takes the options of train.py.
Times are medians; far above the fastest call they mean that something else was using the machine.
"""

import sys
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch.nn.utils import clip_grad_norm_

from tinyworlds import World
from tinyworlds.command import CONF, build
from tinyworlds.models import STAGES, Dynamics, Stage

SIZE = (64, 64)
SECONDS = 10.0


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Median and least time of a call, of at least three within `SECONDS`, after one that is not counted."""
    work()
    times: list[float] = []
    while len(times) < 3 or sum(times) < SECONDS:
        begun = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return median(times), min(times)


def training_step(stage: Stage, config: DictConfig, device: torch.device) -> Callable[[], object]:
    """What training does for one batch, reading the batch aside."""
    shape = (config.data.batch_size, config.data.clip_length, 3, *SIZE)
    frames = 2 * torch.rand(shape, device=device) - 1
    optimizer = build(config.optimizer)(stage.parameters())

    def step() -> None:
        optimizer.zero_grad()
        loss = stage.training_step(frames, 0)
        assert isinstance(loss, torch.Tensor)
        torch.autograd.backward(loss)
        clip_grad_norm_(stage.parameters(), config.trainer.gradient_clip_val)
        optimizer.step()

    stage.to(device).train()
    return step


def main(options: list[str]) -> None:
    """Print a line for each stage and one for playing."""
    warnings.filterwarnings("ignore", message=".*self.log.*")  # there is no trainer that would log
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(f"{where}, float32, frames of {SIZE[0]}x{SIZE[1]}" + "".join(f", {option}" for option in options))
    print(f"{'':16}{'parameters':>12}{'clips':>7}{'frames':>8}{'s/step':>10}{'fastest':>10}{'clips/s':>10}")
    stages: dict[str, Stage] = {}
    for name in STAGES:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("train", [f"stage={name}", *options])
        clip_length, batch_size = config.data.clip_length, config.data.batch_size
        known = {"dataset": {"clip_length": clip_length}}
        stage = build(config.stage, **known, **(stages if name == "dynamics" else {"frame_size": SIZE}))
        seconds, fastest = timed(training_step(stage, config, device))
        count = sum(parameter.numel() for parameter in stage.parameters() if parameter.requires_grad)
        print(
            f"{name:16}{count:12,}{batch_size:7}{clip_length:8}"
            f"{seconds:10.3f}{fastest:10.3f}{batch_size / seconds:10.1f}"
        )
        stages[name] = stage

    dynamics = stages["dynamics"]
    assert isinstance(dynamics, Dynamics)
    world = World(dynamics, device=device)
    noise = np.random.default_rng(0).integers(0, 256, (world.context_length, *SIZE, 3), dtype=np.uint8)
    world.reset(noise)
    seconds, fastest = timed(lambda: world.step(0))
    print(
        f"playing: {1 / seconds:.1f} frames/s, at best {1 / fastest:.1f}, "
        f"{dynamics.decoding.steps} decoding steps a frame, context of {world.context_length} frames"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
