"""What the tokenizers make of frames."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d import Axes3D

from teaching import worlds
from tinyworlds import World
from tinyworlds.media import grid, save_png
from tinyworlds.models.stage import as_pictures
from tinyworlds.nn.fsq import FSQ
from tinyworlds.plots import save_plot

GAMES = {"atari_pong": "Pong", "vizdoom": "Doom"}
TWO_SCENES = {"atari_pong": (0, 6), "vizdoom": (1, 6)}
SCENE = {"atari_pong": 6, "vizdoom": 2}


def quantization(path: Path) -> None:
    """What rounding does to one dimension, and where in three the codes of real frames lie."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    _staircase(figure.add_subplot(1, 2, 1))
    cube = figure.add_subplot(1, 2, 2, projection="3d")
    assert isinstance(cube, Axes3D)
    _cube(cube, World.load(worlds.folder("vizdoom")))
    save_plot(path, figure)


def _staircase(axes: Axes) -> None:
    """One dimension of four levels, and the gradient that passes the rounding."""
    z = torch.linspace(-3, 3, 601, requires_grad=True)
    codes = FSQ(latent_dim=1, num_bins=4)(z.unsqueeze(-1)).squeeze(-1)
    (gradient,) = torch.autograd.grad(codes.sum(), z)
    at = z.detach()
    axes.plot(at, codes.detach(), color="tab:blue", label="code")
    axes.plot(at, torch.tanh(at), color="grey", linewidth=1, label="tanh(z)")
    axes.plot(at, gradient, color="tab:red", linestyle="--", linewidth=1, label="gradient of the code")
    axes.set(xlabel="z", title="One dimension, D = 4 levels")
    axes.legend(loc="lower right")


@torch.inference_mode()
def _cube(axes: Axes3D, world: World) -> None:
    """Three of the dimensions: all codes as dots, those in use as balls in the mean colour of what they stand for."""
    tokenizer = world.dynamics.video_tokenizer
    frames = rearrange(worlds.prompts(world), "n t h w c -> 1 (n t) h w c")
    codes = rearrange(tokenizer.encode(worlds.as_floats(frames))[..., :3], "1 t p l -> (t p) l").numpy()
    size = tokenizer.frame_size[0] // tokenizer.grid[0]
    pixels = reduce(frames / 255, "1 t (h i) (w j) c -> (t h w) c", "mean", i=size, j=size)
    places, which, counts = np.unique(codes.round(3), axis=0, return_inverse=True, return_counts=True)
    colours = np.stack([pixels[which.ravel() == place].mean(0) for place in range(len(places))])
    every = FSQ(latent_dim=3, num_bins=tokenizer.quantizer.num_bins)
    x, y, z = every.codes(torch.arange(every.vocabulary)).numpy().T
    axes.scatter(x, y, z, color="lightgrey", s=4)
    x, y, z = places.T
    sizes = 1200 * counts / counts.max() + 15
    axes.scatter(x, y, z, s=sizes, c=colours, edgecolors="black", linewidths=0.4, alpha=1)
    ticks = every.codes(torch.arange(every.num_bins))[:, 0].tolist()
    labels = [f"{tick:.2f}" for tick in ticks]
    axes.set(title="Codes of Doom, the first 3 of 5 dimensions", xlabel="code 1", ylabel="code 2", zlabel="code 3")
    axes.set(xticks=ticks, yticks=ticks, zticks=ticks, xticklabels=labels, yticklabels=labels, zticklabels=labels)


@torch.inference_mode()
def video(path: Path) -> None:
    """Held-out frames, their tokens, what is decoded from these, and what is lost."""
    rows = []
    for name in GAMES:
        world = World.load(worlds.folder(name))
        tokenizer = world.dynamics.video_tokenizer
        for frame in worlds.prompts(world)[list(TWO_SCENES[name]), -1]:
            tokens = tokenizer.tokenize(worlds.as_floats(frame[None, None]))
            decoded = as_pictures(tokenizer.detokenize(tokens)[0])[0]
            rows.append([frame, worlds.token_map(tokenizer, tokens[0, 0]), decoded, lost(frame, decoded)])
    labels = [label for game in GAMES.values() for label in (game, "")]
    columns = ("true", "tokens", "decoded", "lost")
    save_png(path, grid(np.array(rows), scale=2, labels=labels, column_labels=columns))


def lost(true: UInt8[np.ndarray, "H W 3"], made: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The absolute difference of two pictures, dark on white."""
    return np.abs(true.astype(int) - made).clip(0, 255).astype(np.uint8) ^ 255


@torch.inference_mode()
def actions(path: Path) -> None:
    """What the decoder of the action tokenizer makes of a frame under each action, and what that changes."""
    pages = []
    for name, game in GAMES.items():
        world = World.load(worlds.folder(name))
        tokenizer = world.dynamics.action_tokenizer
        frames = worlds.as_floats(worlds.prompts(world)[SCENE[name], None, -2:])
        small, codes = tokenizer.shrunk(frames), tokenizer.encode(frames)
        every = tokenizer.typical_codes(torch.arange(world.n_actions))
        chosen = torch.stack([codes[0].expand_as(every), every], dim=1)
        following = tokenizer.decode(small.expand(world.n_actions, -1, -1, -1, -1), chosen)[:, -1]
        rows = as_pictures(torch.stack([following, following - small[0, -1]]))
        pages.append(grid(rows, scale=3, labels=(game, "change"), column_labels=worlds.action_names(world)))
    widest = max(page.shape[1] for page in pages)
    padded = [np.pad(page, ((0, 0), (0, widest - page.shape[1]), (0, 0)), constant_values=255) for page in pages]
    save_png(path, np.concatenate(padded))
