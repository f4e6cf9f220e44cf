"""Time ours against plain versions of the same mathematics: ``make bench``, ``make bench device=cuda``.

Both take turns in one process, on noise: what is in the frames changes no time. A training step clears the gradients,
goes forward and backward, clips and takes an optimizer step. `dynamics_step_cached` sets ours, given tokens,
against plain, which tokenizes in every step.
"""

import json
import tempfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks import measure, plain, stores
from benchmarks.report import report
from benchmarks.stages import Built, build_stages
from tinyworlds import World
from tinyworlds.command import build, command
from tinyworlds.data.clips import normalize
from tinyworlds.data.settings import check_device, check_whole
from tinyworlds.devices import allow_tf32, keep_freed_memory
from tinyworlds.media import replacing
from tinyworlds.models import Dynamics

CONTEXTS = (4, 16)
CLIP_FRAMES = 16
WORKERS = 2
OPEN_FRAMES = 1_000_000
REFERENCE = ("experiment=reference",)
LAPTOP = ("experiment=laptop",)
PRECISIONS = ("32-true", "bf16-mixed")

Calls = dict[str, Callable[[], object]]


@command("bench")
def main(config: DictConfig) -> None:
    """Measure everything, write the results as JSON and as a table."""
    check_device(config.device)
    if config.precision not in PRECISIONS:
        raise ValueError(f"precision={config.precision} is none of {', '.join(PRECISIONS)}")
    for key in ("size", "batch_size", "clip_length", "rounds"):
        check_whole(key, config[key], at_least=1)
    check_whole("store_frames", config.store_frames, at_least=2 * stores.EPISODE)
    page, section = Path(config.page), f"bench on {config.device}"
    measure.check_section(page, section)
    allow_tf32(config.device)
    keep_freed_memory()
    torch.manual_seed(0)
    results = Bench(config).run()
    with replacing(config.results) as unfinished:
        unfinished.write_text(json.dumps(results, indent=2) + "\n")
    measure.write_section(page, section, report(results))
    print(f"wrote {config.results} and the table in {page}")


