"""What worlds are worth that see more frames than they were trained on: ``python -m benchmarks.contexts runs=[…]``.

Opens the newest world of each game in each of the folders of runs twice, once with as many frames in its window as its
clips had in training and once with `times` as many, and lets both imagine the same frames of held-out play. Writes a
table into docs/transformer.md, a row for each kind of positions and game.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from benchmarks import measure
from tinyworlds.checkpoints import load_stage, newest
from tinyworlds.command import command
from tinyworlds.data.settings import check_whole
from tinyworlds.devices import hardware
from tinyworlds.models import Dynamics
from tinyworlds.prediction import CONTROL_STEP, STEPS, Quality, control_gain, foretell, scores
from tinyworlds.scenes import held_out
from tinyworlds.world import World

SECTION = "contexts"
COLUMNS = ("psnr_1", "psnr_4", "psnr_16", "psnr_moving_4", "psnr_moving_16", f"delta_psnr_{CONTROL_STEP}")


@command("contexts")
def main(config: DictConfig) -> None:
    """Measure every world with both windows and write the table."""
    page = Path(config.page)
    measure.check_section(page, SECTION)
    for name, least in (("times", 2), ("clips", 1), ("seed", 0)):
        check_whole(name, config[name], at_least=least)
    runs, datasets = measure.lists(config, "runs", "datasets")
    paths = [newest(folder, dataset, Dynamics.name) for dataset in datasets for folder in runs]
    found: dict[tuple[str, str], list[tuple[Quality, Quality]]] = defaultdict(list)
    for path in paths:
        dynamics = load_stage(path, Dynamics)
        kind = f"`{dynamics.hparams['positions']}`", f"`{dynamics.dataset['name']}`"
        found[kind].append(windows(path, times=config.times, clips=config.clips, seed=config.seed))
    rows = [[*kind, *(cell(name, worlds) for name in COLUMNS)] for kind, worlds in sorted(found.items())]
    text = measure.table(["positions", "game", *(f"`{name}`" for name in COLUMNS)], rows)
    where = (
        f"{hardware(torch.device('cpu'))}; commit {measure.commit()}; {config.clips} clips, windows {config.times}x."
    )
    measure.write_section(page, SECTION, f"{where}\n\n{text}")
    print(f"wrote the table in {page}")


def windows(path: Path, *, times: int, clips: int, seed: int) -> tuple[Quality, Quality]:
    """What a world foretells of the same frames after a window as in training, and after one `times` as long.

    Raises:
        ValueError: no held-out episode is that long.
    """
    dynamics = load_stage(path, Dynamics)
    trained = dynamics.context_length
    longest = times * trained
    films = held_out(dynamics, store=None).held_out_clips(count=clips, length=longest + max(STEPS), seed=seed)
    qualities = []
    for context in (trained, longest):
        world = World(dynamics, context=context, seed=seed)
        shares = np.bincount(world.infer(films).ravel(), minlength=world.n_actions) / films[:, 1:, 0, 0, 0].size
        foretelling = foretell(world, films[:, longest - context :], shares=shares, seed=seed)
        qualities.append({**scores(foretelling), **control_gain(foretelling)})
    return qualities[0], qualities[1]


def cell(name: str, worlds: Sequence[tuple[Quality, Quality]]) -> str:
    """A figure of each world with the longer window and, in brackets, by how much it is above that of training."""
    values = [
        "–" if a is None or b is None else f"{b:.2f} ({b - a:+.2f})"
        for a, b in ((trained[name], longer[name]) for trained, longer in worlds)
    ]
    return " · ".join(values)


if __name__ == "__main__":
    main()
