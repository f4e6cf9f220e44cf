"""How soon a user is told of a mistake: ``python -m benchmarks.mistakes``, two minutes; writes docs/performance.md.

The whole command is timed, from its start to its end.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import torch

from benchmarks import measure
from tinyworlds.command import CONF
from tinyworlds.progress import track

PAGE = CONF.parent / "docs" / "performance.md"
SECTION = "mistakes"
ROUNDS = 3
VIDEO = ("train.py", "stage=video_tokenizer")
MISTAKES = (
    ("train.py", "stage=foo"),
    (*VIDEO, "stage.embed_dimm=64"),
    (*VIDEO, "stage.embed_dim=abc"),
    (*VIDEO, "stage.num_heads=7"),
    (*VIDEO, "stage.patch_size=7"),
    (*VIDEO, "data.clip_length=1010"),
    (*VIDEO, "trainer=gpu"),
    ("train.py", "stage=action_tokenizer", "stage.n_actions=3"),
    ("train.py", "stage=dynamics"),
    ("train.py", "video_tokenizer=nowhere.ckpt"),
    ("play.py", "mode=foo"),
    ("play.py", "ckpt=nowhere.ckpt"),
    ("-m", "tinyworlds.evaluate", "clips=0"),
    ("-m", "tinyworlds.plan", "gpus=0"),
    ("-m", "tinyworlds.data.tokens", "data=foo"),
    ("-m", "tinyworlds.data.record", "path=x.h5"),
    ("-m", "tinyworlds.hub", "steal"),
)


class Told(NamedTuple):
    """How long a command took until it had said what is wrong, and how much of that it computed."""

    seconds: float
    cpu_seconds: float


def told(arguments: tuple[str, ...], folder: str) -> Told:
    """Run a command that is wrong."""
    script = arguments if arguments[0] == "-m" else (str(CONF.parent / arguments[0]), *arguments[1:])
    began, before = time.perf_counter(), os.times()
    done = subprocess.run([sys.executable, *script], cwd=folder, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, os.times()
    if done.returncode != 1 or not done.stderr.startswith("error: ") or done.stderr.count("\n") != 1:
        raise RuntimeError(f"{' '.join(arguments)} said no sentence:\n{done.stderr}")
    computed = after.children_user + after.children_system - before.children_user - before.children_system
    return Told(seconds, computed)


def main() -> None:
    """Measure each in turn, write the table of medians."""
    try:
        measure.check_section(PAGE, SECTION)
    except ValueError as error:
        sys.exit(f"error: {error}")
    times: dict[tuple[str, ...], list[Told]] = {mistake: [] for mistake in MISTAKES}
    with tempfile.TemporaryDirectory() as folder:
        for mistake in track(MISTAKES * ROUNDS, total=len(MISTAKES) * ROUNDS, label="mistakes"):
            times[mistake].append(told(mistake, folder))
    rows = [
        [f"`python {' '.join(mistake)}`", *(f"{statistics.median(column):.1f} s" for column in zip(*each, strict=True))]
        for mistake, each in times.items()
    ]
    machine = measure.machine(torch.device("cpu"))
    text = (
        f"{machine['cpu']}, {machine['cores']} cores, torch {measure.versions()['torch']}, commit {measure.commit()}, "
        f"medians of {ROUNDS}, while {os.getloadavg()[2]:.1f} processes wanted to compute at a time.\n\n"
        f"{measure.table(['', 'told after', 'of that, computing'], rows)}"
    )
    measure.write_section(PAGE, SECTION, text)
    print(f"wrote the table in {PAGE}")


if __name__ == "__main__":
    main()
