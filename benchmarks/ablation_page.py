"""The tables and plots of docs/ablations.md, from what `benchmarks.ablations` has measured."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from matplotlib.figure import Figure

from benchmarks import measure
from benchmarks.ablation_results import SETTING, Entry
from benchmarks.ablation_trials import COMMON, DECODING, NEEDED, TRAINERS
from tinyworlds.models import ActionTokenizer, Dynamics, VideoTokenizer
from tinyworlds.plots import save_plot

LAPTOP = "laptop"
"""The variant that others are compared with."""


class Column(NamedTuple):
    """A metric, and how it is written."""

    metric: str
    form: str


WORLD = (
    Column("prediction.psnr_moving_4", ".2f"),
    Column("prediction.psnr_1", ".2f"),
    Column("prediction.psnr_4", ".2f"),
    Column("prediction.psnr_moving_16", ".2f"),
    Column("prediction.delta_psnr_4", ".2f"),
    Column("obedience.accuracy", ".2f"),
    Column("prediction.action_margin", ".4f"),
)
COLUMNS: Mapping[str, Sequence[Column]] = {
    VideoTokenizer.name: (
        Column("reconstruction.psnr_moving", ".2f"),
        Column("reconstruction.psnr", ".2f"),
        Column("codes.used", ".0f"),
        Column("codes.flicker", ".2f"),
    ),
    ActionTokenizer.name: (
        Column("actions.control_score", ".3f"),
        Column("actions.accuracy", ".3f"),
        Column("actions.nmi", ".3f"),
        Column("actions.perplexity", ".2f"),
    ),
    Dynamics.name: WORLD,
    DECODING: WORLD,
}
"""What is shown of each stage; by the first a variant is judged."""
SUMMARY = "ablations in short"
FAR_OFF = 6
"""A difference of more than so many times the median is not drawn to scale."""


def section(stage: str) -> str:
    """Of the page, about a stage."""
    return f"ablations of {stage}"


COSTS = {"steps": "steps", "cpu_seconds": "CPU s"}
"""Columns of what a training took."""


class Compared:
    """The trials of one stage with one budget (None: nothing is trained), and how each differs from the laptop's.

    `names`: of the variants, in order; those that were measured under other names come last. Trials against another
    laptop than the one that was measured are left out.
    """

    def __init__(self, entries: Sequence[Entry], names: Sequence[str]) -> None:
        self.stage: str = entries[0]["stage"]
        self.seconds: float | None = entries[0]["seconds"]
        laptops = [entry for entry in entries if entry["variant"] == LAPTOP]
        self.baseline = baseline((laptops or entries)[-1])
        self.entries = entries = [entry for entry in entries if baseline(entry) == self.baseline]
        there = [entry["variant"] for entry in entries]
        self.variants = [name for name in dict.fromkeys([*names, *there]) if name in there]
        self.games = list(dict.fromkeys(entry["game"] for entry in entries))
        self.seeds = sorted({entry["seed"] for entry in entries})
        self.costs = {key: title for key, title in COSTS.items() if any(key in entry for entry in entries)}
        self.judged_by = COLUMNS[self.stage][0].metric
        self.shown = [name for name in self.variants if name != LAPTOP and self.all_gains(name)]

    def of(self, variant: str, game: str) -> dict[int, Entry]:
        """The trials of a variant on a game, by seed."""
        return {e["seed"]: e for e in self.entries if (e["variant"], e["game"]) == (variant, game)}

    def gains(self, variant: str, game: str, metric: str) -> list[float]:
        """By how much a metric is higher than the laptop's, with each seed that both have been measured with."""
        own, others = self.of(variant, game), self.of(LAPTOP, game)
        pairs = [
            (own[seed]["metrics"].get(metric), others[seed]["metrics"].get(metric)) for seed in own if seed in others
        ]
        return [value - other for value, other in pairs if value is not None and other is not None]

    def all_gains(self, variant: str) -> list[float]:
        """By how much it is better than the laptop by what it is judged by, with each seed on each game."""
        return [gain for game in self.games for gain in self.gains(variant, game, self.judged_by)]

    def complete(self, variant: str) -> bool:
        """Whether a variant was measured wherever the laptop was."""
        return all(self.of(LAPTOP, game).keys() <= self.of(variant, game).keys() for game in self.games)

    def diverged(self, variant: str) -> bool:
        return any("failed" in entry for game in self.games for entry in self.of(variant, game).values())

    def verdict(self, variant: str) -> int:
        """1: better than the laptop with every seed on every game, -1: worse or diverged, 0: neither."""
        gains = self.all_gains(variant)
        if self.diverged(variant) or (gains and max(gains) < 0):
            return -1
        return int(bool(gains) and min(gains) > 0)


