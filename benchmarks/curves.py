"""How time and memory grow: ``python -m benchmarks.curves``, a minute or two.

One training step of the dynamics on ready tokens against frames, patch tokens per frame, clips, blocks and vocabulary,
each by itself from a small common setting; opening a store and reading a batch of it against its frames. Writes a
picture and a table into docs/performance.md.
"""

import math
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import torch

from benchmarks import measure, stores
from benchmarks.bench import training_step
from benchmarks.report import duration
from benchmarks.stages import build_stages
from tinyworlds.command import CONF, build
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.media import replacing
from tinyworlds.models import Dynamics
from tinyworlds.progress import track

CPU = torch.device("cpu")
PAGE = CONF.parent / "docs" / "performance.md"
PICTURE = PAGE.parent / "pictures" / "costs.png"
SECTION = "costs"
STEPS = 5
NUM_BINS = 4
PATCH_SIZE = 4
FRAME_SIZE = (64, 64)  # of the stores
CLIP_LENGTH, BATCH_SIZE = 4, 16  # read from them
BASE = {"T": 4, "P": 64, "batch": 4, "blocks": 2, "V": 1024}
MODEL = {
    "T": (2, 4, 8, 16, 32),
    "P": (16, 64, 256, 1024),
    "batch": (1, 2, 4, 8, 16),
    "blocks": (1, 2, 4, 8),
    "V": (64, 256, 1024, 4096),
}
STORE = (1_000, 10_000, 100_000, 1_000_000)
NAMES = {
    "T": "training step, frames T",
    "P": "training step, patch tokens P",
    "batch": "training step, clips B",
    "blocks": "training step, blocks",
    "V": "training step, vocabulary V",
    "open": "opening a store, its frames",
    "read": f"reading {BATCH_SIZE} of its clips, its frames",
}


class Curve(NamedTuple):
    """Seconds and megabytes (None: not measured by itself) at each of `sizes`."""

    sizes: tuple[int, ...]
    seconds: list[float]
    megabytes: list[float] | None


def model_step(setting: dict[str, int]) -> float:
    """Least seconds of a training step of the dynamics of this size: whatever else ran only adds to it."""
    side = PATCH_SIZE * math.isqrt(setting["P"])
    built = build_stages(
        ["experiment=reference"],
        frame_size=(side, side),
        clip_length=setting["T"],
        stage_options={
            "video_tokenizer": [f"stage.latent_dim={round(math.log(setting['V'], NUM_BINS))}"],
            "dynamics": [f"stage.num_blocks={setting['blocks']}"],
        },
    )
    stage, config = built["dynamics"]
    assert isinstance(stage, Dynamics)
    tokens = torch.randint(setting["V"], (setting["batch"], setting["T"], setting["P"]))
    actions = torch.zeros(setting["batch"], setting["T"] - 1, dtype=torch.long)
    loss = partial(stage.train().training_step, ClipTokens(tokens, actions), 0)
    step = partial(training_step, stage, build(config.optimizer)(stage), loss, clip=1.0)
    step()
    return min(measure.seconds_of(step, CPU) for _ in range(STEPS))


def measure_all() -> dict[str, Curve]:
    """Every curve, each point in a process of its own, so that its peak memory is its own."""
    points = [(axis, size) for axis, sizes in MODEL.items() for size in sizes]
    found: dict[str, list[tuple[float, float]]] = {axis: [] for axis in MODEL}
    for axis, size in track(points, total=len(points), label="training steps"):
        found[axis].append(measure.in_fresh_process(model_step, BASE | {axis: size}))
    curves = {
        axis: Curve(MODEL[axis], [seconds for seconds, _ in pairs], [memory for _, memory in pairs])
        for axis, pairs in found.items()
    }
    opened, read, memory = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for frames in track(STORE, total=len(STORE), label="stores"):
            path = Path(folder, f"{frames}.h5")
            stores.write_sparse(path, frames=frames, frame_size=FRAME_SIZE)
            (opening, reading), peak = measure.in_fresh_process(
                stores.open_and_read, path, clip_length=CLIP_LENGTH, batch_size=BATCH_SIZE
            )
            opened.append(opening)
            read.append(reading)
            memory.append(peak)
    return curves | {"open": Curve(STORE, opened, None), "read": Curve(STORE, read, memory)}


def growth(sizes: tuple[int, ...], costs: list[float]) -> float:
    """By what power of its size the cost grows between the two largest sizes."""
    return math.log(costs[-1] / costs[-2]) / math.log(sizes[-1] / sizes[-2])


def table(curves: dict[str, Curve]) -> str:
    """A row for each curve: cost at the least and the largest size, and how it grows at the end."""
    rows = []
    for name, curve in curves.items():
        row = [NAMES[name], f"{curve.sizes[0]:,} to {curve.sizes[-1]:,}"]
        row.append(f"{duration(curve.seconds[0])} to {duration(curve.seconds[-1])}")
        row.append(f"{growth(curve.sizes, curve.seconds):.2f}")
        memory = curve.megabytes
        row += ["", ""] if memory is None else [f"{memory[0]:.0f} to {memory[-1]:.0f} MB"]
        row += [] if memory is None else [f"{growth(curve.sizes, memory):.2f}"]
        rows.append(row)
    return measure.table(["cost against", "sizes", "time", "power", "peak memory", "power"], rows)


def draw(curves: dict[str, Curve], path: Path) -> None:
    """A column for each curve, time above memory, on logarithmic axes."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, len(curves), figsize=(2.4 * len(curves), 4.5), sharey="row", layout="constrained")
    for column, (name, curve) in enumerate(curves.items()):
        for row, costs in enumerate((curve.seconds, curve.megabytes)):
            axis = axes[row, column]
            axis.set_axis_off() if costs is None else axis.loglog(curve.sizes, costs, "o-", color="black", markersize=3)
            axis.grid(alpha=0.3)
            ends = curve.sizes[:: len(curve.sizes) - 1]
            axis.set_xticks(ends, [f"{size:,}" for size in ends])
            axis.set_xticks([], minor=True)
        axes[0, column].set_title(NAMES[name].replace(", ", "\n"), fontsize=9)
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("megabytes")
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)
    plt.close(figure)


def main() -> None:
    """Measure, draw, write."""
    try:
        measure.check_section(PAGE, SECTION)
    except ValueError as error:
        sys.exit(f"error: {error}")
    curves = measure_all()
    draw(curves, PICTURE)
    base = ", ".join(f"{name} {size:,}" for name, size in BASE.items())
    machine = measure.machine(CPU)
    text = (
        f"{machine['cpu']}, {machine['threads']} thread(s), commit {measure.commit()}; where a size is not given: "
        f"{base}. The power is that of the growth between the two largest sizes: 1 is in proportion.\n\n"
        f"{table(curves)}\n\n![The same as curves](pictures/{PICTURE.name})"
    )
    measure.write_section(PAGE, SECTION, text)
    print(f"wrote {PICTURE} and the table in {PAGE}")


if __name__ == "__main__":
    main()
