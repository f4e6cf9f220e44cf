"""What `tinyworlds.plan` foretells against what happens: ``python -m benchmarks.plan``, some minutes.

On a CPU, in float32. Each case is measured in processes of its own. Bytes of weights, gradients and optimizer are those
of the tensors. What a step holds besides is the growth of the process's resident memory from before it to its peak,
while freed memory is given back at once. Seconds are of the processor, on one thread, since others may use the machine;
how many operations a second are reached is taken from the first case of each stage, and the seconds of the others
follow from their operations. Writes a table into docs/scaling-plan.md.
"""

import ctypes
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks import measure
from benchmarks.stages import Built, build_stages
from tinyworlds.command import CONF, build
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.models import Dynamics, Stage
from tinyworlds.plan import memory_of
from tinyworlds.progress import track
from tinyworlds.rehearsal import nbytes, rehearse

PAGE = CONF.parent / "docs" / "scaling-plan.md"
SECTION = "plan against measurement"
FRAME_SIZE = (64, 64)
STEPS = 3
M_MMAP_THRESHOLD, PAGES = -3, 2**16
GOAL = 0.15


class Case(NamedTuple):
    """A stage, its size, and how it is trained."""

    stage: str
    size: str
    clips: int
    frames: int
    checkpointing: bool = False
    ddp: bool = False


class Found(NamedTuple):
    """Bytes after a step, bytes that it held besides weights and optimizer, and its seconds, or its operations."""

    weights: int
    gradients: int
    optimizer: int
    then: int
    cost: float


CASES = (
    Case("video_tokenizer", "small", 32, 2),
    Case("video_tokenizer", "small", 32, 2, checkpointing=True),
    Case("video_tokenizer", "small", 64, 3),
    Case("video_tokenizer", "base", 16, 2),
    Case("action_tokenizer", "small", 128, 3),
    Case("action_tokenizer", "small", 32, 8),
    Case("action_tokenizer", "base", 64, 3),
    Case("dynamics", "small", 4, 8),
    Case("dynamics", "small", 4, 8, checkpointing=True),
    Case("dynamics", "small", 4, 8, ddp=True),
    Case("dynamics", "small", 1, 16),
    Case("dynamics", "tiny", 64, 4),
    Case("dynamics", "base", 1, 8),
    Case("dynamics", "base", 1, 8, checkpointing=True, ddp=True),
)


class Loss(nn.Module):
    """A training step as a forward pass, as Lightning gives it to DDP."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, clips: Tensor | ClipTokens) -> Tensor:
        loss = self.stage.training_step(clips, 0)
        assert isinstance(loss, Tensor)
        return loss


def build_case(case: Case, device: str) -> Built:
    """The stage of a case, and its config."""
    with torch.device(device):
        built = build_stages([f"size={case.size}"], frame_size=FRAME_SIZE, clip_length=case.frames)[case.stage]
    if case.checkpointing:
        built.stage.checkpoint_activations()
    return built


def foretold(case: Case) -> tuple[Found, int]:
    """Without a step: what it would hold, its operations, and bytes at most at once."""
    stage, config = build_case(case, "meta")
    rehearsal = rehearse(
        stage,
        batch_size=case.clips,
        tokens=True,
        optimizer=build(config.optimizer),
        precision="32-true",
        shards=1,
        kept_gradients=case.ddp,
    )
    _, at_most = memory_of(rehearsal, shards=1, blocks=[])
    held = (rehearsal.weights, rehearsal.gradients, rehearsal.optimizer, sum(rehearsal.then.values()))
    return Found(*held, rehearsal.flops), at_most


def really(case: Case, *, seconds: bool) -> Found:
    """Of steps that are taken; either of seconds and memory is measured, since measuring memory takes time."""
    torch.set_num_threads(1)
    if not seconds:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, PAGES)
    stage, config = build_case(case, "cpu")
    optimizer = build(config.optimizer)(stage.train().parameters())
    with tempfile.TemporaryDirectory() as folder:
        model: nn.Module = Loss(stage)
        if case.ddp:
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
            model = DistributedDataParallel(model, gradient_as_bucket_view=True, broadcast_buffers=False)
        backward = partial(_backward, model, _noise(case, stage))
        for _ in range(2 if case.ddp else 1):  # DDP forms its buckets anew after the first
            backward()
            optimizer.step()
            optimizer.zero_grad()
        then = 0 if seconds else _growth(backward)
        times = [_seconds(backward, optimizer) for _ in range(STEPS if seconds else 1)]
        if case.ddp:
            dist.destroy_process_group()
    gradients = nbytes(parameter.grad for parameter in stage.parameters() if parameter.grad is not None)
    state = nbytes(value for values in optimizer.state.values() for value in values.values())
    # DDP keeps the memory of gradients from step to step, which is so part of what was there before.
    kept = gradients if case.ddp else 0
    return Found(nbytes([*stage.parameters(), *stage.buffers()]), gradients, state, then + kept, min(times))


def _noise(case: Case, stage: Stage) -> Tensor | ClipTokens:
    if not isinstance(stage, Dynamics):
        return torch.rand(case.clips, case.frames, 3, *FRAME_SIZE) * 2 - 1
    shape = (case.clips, case.frames, stage.video_tokenizer.num_patches)
    tokens = torch.randint(stage.video_tokenizer.vocabulary, shape)
    return ClipTokens(tokens, torch.randint(stage.action_tokenizer.n_actions, (case.clips, case.frames - 1)))


def _backward(model: nn.Module, clips: Tensor | ClipTokens) -> None:
    torch.autograd.backward(model(clips))


def _seconds(backward: Callable[[], None], optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    begun = time.process_time()
    backward()
    optimizer.step()
    return time.process_time() - begun


def _growth(call: Callable[[], None]) -> int:
    """By how many bytes a call makes resident memory grow, at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{key}:")).split()[1]) * 1024