class Bench:
    """The parts of the benchmark: each prints a line and adds to `results`."""

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.frame_size = (config.size, config.size)
        self.results: dict[str, Any] = {
            "machine": measure.machine(self.device),
            "versions": measure.versions(),
            "commit": measure.commit(),
            "setting": {key: config[key] for key in ("precision", "size", "batch_size", "clip_length", "rounds")},
            "times": {},
            "ratios": {},
            "gflops": {},
        }

    def run(self) -> dict[str, Any]:
        """All parts in order."""
        with self._precision():
            self.results["matmul_gflops"] = round(measure.matmul_rate(self.device) / 1e9, 1)
            self._training()
            for context in CONTEXTS:
                self._playing(context)
            self._laptop()
        self._clips()
        self._opening()
        return self.results

    def _precision(self) -> AbstractContextManager[Any]:
        mixed = self.config.precision == "bf16-mixed"
        return torch.autocast(self.device.type, torch.bfloat16) if mixed else nullcontext()

    def _training(self) -> None:
        length = self.config.clip_length
        frames = 2 * torch.rand(self.config.batch_size, length, 3, *self.frame_size, device=self.device) - 1
        for name, (stage, config) in build_stages(REFERENCE, frame_size=self.frame_size, clip_length=length).items():
            stage.to(self.device).train()
            theirs = plain.plain_version(stage)
            options = config.optimizer
            plain_adamw = torch.optim.AdamW(
                [parameter for parameter in theirs.parameters() if parameter.requires_grad],
                lr=options.lr,
                betas=(options.betas[0], options.betas[1]),
                weight_decay=options.weight_decay,
            )
            step = partial(training_step, clip=config.trainer.gradient_clip_val)
            ours = partial(step, stage, build(options)(stage))
            calls: Calls = {
                "ours": partial(ours, partial(stage.training_step, frames, 0)),
                "plain": partial(step, theirs, plain_adamw, partial(theirs.loss, frames)),
            }
            if isinstance(stage, Dynamics):
                calls["cached"] = partial(ours, partial(stage.training_step, stage.tokenize(frames), 0))
            times = self._compare(f"{name}_step", calls)
            if "cached" in calls:
                self._note(f"{name}_step_cached", ours=times["cached"], plain=times["plain"])

    def _playing(self, context: int) -> None:
        world = self._world(build_stages(REFERENCE, frame_size=self.frame_size, clip_length=context))
        prompt = torch.from_numpy(self._noise(context))[None].to(self.device)
        theirs = plain.World(plain.Dynamics(world.dynamics).to(self.device).eval(), normalize(prompt))
        self._compare(f"play_context_{context}", {"ours": partial(world.step, 0), "plain": partial(theirs.step, 0)})

    def _laptop(self) -> None:
        world = self._world(build_stages(LAPTOP, frame_size=self.frame_size))
        calls: Calls = {"ours": partial(world.step, 0)}
        times = measure.in_turn(calls, rounds=10 * self.config.rounds, device=self.device, label="laptop world")
        self.results["laptop_frames_per_second"] = round(1 / times["ours"], 2)
        print(f"laptop world: {1 / times['ours']:.1f} frames/s", flush=True)

    def _world(self, built: dict[str, Built]) -> World:
        dynamics = built["dynamics"].stage
        assert isinstance(dynamics, Dynamics)
        world = World(dynamics, device=self.device)
        world.reset(self._noise(world.context_length))
        return world

    def _noise(self, frames: int) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 256, (frames, *self.frame_size, 3), dtype=np.uint8)

    def _clips(self) -> None:
        batch_size = self.config.batch_size
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "film.h5")
            stores.write_film(path, frames=self.config.store_frames, frame_size=self.frame_size)
            data = stores.data_module(path, clip_length=CLIP_FRAMES, batch_size=batch_size, workers=WORKERS)
            data.setup()
            ours = data.train_dataloader()
            theirs = DataLoader(
                plain.Clips(path, CLIP_FRAMES),
                batch_size=batch_size,
                shuffle=True,
                num_workers=WORKERS,
                persistent_workers=True,
                drop_last=True,
            )
            calls: Calls = {
                "ours": lambda: exhaust(ours),
                "as floats": lambda: exhaust(data.on_after_batch_transfer(clips.to(self.device), 0) for clips in ours),
                "plain": lambda: exhaust(clips.to(self.device) for clips in theirs),
            }
            epochs = measure.in_turn(calls, rounds=self.config.rounds, device=self.device, label="clips")
        batches = {"ours": len(ours), "as floats": len(ours), "plain": len(theirs)}
        each = {name: seconds / (batches[name] * batch_size) for name, seconds in epochs.items()}
        self._note("clips", ours=each["ours"], plain=each["plain"])
        self.results["clips_per_second"] = {name: round(1 / seconds, 1) for name, seconds in each.items()}

    def _opening(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "sparse.h5")
            stores.write_sparse(path, frames=OPEN_FRAMES, frame_size=self.frame_size)
            seconds, memory = measure.in_fresh_process(
                stores.open_and_read, path, clip_length=CLIP_FRAMES, batch_size=self.config.batch_size
            )
        self.results["open_1m_frames_seconds"] = round(sum(seconds), 3)
        self.results["open_1m_frames_mb"] = round(memory, 1)
        print(f"{OPEN_FRAMES:,} frames: {sum(seconds):.2f} s and {memory:.0f} MB to the first batch", flush=True)

    def _compare(self, name: str, calls: Calls) -> dict[str, float]:
        """Time calls in turn, and the operations a second that ours reaches."""
        times = measure.in_turn(calls, rounds=self.config.rounds, device=self.device, label=name)
        self._note(name, ours=times["ours"], plain=times["plain"])
        self.results["gflops"][name] = round(measure.flops(calls["ours"]) / times["ours"] / 1e9, 2)
        if self.device.type == "cuda":
            peaks = {side: round(measure.peak_memory(call, self.device), 1) for side, call in calls.items()}
            self.results.setdefault("peak_memory_mb", {})[name] = peaks
        return times

    def _note(self, name: str, *, ours: float, plain: float) -> None:
        self.results["times"][name] = {"ours": float(f"{ours:.4g}"), "plain": float(f"{plain:.4g}")}
        self.results["ratios"][name] = round(plain / ours, 2)
        print(f"{name}: {ours:.4g} s, plain {plain:.4g} s, {plain / ours:.1f}x", flush=True)


def training_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], *, clip: float
) -> None:
    """What training does for one batch that has been read."""
    optimizer.zero_grad()
    torch.autograd.backward(loss())
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()


def exhaust(batches: Iterable[object]) -> None:
    """Read an epoch."""
    for _ in batches:
        pass


if __name__ == "__main__":
    main()