def compared(entries: Sequence[Entry], variants: Mapping[str, Sequence[str]]) -> dict[str, list[Compared]]:
    """What there is of each stage, smaller budgets first."""
    found: dict[str, list[Compared]] = {}
    for stage, names in variants.items():
        own = [entry for entry in entries if entry["stage"] == stage]
        budgets = sorted({entry["seconds"] for entry in own}, key=lambda seconds: seconds or 0)
        found[stage] = [Compared([e for e in own if e["seconds"] == seconds], names) for seconds in budgets]
    return found


def write(page: Path, entries: Sequence[Entry], variants: Mapping[str, Sequence[str]]) -> None:
    """Write every table and plot; `variants` by stage, in the order of the rows."""
    found = compared(entries, variants)
    for stage, groups in found.items():
        parts = [part for group in groups for part in about(group, page.parent / "pictures")]
        measure.write_section(page, section(stage), "\n\n".join(parts) or "Not measured yet.")
    told = [line for groups in found.values() for group in groups if (line := in_short(group))]
    measure.write_section(page, SUMMARY, "\n\n".join(told) or "Not measured yet.")


def about(group: Compared, pictures: Path) -> list[str]:
    """Paragraphs on one stage with one budget; its plot goes to the folder `pictures`."""
    commits = list(dict.fromkeys(entry["commit"] for entry in group.entries))
    if group.seconds is None:
        budget = "Nothing is trained"
    elif "cpu_seconds" in group.costs:
        budget = f"{group.seconds:g} s of CPU time each"
    else:
        budget = f"As many steps each as a CPU has time for in {group.seconds:g} s"
    machines = "; ".join(dict.fromkeys(entry["hardware"] for entry in group.entries))
    told = f"{budget}. {machines}; {'commit' if len(commits) == 1 else 'commits'} {', '.join(commits)}."
    if before := group.baseline:
        told += f" All, but where a row says otherwise, with {' '.join(f'`{option}`' for option in before)}."
    parts = [told]
    for game in group.games:
        parts += [f"**`{game}`**", table(group, game)]
    if group.shown:
        name = f"ablations_{group.stage}{'' if group.seconds is None else f'_{group.seconds:g}'}.png"
        save_plot(pictures / name, plot(group))
        parts.append(f"![{group.judged_by} of each variant above the laptop's, a dot a seed](pictures/{name})")
    parts += ["One of them by hand, on all games and with all seeds:", by_hand(group)]
    return parts


def baseline(trial: Entry) -> list[str]:
    """The options by which the laptop that a trial is compared with differs from today's."""
    return list(trial[SETTING].get("baseline", ()))


def table(group: Compared, game: str) -> str:
    """A row a variant: the values of all seeds, and in brackets the mean of their differences from the laptop's."""
    columns = COLUMNS[group.stage]
    head = ["", *group.costs.values(), *(f"`{column.metric}`" for column in columns)]
    rows = []
    for variant in group.variants:
        trials = list(group.of(variant, game).values())
        if trials:
            cost = [several(trials, key, ".0f") for key in group.costs]
            rows.append(
                [called(variant, trials[0]), *cost, *(cell(group, variant, game, column) for column in columns)]
            )
    return measure.table(head, rows)


def called(variant: str, trial: Entry) -> str:
    """The name of a variant, and its options."""
    return " ".join([variant, *(f"`{option}`" for option in trial[SETTING]["options"])])


def several(trials: Sequence[Entry], key: str, form: str) -> str:
    """The values of several trials, equal ones once."""
    return " · ".join(dict.fromkeys(f"{trial[key]:{form}}" for trial in trials if key in trial))


