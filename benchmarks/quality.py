"""What worlds of several seeds and games are worth, side by side: ``python -m benchmarks.quality section=… runs=…``.

Reads what ``python -m tinyworlds.evaluate`` wrote beside the newest world of each game in each of the folders of runs,
keeps it with what earlier calls have read, so that worlds need not all be there at once, and writes a table into
docs/results.md: for each game the median over the seeds, and in brackets every one of them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from omegaconf import DictConfig, OmegaConf

from benchmarks import measure
from tinyworlds.checkpoints import newest
from tinyworlds.command import command
from tinyworlds.json_files import read_object
from tinyworlds.media import replacing
from tinyworlds.models import Dynamics

Metrics = Mapping[str, Any]

ROWS: dict[str, tuple[str, Callable[[Metrics], float]]] = {
    "`reconstruction.psnr_moving`, dB": ("{:.1f}", lambda m: m["reconstruction"]["psnr_moving"]),
    "`actions.control_score`": ("{:.2f}", lambda m: m["actions"]["control_score"]),
    "`prediction.psnr_1` − `copy_psnr_1`, dB": ("{:.1f}", lambda m: _gain(m, "psnr", 1)),
    "`prediction.delta_psnr_4`, dB": ("{:.1f}", lambda m: m["prediction"]["delta_psnr_4"]),
    "`obedience.accuracy` − `chance`": ("{:.2f}", lambda m: m["obedience"]["accuracy"] - m["obedience"]["chance"]),
    "`psnr_moving_16` − `copy_psnr_moving_16`, dB": ("{:.1f}", lambda m: _gain(m, "psnr_moving", 16)),
}


def _gain(metrics: Metrics, name: str, frame: int) -> float:
    """Decibels above repeating the last frame of the prompt."""
    prediction = metrics["prediction"]
    return float(prediction[f"{name}_{frame}"] - prediction[f"copy_{name}_{frame}"])


@command("quality")
def main(config: DictConfig) -> None:
    """Read the metrics of every world and write the table."""
    page, section = Path(config.page), f"quality of {config.section}"
    measure.check_section(page, section)
    runs, datasets = measure.lists(config, "runs", "datasets")
    results = Path(config.results)
    kept = read_object(results, "measure of quality") if results.is_file() else {}
    games = dict(kept.get(config.section, {})) if config.keep else {}
    for dataset in datasets:
        games[dataset] = {**games.get(dataset, {}), **by_seed(runs, dataset)}
    try:
        text = table({game: [games[game][seed] for seed in sorted(games[game], key=int)] for game in sorted(games)})
    except (KeyError, TypeError):
        raise ValueError(f"{results} keeps worlds without figures of the table: drop them with keep=false") from None
    with replacing(results) as unfinished:
        unfinished.write_text(json.dumps({**kept, config.section: games}, indent=1, sort_keys=True) + "\n")
    measure.write_section(page, section, text)
    print(f"wrote {results} and the table in {page}")


def by_seed(runs: Sequence[str], dataset: str) -> dict[str, Metrics]:
    """What evaluation measured of the newest world of a dataset in each of the folders `runs`, by the world's seed.

    Raises:
        FileNotFoundError: there is no world, or it was not evaluated.
        ValueError: two worlds are of one seed, or one lacks a figure of `ROWS`.
    """
    found: dict[str, Metrics] = {}
    for runs_dir in runs:
        folder = newest(runs_dir, dataset, Dynamics.name).parent
        path = folder / "evaluation" / "metrics.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"there is no {path}: "
                f"make it with `python -m tinyworlds.evaluate dataset={dataset} runs_dir={runs_dir}`"
            )
        seed = str(OmegaConf.load(folder / "config.yaml").seed)
        if seed in found:
            raise ValueError(f"runs={list(runs)}: two worlds of {dataset} are of seed {seed}")
        found[seed] = read_object(path, "evaluation of a world")
        try:
            for form, value in ROWS.values():
                form.format(value(found[seed]))
        except (KeyError, TypeError):
            raise ValueError(f"{path} lacks figures of the table: {', '.join(ROWS)}") from None
    return found


def table(found: Mapping[str, Sequence[Metrics]]) -> str:
    """A Markdown table: a row a figure, a column a game."""
    rows = [
        [name, *(summary(form, [value(world) for world in worlds]) for worlds in found.values())]
        for name, (form, value) in ROWS.items()
    ]
    return measure.table(["", *(f"`{dataset}`" for dataset in found)], rows)


def summary(form: str, values: Sequence[float]) -> str:
    """The median, and in brackets all values in the order of the seeds."""
    if len(values) == 1:
        return form.format(values[0])
    return f"{form.format(median(values))} ({', '.join(map(form.format, values))})"


if __name__ == "__main__":
    main()
