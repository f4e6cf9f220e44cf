"""Who sees whom in the space-time transformer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from tinyworlds.nn.block import Block
from tinyworlds.nn.positions import ALiBi, RoPE, Timeline, temporal_positions, turned
from tinyworlds.nn.transformer import SpaceTimeTransformer
from tinyworlds.plots import save_plot

COLOURS = ListedColormap(["#e8edf2", "#2a7f9e", "#e4572e"])
"""Of what is not seen, of what is, and of who looks."""
GRID, FRAMES, LOOKING = (6, 6), 4, (2, 14)
EMBED_DIM, NUM_HEADS = 32, 2
LONG, LOOKERS, BACK = 24, (7, 15, 23), 8
"""Frames of a clip, those whose scores are shown, and how far these look back."""


def masks(path: Path) -> None:
    """Which frames temporal attention sees: while a clip is encoded, while it is played, and in training."""
    clean, hidden = [f"{t}" for t in range(4)], [f"{t}?" for t in range(1, 5)]
    panels = [
        ("a clip, encoded", Timeline.causal(5), [f"{t}" for t in range(5)], [f"{t}" for t in range(5)]),
        ("a frame, played", Timeline.causal(1, past=4), ["4?"], [*clean, "4?"]),
        ("a clip, learned from", Timeline.clean_context(5), hidden, [*clean, *hidden]),
    ]
    figure = Figure(figsize=(8.4, 2.9), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[5, 5, 8])
    for panel, (title, timeline, rows, columns) in zip(axes, panels, strict=True):
        _cells(panel, timeline.visible.numpy().astype(int))
        panel.set_xticks(range(len(columns)), columns)
        panel.set_yticks(range(len(rows)), rows)
        panel.set(title=title, xlabel="frame that is seen")
    axes[0].set_ylabel("frame that looks")
    save_plot(path, figure)


def reach(path: Path) -> None:
    """Which tokens one token depends on after each part of a block, by the gradient through it."""
    torch.manual_seed(0)
    transformer = SpaceTimeTransformer(
        embed_dim=EMBED_DIM,
        num_heads=NUM_HEADS,
        hidden_dim=64,
        num_blocks=1,
        norm="pre",
        qk_norm=False,
        positions="sincos",
        grid=GRID,
    )
    block = transformer.blocks[0]
    assert isinstance(block, Block)
    assert block.temporal is not None
    tokens = torch.randn(1, FRAMES, GRID[0] * GRID[1], EMBED_DIM, requires_grad=True)
    looks = transformer.positions.looks(Timeline.causal(FRAMES))
    outputs = {
        "attention within a frame": block.spatial(tokens, None, looks.space),
        "attention over frames": block.temporal(tokens, None, looks.time),
        "one block": block(tokens, None, looks).x,
    }
    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    for row, (title, output) in zip(figure.subplots(3, FRAMES), outputs.items(), strict=True):
        seen = rearrange(depends_on(output, tokens).numpy().astype(int), "t (h w) -> t h w", h=GRID[0])
        seen[LOOKING[0], *divmod(LOOKING[1], GRID[1])] = 2
        for time, (panel, frame) in enumerate(zip(row, seen, strict=True)):
            _cells(panel, frame)
            panel.set(xticks=[], yticks=[], xlabel=f"frame {time}" if output is outputs["one block"] else "")
        row[0].set_ylabel(title.replace(" ", "\n", 1), rotation=0, ha="right", va="center")
    save_plot(path, figure)


def positions(path: Path) -> None:
    """Scores of frames that look back at others of the same content, in one head of random weights."""
    generator = torch.Generator().manual_seed(2)
    channels = EMBED_DIM // NUM_HEADS
    content = torch.randn(EMBED_DIM, generator=generator)
    to_query, to_key = torch.randn(2, EMBED_DIM, channels, generator=generator) / EMBED_DIM**0.5
    timeline = Timeline.causal(LONG)
    shape: dict[str, Any] = {"embed_dim": EMBED_DIM, "num_heads": NUM_HEADS, "grid": GRID, "extra": 0}
    placed = content + rearrange(temporal_positions(timeline.times, EMBED_DIM), "t 1 e -> t e")
    turns = RoPE(**shape).looks(timeline).time.turns
    lowered = ALiBi(**shape).looks(timeline).time.mask
    assert turns is not None
    assert lowered is not None
    same = (content @ to_query, content @ to_key)
    query, key = (turned(vector.expand(LONG, 1, 1, -1), turns)[:, 0, 0] for vector in same)
    scores = {
        "sincos": (placed @ to_query) @ (placed @ to_key).T / channels**0.5,
        "rope": query @ key.T / channels**0.5,
        "alibi": same[0] @ same[1] / channels**0.5 + lowered[0],
    }
    figure = Figure(figsize=(8.4, 2.7), layout="constrained")
    for axes, (title, table) in zip(figure.subplots(1, 3), scores.items(), strict=True):
        for number, frame in enumerate(LOOKERS):
            back = table[frame, frame - BACK + 1 : frame + 1].flip(0)
            axes.plot(range(BACK), back, linewidth=4 - 1.4 * number, label=f"frame {frame}")
        axes.set(title=title, xlabel="frames back")
    figure.axes[0].set_ylabel("score")
    figure.axes[-1].legend()
    save_plot(path, figure)


def depends_on(output: Tensor, tokens: Tensor) -> Bool[Tensor, "T P"]:
    """The tokens that a change of which changes the `LOOKING` one of the `output`."""
    (gradient,) = torch.autograd.grad(output[0, *LOOKING].sum(), tokens)
    return gradient[0].abs().amax(-1) > 0


def _cells(axes: Axes, values: np.ndarray) -> None:
    """A matrix as squares with lines between them."""
    axes.imshow(values, cmap=COLOURS, vmin=0, vmax=2)
    axes.set_xticks(np.arange(values.shape[1]) + 0.5, minor=True)
    axes.set_yticks(np.arange(values.shape[0]) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
