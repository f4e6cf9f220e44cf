"""Plots of what an evaluation found, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tinyworlds.media import replacing


def save_plot(path: Path, figure: Figure) -> None:
    """Write one plot."""
    with replacing(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)


def table_plot(
    shares: Float[np.ndarray, "rows columns"],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str,
    column_label: str,
    title: str,
) -> Figure:
    """A table of shares, each row adding up to 1 (or to 0, where there is nothing), as shades and numbers."""
    figure = Figure(figsize=(1.6 + 0.9 * len(columns), 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(shares.shape):
        dark = shares[row, column] > 0.5
        axes.text(
            column, row, f"{shares[row, column]:.2f}", ha="center", va="center", color="white" if dark else "black"
        )
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel=column_label, ylabel=row_label, title=title)
    return figure


def usage_plot(counts: Int64[np.ndarray, " codes"]) -> Figure:
    """How often each action is inferred, as bars; dashed: all used alike."""
    figure = Figure(figsize=(max(3.0, 0.6 * len(counts)), 2.5), layout="constrained")
    axes = figure.subplots()
    axes.bar([str(code) for code in range(len(counts))], counts / max(counts.sum(), 1), color="tab:blue")
    axes.axhline(1 / len(counts), color="grey", linestyle="--")
    axes.set(xlabel="action", ylabel="share of held-out transitions", title="Use of the actions")
    return figure


def curves_plot(curves: Mapping[str, Sequence[float | None]], *, title: str) -> Figure:
    """PSNR over the imagined frames; gaps where there was nothing to score."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for label, values in curves.items():
        steps = np.arange(1, len(values) + 1)
        axes.plot(
            steps, [np.nan if value is None else value for value in values], marker="o", markersize=3, label=label
        )
    axes.set(xlabel="imagined frame k", ylabel="PSNR (dB)", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure
