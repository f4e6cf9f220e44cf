"""What MaskGIT hides in training, and how it decodes."""

from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, UInt8
from matplotlib.figure import Figure

from teaching import worlds
from tinyworlds import World
from tinyworlds.maskgit import SCHEDULES, Decoding, reveal_counts
from tinyworlds.masking import anchored_mask, frame_mask
from tinyworlds.media import grid, save_gif, save_png
from tinyworlds.orders import ORDERS
from tinyworlds.play.engine import Engine, Inside
from tinyworlds.play.session import Session, Settings
from tinyworlds.plots import save_plot

TOKENS, STEPS = 64, 10
FILM_STEPS, SHARES = 12, 4
CLIPS = ("clip 0", "clip 1", "clip 2")
SCENE, ACTION = 1, "none"
GREY = 200


def schedules(path: Path) -> None:
    """How many tokens each schedule has revealed after each step."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for schedule in SCHEDULES:
        revealed = [0, *accumulate(reveal_counts(TOKENS, steps=STEPS, schedule=schedule))]
        axes.plot(range(len(revealed)), revealed, marker="o", markersize=3, label=schedule)
    axes.set(xlabel="decoding step", ylabel=f"revealed of {TOKENS} tokens")
    axes.legend()
    save_plot(path, figure)


def orders(path: Path) -> None:
    """Which tokens of one frame of Doom are kept after a quarter, a half and three quarters of the steps."""
    world = World.load(worlds.folder("vizdoom"))
    rows = []
    for order in ORDERS:
        inside = watched(world, world.decoding.changed(steps=SHARES, schedule="linear", temperature=0, order=order))
        rows.append(as_squares(torch.from_numpy(inside.hidden[: SHARES - 1])))
    columns = [f"{share} of {SHARES} steps" for share in range(1, SHARES)]
    save_png(path, grid(np.stack(rows), labels=ORDERS, column_labels=columns))


def masks(path: Path) -> None:
    """Clips of four frames as either way of training hides them: hidden tokens are dark."""
    generator = torch.Generator().manual_seed(0)
    shape = (len(CLIPS), 4, TOKENS)
    anchored = anchored_mask(shape, min_ratio=0.5, generator=generator, device=generator.device)
    by_frame = frame_mask(shape, full=0.5, generator=generator, device=generator.device)
    pages = [
        grid(as_squares(anchored), labels=CLIPS, column_labels=[f"anchored {t}" for t in range(4)]),
        grid(as_squares(by_frame), column_labels=[f"clean_context {t}" for t in range(1, 5)]),
    ]
    save_png(path, np.concatenate(pages, axis=1))


def as_squares(hidden: Bool[torch.Tensor, "*batch P"]) -> UInt8[np.ndarray, "*batch H W 3"]:
    """A square for each of P tokens, dark where it is hidden."""
    shades = torch.where(hidden, 60, 225).to(torch.uint8).numpy()
    return repeat(shades, "... (h w) -> ... (h i) (w j) c", h=8, i=12, j=12, c=3)


def film(path: Path) -> None:
    """A Doom world decodes one frame: what is kept so far, what it would be if it stopped here, how sure it is."""
    world = World.load(worlds.folder("vizdoom"))
    inside = watched(world, world.decoding.changed(steps=FILM_STEPS, schedule="linear", temperature=0))
    size = world.dynamics.video_tokenizer.grid
    pages = [page(inside, step, size) for step in range(len(inside.pictures))]
    save_gif(path, np.stack([*pages, *[pages[-1]] * 4]), fps=2)


def watched(world: World, decoding: Decoding) -> Inside:
    """How a world decodes the frame that follows a scene."""
    engine = Engine(world.dynamics)
    scene = engine.tokenize(worlds.prompts(world)[SCENE])
    session = Session(scene, Settings(seed=0, decoding=decoding, horizon=1, fps=1))
    (result,) = engine.run(
        [session.request(worlds.action_named(world, ACTION), context=world.context_length - 1, watched=True)]
    )
    return result.inside[0]


def page(inside: Inside, step: int, size: tuple[int, int]) -> UInt8[np.ndarray, "y x 3"]:
    """One picture of the film."""
    height = inside.pictures.shape[1] // size[0]
    spread = {"h": size[0], "w": size[1], "i": height, "j": height, "c": 3}
    hidden = repeat(inside.hidden[step], "(h w) -> (h i) (w j) c", **spread)
    sure = repeat(inside.confidence[step], "(h w) -> (h i) (w j) c", **spread)
    kept = np.where(hidden, GREY, inside.pictures[step]).astype(np.uint8)
    pictures = np.stack([kept, inside.pictures[step], (255 * np.sqrt(sure)).astype(np.uint8)])
    count = int((~inside.hidden[step]).sum())
    columns = (f"step {step + 1}: {count} kept", "if it stopped here", "how sure it is")
    return grid(rearrange(pictures, "k h w c -> 1 k h w c"), scale=2, column_labels=columns)
