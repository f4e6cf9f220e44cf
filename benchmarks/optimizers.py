"""What a step of each optimizer costs: ``python -m benchmarks.optimizers``, two minutes.

Of the dynamics of experiment=laptop, on a thread of a CPU; and a step of Muon on single matrices, ours beside torch's,
also on a processor that knows no bfloat16. Writes the tables into docs/optimizers.md.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks import measure
from benchmarks.bench import training_step
from benchmarks.stages import build_stages
from tinyworlds.command import CONF, build
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.matrix_optimizers import Muon
from tinyworlds.models import Dynamics
from tinyworlds.rehearsal import nbytes

PAGE = CONF.parent / "docs" / "optimizers.md"
STEPS, MATRICES = "steps", "matrices"
CHOICES = ("adamw", "muon", "soap")
SHAPES = ((128, 128), (512, 128), (512, 512))
ROUNDS = 8
PROCESSORS = {"as it is": {}, "AVX2 at most": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}
"""Which instructions torch and oneDNN may use, by their environment variables."""
CPU = torch.device("cpu")


def steps_table() -> str:
    """Of each choice what its step takes, beside all of a training step, and what it keeps."""
    calls: dict[str, Callable[[], object]] = {}
    state: dict[str, int] = {}
    for choice in CHOICES:
        stage, config = build_stages(["experiment=laptop", f"optimizer={choice}"], frame_size=(64, 64))["dynamics"]
        assert isinstance(stage, Dynamics)
        batch, frames = config.data.batch_size, config.data.clip_length
        tokens = torch.randint(stage.video_tokenizer.vocabulary, (batch, frames, stage.video_tokenizer.num_patches))
        clips = ClipTokens(tokens, torch.zeros(batch, frames - 1, dtype=torch.long))
        optimizer = build(config.optimizer)(stage.train())
        whole = partial(training_step, stage, optimizer, partial(stage.training_step, clips, 0), clip=1.0)
        for _ in range(2):
            whole()
        calls |= {f"{choice} alone": optimizer.step, choice: whole}
        state[choice] = nbytes(value for kept in optimizer.state.values() for value in kept.values())
    seconds = measure.in_turn(calls, rounds=ROUNDS, device=CPU, label="steps")
    rows = [
        [name, f"{1e3 * seconds[f'{name} alone']:.0f}", f"{1e3 * seconds[name]:.0f}", f"{state[name] / measure.MB:.1f}"]
        for name in CHOICES
    ]
    return measure.table(["`optimizer=`", "its step, ms", "a training step with it, ms", "what it keeps, MB"], rows)


def matrices_table() -> str:
    """Milliseconds of Muon's step on a matrix, ours in float32 and torch's in bfloat16."""
    rows = []
    for name, environment in PROCESSORS.items():
        command = [sys.executable, "-c", "from benchmarks import optimizers; optimizers.time_matrices()"]
        done = subprocess.run(
            command, env={**os.environ, **environment}, cwd=CONF.parent, check=True, capture_output=True, text=True
        )
        rows += [[name, *line.split("\t")] for line in done.stdout.splitlines()]
    return measure.table(["processor", "matrix", "float32, ms", "`torch.optim.Muon`, ms"], rows)


def time_matrices() -> None:
    """Print a line for each shape, in a process of its own."""
    torch.set_num_threads(1)
    for shape in SHAPES:
        ours, theirs = (nn.Parameter(torch.randn(shape)) for _ in range(2))
        ours.grad, theirs.grad = torch.randn(shape), torch.randn(shape)
        calls = {
            "ours": Muon([ours], lr=0.1, momentum=0.95, weight_decay=0.0).step,
            "theirs": torch.optim.Muon([theirs], lr=0.1, adjust_lr_fn="match_rms_adamw").step,
        }
        seconds = {name: min(measure.seconds_of(call, CPU) for _ in range(3)) for name, call in calls.items()}
        print(f"{shape[0]} × {shape[1]}", *(f"{1e3 * seconds[name]:.1f}" for name in calls), sep="\t")


def main() -> None:
    """Measure and write."""
    try:
        for section in (STEPS, MATRICES):
            measure.check_section(PAGE, section)
    except ValueError as error:
        sys.exit(f"error: {error}")
    torch.set_num_threads(1)
    where = f"{measure.machine(CPU)['cpu']}, one thread, commit {measure.commit()}"
    for section, table in ((STEPS, steps_table), (MATRICES, matrices_table)):
        measure.write_section(PAGE, section, f"{where}.\n\n{table()}")
    print(f"wrote the tables in {PAGE}")


if __name__ == "__main__":
    main()
