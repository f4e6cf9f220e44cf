"""What an evaluation leaves: metrics.json, report.md with plots and films, and a table to print."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64, UInt8

from tinyworlds.media import grid, replacing, save_gif, save_png
from tinyworlds.play import rollout
from tinyworlds.plots import curves_plot, save_plot, table_plot, usage_plot
from tinyworlds.prediction import STEPS, Foretelling
from tinyworlds.pretrained import METRICS

SHOWN = 8
"""Frames and their reconstructions."""
UNITS = {"psnr": "dB", "frames_per_second": "/s", "training_seconds": "s"}
LABELS = {"psnr": "imagined", "copy_psnr": "last frame repeated", "random_psnr": "imagined, random actions"}


@dataclass(kw_only=True)
class Scores:
    """Metrics by dotted key, as ``actions.nmi``; None where one could not be had, with the reason why."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def put(self, section: str, values: Mapping[str, Any], *, otherwise: str) -> None:
        """Add metrics of a section; `otherwise` is the reason where one is None or no finite number."""
        for name, value in values.items():
            key = f"{section}.{name}"
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                self.values[key], self.reasons[key] = None, otherwise
            else:
                self.values[key] = value

    def nested(self) -> dict[str, Any]:
        """As metrics.json has them: sections of metrics, and ``reasons`` by dotted key."""
        sections: dict[str, Any] = {}
        for key, value in self.values.items():
            section, name = key.split(".")
            sections.setdefault(section, {})[name] = value
        return {**sections, "reasons": self.reasons}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was found, and what the pictures are drawn from.

    `counts`: how often each action is inferred in held-out play. `meanings`: for each action the name of the
    true one that it stands for, None where there is none. `confusion` (true action inferred with it) and
    `obedience` (true action meant, read) are None without true actions. `each_action`: held, from the prompt of the
    first clip.
    """

    scores: Scores
    counts: Int64[np.ndarray, " codes"]
    meanings: list[str | None]
    action_names: list[str]
    confusion: Int64[np.ndarray, "codes actions"] | None
    obedience: Float[np.ndarray, "actions actions"] | None
    foretelling: Foretelling
    each_action: UInt8[np.ndarray, "codes T H W 3"]


def text_table(scores: Scores) -> str:
    """A line per metric: key, value, and the reason where there is none."""
    width = max(map(len, scores.values))
    lines = [f"{key:{width}}  {_shown(key, value)}".rstrip() for key, value in scores.values.items()]
    return "\n".join([*lines, *(f"{key}: {reason}" for key, reason in _grouped(scores.reasons))])


def write_report(out: Path, evaluation: Evaluation, *, title: str, fps: float) -> None:
    """Write everything to the folder `out`, metrics.json last."""
    pictures = {**_plots(out, evaluation), **_films(out, evaluation, fps)}
    with replacing(out / "report.md") as unfinished:
        unfinished.write_text(_markdown(evaluation.scores, pictures, title))
    with replacing(out / METRICS) as unfinished:
        unfinished.write_text(json.dumps(evaluation.scores.nested(), indent=2) + "\n")


def curves(foretelling: Foretelling, *, moving: bool) -> dict[str, list[float | None]]:
    """PSNR of each imagined frame: actions inferred, last frame repeated, actions random."""
    own, other = foretelling.quality(foretelling.inferred), foretelling.quality(foretelling.random[0])
    end = "_moving" if moving else ""
    return {
        LABELS["psnr"]: [quality[f"psnr{end}"] for quality in own],
        LABELS["copy_psnr"]: [quality[f"copy_psnr{end}"] for quality in own],
        LABELS["random_psnr"]: [quality[f"psnr{end}"] for quality in other],
    }


def _plots(out: Path, evaluation: Evaluation) -> dict[str, str]:
    """Draw the plots; file names and what they show."""
    shown = {"usage.png": "How often each action is inferred from held-out play"}
    save_plot(out / "usage.png", usage_plot(evaluation.counts))
    for file, moving, what in (
        ("psnr.png", False, "all pixels"),
        ("psnr_moving.png", True, "pixels that moved since the true frame before"),
    ):
        save_plot(out / file, curves_plot(curves(evaluation.foretelling, moving=moving), title=what))
        shown[file] = f"PSNR over the imagined frames, {what}"
    names = evaluation.action_names
    if evaluation.confusion is not None:
        rows = evaluation.confusion / np.maximum(evaluation.confusion.sum(1, keepdims=True), 1)
        figure = table_plot(
            rows,
            rows=rollout.action_labels(evaluation.meanings),
            columns=names,
            row_label="inferred action",
            column_label="true action",
            title="Inferred and true actions",
        )
        save_plot(out / "confusion.png", figure)
        shown["confusion.png"] = "For each inferred action, shares of the true actions, and the one it stands for"
    if evaluation.obedience is not None:
        figure = table_plot(
            evaluation.obedience,
            rows=names,
            columns=names,
            row_label="true action told",
            column_label="read off the imagined transition",
            title="Obedience",
        )
        save_plot(out / "obedience.png", figure)
        shown["obedience.png"] = (
            "For each action that the world is told, what the probe sees it do; 0 where none stands for it"
        )
    return shown


def _films(out: Path, evaluation: Evaluation, fps: float) -> dict[str, str]:
    """Draw the pictures and films; file names and what they show."""
    foretelling, labels = evaluation.foretelling, rollout.action_labels(evaluation.meanings)
    true = foretelling.clips[0]
    imagined = np.concatenate([true[: foretelling.prompt], foretelling.inferred[0, 1:]])
    pairs = np.stack([foretelling.clips[:SHOWN, foretelling.prompt - 1], foretelling.inferred[:SHOWN, 0]])
    save_png(out / "reconstruction.png", grid(pairs, scale=2, labels=("true", "decoded")))
    save_png(out / "rollout.png", rollout.strip(true, imagined, prompt=foretelling.prompt))
    save_gif(out / "rollout.gif", rollout.side_by_side(true, imagined), fps)
    save_png(out / "actions.png", rollout.actions_strip(evaluation.each_action, rows=labels))
    save_gif(out / "actions.gif", rollout.actions_film(evaluation.each_action, columns=labels), fps)
    return {
        "reconstruction.png": "Held-out frames, and what their tokens keep of them",
        "rollout.png": "The first held-out clip, not a chosen one, and what is imagined, actions inferred",
        "rollout.gif": "The same as a film",
        "actions.png": "Each action held, from the prompt of the same clip",
        "actions.gif": "The same as a film",
    }


def _markdown(scores: Scores, pictures: Mapping[str, str], title: str) -> str:
    lines = [f"# {title}", ""]
    lines += ["Held-out episodes only. What each metric means, and how it can deceive: docs/world-quality.md.", ""]
    rows = {key: value for key, value in scores.values.items() if not key.rpartition("_")[2].isdigit()}
    lines += [
        "| metric | value |",
        "|---|---|",
        *(f"| `{key}` | {_shown(key, value)} |" for key, value in rows.items()),
    ]
    lines += ["", "PSNR (dB) of the k-th imagined frame:", ""]
    lines += ["| | " + " | ".join(f"k = {k}" for k in STEPS) + " |", "|---|" + "---|" * len(STEPS)]
    for name in ("psnr", "copy_psnr", "psnr_moving", "copy_psnr_moving", "delta_psnr", "delta_psnr_moving"):
        cells = [scores.values.get(f"prediction.{name}_{k}") for k in STEPS]
        lines.append(f"| `prediction.{name}_k` | " + " | ".join("–" if v is None else f"{v:.2f}" for v in cells) + " |")
    if scores.reasons:
        lines += ["", "Not measured:", "", *(f"- {key}: {reason}" for key, reason in _grouped(scores.reasons))]
    for file, what in pictures.items():
        lines += ["", f"**{what}.**", "", f"![{what}]({file})"]
    return "\n".join(lines) + "\n"


def _grouped(reasons: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each reason once, with all the keys that it is given for."""
    return [
        (", ".join(key for key in reasons if reasons[key] == reason), reason)
        for reason in dict.fromkeys(reasons.values())
    ]


def _shown(key: str, value: Any) -> str:
    """A value for people to read."""
    if value is None:
        return "–"
    unit = next((f" {unit}" for name, unit in UNITS.items() if name in key), "")
    if isinstance(value, list):
        return ", ".join("–" if item is None else str(item) for item in value)
    if isinstance(value, float):
        return f"{value:.2f}{unit}" if unit else f"{value:.4g}"
    return f"{value:,}{unit}" if isinstance(value, int) else str(value)