def row(case: Case, plan: Found, found: Found, at_most: int, rate: float) -> list[str]:
    """Of the table: the plan, what was measured, and by how much the plan is off."""
    held = found.weights + found.optimizer + max(found.then, found.gradients)
    how = [word for word, is_so in (("checkpointing", case.checkpointing), ("DDP", case.ddp)) if is_so]
    exact = plan[:3] == found[:3]
    return [
        f"{case.stage}, {case.size}",
        f"{case.clips} x {case.frames}",
        ", ".join(how),
        f"{sum(found[:3]) / measure.MB:.1f}" + ("" if exact else f", planned {sum(plan[:3]) / measure.MB:.1f}"),
        *_compared(plan.then / measure.MB, found.then / measure.MB),
        *_compared(at_most / measure.MB, held / measure.MB),
        *_compared(plan.cost / rate, found.cost, anchor=plan.cost / rate == found.cost),
    ]


def _compared(plan: float, found: float, *, anchor: bool = False) -> list[str]:
    off = plan / found - 1
    return [f"{plan:.3g}", f"{found:.3g}", "" if anchor else f"{off:+.0%}" if abs(off) <= GOAL else f"**{off:+.0%}**"]


def main() -> None:
    """Measure every case, write the table."""
    try:
        measure.check_section(PAGE, SECTION)
    except ValueError as error:
        sys.exit(f"error: {error}")
    rates: dict[str, float] = {}
    rows = []
    for case in track(CASES, total=len(CASES), label="cases"):
        plan, at_most = foretold(case)
        memory, _ = measure.in_fresh_process(really, case, seconds=False)
        timed, _ = measure.in_fresh_process(really, case, seconds=True)
        rate = rates.setdefault(case.stage, plan.cost / timed.cost)
        rows.append(row(case, plan, memory._replace(cost=timed.cost), at_most, rate))
        print(rows[-1], flush=True)
    head = ["", "clips x frames", "with", "weights, gradients, optimizer: MB"]
    for name in ("activations and gradients at the peak: MB", "at most at once: MB", "a step: s"):
        head += [f"{name}, planned", "measured", "off"]
    machine: dict[str, Any] = measure.machine(torch.device("cpu"))
    reached = ", ".join(f"{stage} {rate / 1e9:.1f}" for stage, rate in rates.items())
    text = (
        f"{machine['cpu']}, 1 thread, float32, torch {measure.versions()['torch']}, commit {measure.commit()}. "
        f"GFLOP/s taken from the first case of each stage: {reached}. Bold: off by more than {GOAL:.0%}.\n\n"
        f"{measure.table(head, rows)}"
    )
    measure.write_section(PAGE, SECTION, text)
    print(f"wrote the table in {PAGE}")


if __name__ == "__main__":
    main()
