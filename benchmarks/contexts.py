"""What worlds are worth that see more frames than they were trained on: ``python -m benchmarks.contexts runs=[…]``.

Opens the newest world of each game in each of the folders of runs twice, once with as many frames in its window as its
clips had in training and once with `times` as many, and lets both imagine the same frames of held-out play. Writes a
table into docs/transformer.md, a row for each kind of positions, game and window.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
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
Both = tuple[Quality, Quality]
"""Of the window of training, and of the longer one."""


@command("contexts")
def main(config: DictConfig) -> None:
    """Measure every world with both windows and write the table."""
    page = Path(config.page)
    measure.check_section(page, SECTION)
    for name, least in (("times", 2), ("clips", 1), ("seed", 0)):
        check_whole(name, config[name], at_least=least)
    runs, datasets = measure.lists(config, "runs", "datasets")
    worlds = [load_stage(newest(folder, dataset, Dynamics.name), Dynamics) for dataset in datasets for folder in runs]
    films = [films_for(dynamics, times=config.times, clips=config.clips, seed=config.seed) for dynamics in worlds]
    found: dict[tuple[str, str, str], list[Both]] = defaultdict(list)
    for dynamics, film in zip(worlds, films, strict=True):
        trained = dynamics.context_length
        kind = f"`{dynamics.hparams['positions']}`", f"`{dynamics.dataset['name']}`", f"{trained * config.times}"
        found[kind].append(windows(dynamics, film, times=config.times, seed=config.seed))
    rows = [[*kind, *(cell(name, both) for name in COLUMNS)] for kind, both in sorted(found.items())]
    text = measure.table(["positions", "game", "window", *(f"`{name}`" for name in COLUMNS)], rows)
    where = (
        f"dB; in brackets by how much they are above those of a window {config.times} times shorter, of as many frames "
        f"as clips had in training; in the order of {', '.join(runs)}. {config.clips} clips; "
        f"{hardware(torch.device('cpu'))}; commit {measure.commit()}."
    )
    measure.write_section(page, SECTION, f"{where}\n\n{text}")
    print(f"wrote the table in {page}")


def films_for(dynamics: Dynamics, *, times: int, clips: int, seed: int) -> UInt8[np.ndarray, "{clips} T H W 3"]:
    """Held-out frames: the longer window of a world, and those that it is to imagine.

    Raises:
        ValueError: no held-out episode is that long.
    """
    length = times * dynamics.context_length + max(STEPS)
    data = held_out(dynamics, store=None)
    longest = int((data.held_out_spans[:, 1] - data.held_out_spans[:, 0]).max())
    if longest < length:
        raise ValueError(
            f"times={times}: windows of {times * dynamics.context_length} frames and {max(STEPS)} to imagine are more "
            f"than the longest held-out episode of {data.path} has, {longest}"
        )
    return data.held_out_clips(count=clips, length=length, seed=seed)


def windows(dynamics: Dynamics, films: UInt8[np.ndarray, "N T H W 3"], *, times: int, seed: int) -> Both:
    """What a world foretells of the last frames of `films` after a window as in training, and after a longer one."""
    trained = dynamics.context_length
    codes = dynamics.action_tokenizer.infer(films)
    shares = np.bincount(codes.ravel(), minlength=dynamics.action_tokenizer.n_actions) / codes.size
    qualities = []
    for dynamics.context_length in (trained, times * trained):
        seen = films[:, times * trained - dynamics.context_length :]
        foretelling = foretell(World(dynamics, seed=seed), seen, shares=shares, seed=seed)
        qualities.append({**scores(foretelling), **control_gain(foretelling)})
    dynamics.context_length = trained
    return qualities[0], qualities[1]


def cell(name: str, worlds: Sequence[Both]) -> str:
    """A figure of each world with the longer window and, in brackets, by how much it is above that of training."""
    values = [
        "–" if a is None or b is None else f"{b:.2f} ({b - a:+.2f})"
        for a, b in ((trained[name], longer[name]) for trained, longer in worlds)
    ]
    return " · ".join(values)


if __name__ == "__main__":
    main()