def cell(group: Compared, variant: str, game: str, column: Column) -> str:
    """What stands in the table."""
    values = [
        "diverged"
        if "failed" in trial
        else "–"
        if (value := trial["metrics"].get(column.metric)) is None
        else f"{value:{column.form}}"
        for _, trial in sorted(group.of(variant, game).items())
    ]
    gains = [] if variant == LAPTOP else group.gains(variant, game, column.metric)
    gain = f" ({fmean(gains):+{column.form}})" if gains else ""
    return f"{' · '.join(values)}{gain}"


def by_hand(group: Compared) -> str:
    """The multirun command that trains, or evaluates, what one row of the tables shows."""
    variant = next((name for name in group.variants if name != LAPTOP), LAPTOP)
    trial = next(entry for entry in group.entries if entry["variant"] == variant)
    options = [*baseline(trial), *trial[SETTING]["options"]]
    games, seeds = ",".join(group.games), group.seeds
    if group.stage == DECODING:
        decoding = " ".join(option.removeprefix("stage.decoding.") for option in options)
        runs = ",".join(f"runs/seed{seed}" for seed in seeds)
        command = f"python -m tinyworlds.evaluate -m dataset={games} runs_dir={runs} {decoding}"
    else:
        runs = " 'runs_dir=runs/seed${seed}'" if group.stage in NEEDED else ""
        device = trial[SETTING].get("device", "cpu")
        chosen = [*TRAINERS[device], *COMMON, f"trainer.max_steps={trial['steps']}", *options]
        command = (
            f"python train.py -m stage={group.stage} data={games} seed={','.join(map(str, seeds))}{runs} "
            f"{' '.join(chosen)}"
        )
    return f"```sh\nexport OMP_NUM_THREADS=1\n{command}\n```"


def in_short(group: Compared) -> str:
    """Which variants are better or worse than the laptop with every seed on every game."""
    others = [name for name in group.variants if name != LAPTOP and group.complete(name)]
    if LAPTOP not in group.variants or not others:
        return ""
    budget = "" if group.seconds is None else f", {group.seconds:g} s"
    lines = [f"**{group.stage}{budget}**, by `{group.judged_by}`, {len(others)} variants:", ""]
    for verdict, words in ((1, "better"), (-1, "worse")):
        chosen = [name for name in others if group.verdict(name) == verdict]
        named = [
            f"{name} ({', '.join(differences(group, name))})"
            for name in sorted(chosen, key=lambda n: -verdict * mean_gain(group, n))
        ]
        lines.append(f"- {words} with every seed on every game: {', '.join(named) or 'none'}")
    pairs = sum(len(group.of(LAPTOP, game)) for game in group.games)
    lines.append(
        f"- neither: the others. By luck alone {len(others) / 2**pairs:.1f} would be in each of the two lists."
    )
    return "\n".join(lines)


def differences(group: Compared, variant: str) -> list[str]:
    """Of each game the mean difference from the laptop."""
    if group.diverged(variant):
        return ["diverged"]
    form = COLUMNS[group.stage][0].form
    return [f"{game} {fmean(group.gains(variant, game, group.judged_by)):+{form}}" for game in group.games]


def mean_gain(group: Compared, variant: str) -> float:
    """Over all games and seeds; nothing where a variant has none."""
    return fmean(group.all_gains(variant) or [0.0])


def plot(group: Compared) -> Figure:
    """A row a variant, the best above; a dot for each seed, a colour for each game, those far off at the edge."""
    names = sorted(group.shown, key=lambda name: mean_gain(group, name))
    limit = FAR_OFF * median(abs(gain) for name in names for gain in group.all_gains(name)) or math.inf
    figure = Figure(figsize=(7, 1.2 + 0.26 * len(names)), layout="constrained")
    axes = figure.subplots()
    for number, game in enumerate(group.games):
        shift = 0.2 * (number - (len(group.games) - 1) / 2)
        points = [(g, row - shift) for row, name in enumerate(names) for g in group.gains(name, game, group.judged_by)]
        axes.plot(
            [min(max(x, -limit), limit) for x, _ in points], [y for _, y in points], "o", markersize=4, label=game
        )
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=f"{group.judged_by} above the laptop's", title=group.stage, ylim=(-0.7, len(names) - 0.3))
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return figure
