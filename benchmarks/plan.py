"""What `tinyworlds.plan` foretells against what happens: ``python -m benchmarks.plan``, some minutes.

On a CPU, in float32. Each case is measured in processes of its own. Bytes of weights, gradients and optimizer are those
of the tensors. What a step holds besides is the growth of the process's resident memory from before it to its peak,
while freed memory is given back at once. Seconds are of the processor, on one thread, since others may use the machine.
Two numbers stand for the machine: operations a second, and bytes a second that kernels move. They are fitted to the
first case of each stage, and the seconds of all others are foretold. Writes a table into docs/scaling-plan.md.
"""

import ctypes
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
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
from tinyworlds.models import STAGES, Dynamics, Stage
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
    """Bytes after a step, bytes that it held besides weights and optimizer, and its seconds."""

    weights: int
    gradients: int
    optimizer: int
    then: int
    seconds: float


class Foretold(NamedTuple):
    """The same of a step that is not taken, but for seconds; its operations, and the bytes that it moves."""

    weights: int
    gradients: int
    optimizer: int
    then: int
    at_most: int
    flops: int
    traffic: int


class Machine(NamedTuple):
    """Seconds that an operation takes, and those that moving a byte does."""

    flop: float
    byte: float

    def seconds(self, plan: Foretold) -> float:
        """Those of a step."""
        return plan.flops * self.flop + plan.traffic * self.byte


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
FITTED = tuple(next(case for case in CASES if case.stage == name) for name in STAGES)


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


def foretold(case: Case) -> Foretold:
    """Without a step: what it would hold, compute and move."""
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
    return Foretold(
        weights=rehearsal.weights,
        gradients=rehearsal.gradients,
        optimizer=rehearsal.optimizer,
        then=sum(rehearsal.then.values()),
        at_most=at_most,
        flops=rehearsal.flops,
        traffic=rehearsal.traffic + rehearsal.update,
    )


def fitted(plans: Sequence[Foretold], seconds: Sequence[float]) -> Machine:
    """That on which the steps take those seconds, by least squares of relative errors."""
    measured = torch.tensor(seconds, dtype=torch.float64)[:, None]
    work = torch.tensor([[plan.flops, plan.traffic] for plan in plans], dtype=torch.float64) / measured
    scale = work.amax(0)
    per_unit = torch.linalg.lstsq(work / scale, torch.ones_like(measured)).solution[:, 0] / scale
    return Machine(*per_unit.tolist())


def really(case: Case, *, seconds: bool) -> Found:
    """Of steps that are taken; either of seconds and memory is measured, since measuring memory takes time."""
    torch.set_num_threads(1)
    if not seconds:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, PAGES)
    stage, config = build_case(case, "cpu")
    optimizer = build(config.optimizer)(stage.train())
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


def row(case: Case, plan: Foretold, found: Found, machine: Machine) -> list[str]:
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
        *_compared(plan.at_most / measure.MB, held / measure.MB),
        *_compared(machine.seconds(plan), found.seconds),
        "fitted" if case in FITTED else "foretold",
    ]


def _compared(plan: float, found: float) -> list[str]:
    off = plan / found - 1
    return [f"{plan:.3g}", f"{found:.3g}", f"{off:+.0%}" if abs(off) <= GOAL else f"**{off:+.0%}**"]


def main() -> None:
    """Measure every case, write the table."""
    try:
        measure.check_section(PAGE, SECTION)
    except ValueError as error:
        sys.exit(f"error: {error}")
    results: dict[Case, tuple[Foretold, Found]] = {}
    for case in track(CASES, total=len(CASES), label="cases"):
        memory, _ = measure.in_fresh_process(really, case, seconds=False)
        timed, _ = measure.in_fresh_process(really, case, seconds=True)
        results[case] = foretold(case), memory._replace(seconds=timed.seconds)
    reached = fitted([results[case][0] for case in FITTED], [results[case][1].seconds for case in FITTED])
    rows = [row(case, *result, reached) for case, result in results.items()]
    head = ["", "clips x frames", "with", "weights, gradients, optimizer: MB"]
    for name in ("activations and gradients at the peak: MB", "at most at once: MB", "a step: s"):
        head += [f"{name}, planned", "measured", "off"]
    head.append("seconds are")
    machine: dict[str, Any] = measure.machine(torch.device("cpu"))
    text = (
        f"{machine['cpu']}, 1 thread, float32, torch {measure.versions()['torch']}, commit {measure.commit()}. "
        f"Fitted to the first case of each stage: {1e-9 / reached.flop:.0f} GFLOP/s, {1e-9 / reached.byte:.1f} GB/s. "
        f"Bold: off by more than {GOAL:.0%}.\n\n"
        f"{measure.table(head, rows)}"
    )
    measure.write_section(PAGE, SECTION, text)
    print(f"wrote the table in {PAGE}")


if __name__ == "__main__":
    main()
