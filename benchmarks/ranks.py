"""Whether two processes learn what one does: ``python -m benchmarks.ranks``, five minutes.

Trains the three stages with experiment=laptop in one process, and in two with half the batch each, by DDP and by FSDP2,
with two batches to a step, and compares all that TensorBoard was told. Also measures what activation checkpointing
saves. Writes the tables into docs/scaling.md.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks import measure, stores
from benchmarks.bench import training_step
from benchmarks.stages import build_stages
from tinyworlds.command import CONF, build
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.models import STAGES, Dynamics
from tinyworlds.progress import track

PAGE = CONF.parent / "docs" / "scaling.md"
EQUALITY, MEMORY = "ranks", "activations"
STRATEGIES = ("ddp", "fsdp")
BATCH_SIZE = 8  # of all processes together
COMMON = (
    "data=video",
    "data.val_fraction=0.2",
    "trainer.accelerator=cpu",
    "trainer.accumulate_grad_batches=2",
    "trainer.log_every_n_steps=1",
    "validations=2",
    "callbacks.throughput.every_n_steps=1000",
)
BLOCKS = (4, 8, 16)

Curve = dict[str, list[float]]


class Difference(NamedTuple):
    """How far the curves of two processes are from those of one, at most."""

    strategy: str
    stage: str
    training: float
    validation: float


def train(folder: Path, *options: str, strategy: str | None = None) -> Path:
    """``python train.py`` in one process, or by `strategy` in two; the folder in which it keeps its runs."""
    together = [f"data.batch_size={BATCH_SIZE}"]
    if strategy:
        together = [f"data.batch_size={BATCH_SIZE // 2}", f"trainer={strategy}", "trainer.devices=2"]
    runs = folder / (strategy or "one")
    command = [sys.executable, str(CONF.parent / "train.py"), f"runs_dir={runs}", *COMMON, *together, *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return runs / "video"


def newest(runs: Path, stage: str) -> Path:
    """The folder of the last run of a stage."""
    return max((runs / stage).iterdir())


def curves(folder: Path) -> Curve:
    """All that a run logged of training and validation."""
    told = EventAccumulator(str(folder)).Reload()
    names = [name for name in told.Tags()["scalars"] if name.startswith(("train/", "val/"))]
    return {name: [event.value for event in told.Scalars(name)] for name in names}


def apart(one: Curve, other: Curve, name: str) -> float:
    """The greatest difference of a quantity at any step."""
    return max(abs(a - b) for a, b in zip(one[name], other[name], strict=True))


def compare(folder: Path, *options: str, of_dynamics: Sequence[str] = ()) -> list[Difference]:
    """Train every stage in one process and by each strategy, in `folder`, and the dynamics again with further options.

    All dynamics that are compared get the same tokenizers: a latent on a border may round otherwise after another
    training.
    """
    one = train(folder, *options)
    tokenizers = [f"{name}='{newest(one, name)}/best.ckpt'" for name in STAGES if name != "dynamics"]
    again = [*options, "stage=dynamics", *tokenizers, *of_dynamics]
    train(folder, *again)
    found = []
    for strategy in track(STRATEGIES, total=len(STRATEGIES), label="strategies"):
        both = train(folder, *options, strategy=strategy)
        train(folder, *again, strategy=strategy)
        for stage in STAGES:
            alone, together = curves(newest(one, stage)), curves(newest(both, stage))
            losses = [apart(alone, together, name) for name in ("train/loss", "val/loss")]
            found.append(Difference(strategy, stage, *losses))
    return found


def step_of_dynamics(blocks: int, recompute: bool) -> float:
    """Seconds of a training step of dynamics with so many blocks, on ready tokens."""
    options = ["experiment=laptop", "size=experiment"]
    more = {"dynamics": [f"stage.num_blocks={blocks}"]}
    stage, config = build_stages(options, frame_size=(64, 64), stage_options=more)["dynamics"]
    assert isinstance(stage, Dynamics)
    if recompute:
        stage.checkpoint_activations()
    batch, frames = config.data.batch_size, config.data.clip_length
    tokens = torch.randint(stage.video_tokenizer.vocabulary, (batch, frames, stage.video_tokenizer.num_patches))
    actions = torch.zeros(batch, frames - 1, dtype=torch.long)
    loss = partial(stage.train().training_step, ClipTokens(tokens, actions), 0)
    step = partial(training_step, stage, build(config.optimizer)(stage), loss, clip=1.0)
    step()
    return min(measure.seconds_of(step, torch.device("cpu")) for _ in range(2))


def memory_table() -> str:
    """What dynamics take with and without activation checkpointing."""
    rows = []
    for blocks in BLOCKS:
        row = [str(blocks)]
        for recompute in (False, True):
            seconds, megabytes = measure.in_fresh_process(step_of_dynamics, blocks, recompute)
            row += [f"{megabytes:.0f} MB", f"{seconds:.2f} s"]
        rows.append(row)
    return measure.table(["blocks", "memory", "step", "memory, recomputed", "step, recomputed"], rows)


def main() -> None:
    """Measure and write."""
    try:
        for section in (EQUALITY, MEMORY):
            measure.check_section(PAGE, section)
    except ValueError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "film.h5")
        stores.write_film(store, frames=1000, frame_size=(32, 32))
        found = compare(Path(folder), f"data.path={store}", "trainer.max_steps=20")
    machine = measure.machine(torch.device("cpu"))
    where = f"{machine['cpu']}, commit {measure.commit()}"
    rows = [[d.stage, d.strategy, f"{d.training:.1e}", f"{d.validation:.1e}"] for d in found]
    head = ["stage", "strategy", "training loss apart by", "validation loss apart by"]
    measure.write_section(PAGE, EQUALITY, f"{where}; 20 steps.\n\n{measure.table(head, rows)}")
    measure.write_section(PAGE, MEMORY, f"{where}, {machine['threads']} thread(s).\n\n{memory_table()}")
    print(f"wrote the tables in {PAGE}")


if __name__ == "__main__":
    main()
