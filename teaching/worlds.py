"""The worlds that came along, and what figures show of them."""

import json
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from tinyworlds import World, scenes
from tinyworlds.data.clips import normalize
from tinyworlds.media import enlarge
from tinyworlds.models.video_tokenizer import VideoTokenizer
from tinyworlds.pretrained import METRICS

WORLDS = Path(__file__).resolve().parents[1] / "worlds"


def folder(name: str) -> Path:
    """Of the world called `name`."""
    return WORLDS / name


def prompts(world: World) -> UInt8[np.ndarray, "N T H W 3"]:
    """The scenes that came with it: held-out frames."""
    assert world.folder is not None
    return scenes.read(world.folder / scenes.SCENES, size=world.frame_size)


def as_floats(frames: UInt8[np.ndarray, "*batch H W 3"]) -> Float[Tensor, "*batch 3 H W"]:
    """Frames in [-1, 1], as models take them."""
    return normalize(torch.from_numpy(np.ascontiguousarray(frames)))


def action_names(world: World) -> list[str]:
    """Each code, with the true action that its evaluation says it stands for."""
    assert world.folder is not None
    names = json.loads((world.folder / METRICS).read_text())["actions"]["names"]
    return [f"{code}" if name is None else f"{code} {name.replace('_', ' ')}" for code, name in enumerate(names)]


def action_named(world: World, name: str) -> int:
    """The commonest code that stands for a true action."""
    return next(code for code, known in enumerate(action_names(world)) if known == f"{code} {name}")


def token_map(tokenizer: VideoTokenizer, tokens: Int64[Tensor, "*batch P"]) -> UInt8[np.ndarray, "*batch H W 3"]:
    """Tokens as squares of the size of a frame: the first three dimensions of each code are its red, green, blue."""
    levels = tokenizer.quantizer.codes(tokens)[..., :3]
    colours = ((levels + 1) / 2 * 255).round().to(torch.uint8).numpy()
    squares = rearrange(colours, "... (h w) c -> ... h w c", h=tokenizer.grid[0])
    return enlarge(squares, tokenizer.frame_size[0] // tokenizer.grid[0])
