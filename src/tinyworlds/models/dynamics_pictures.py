"""What dynamics show of themselves while they are trained."""

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float, Int64
from torch import Tensor

import tinyworlds.models.dynamics  # which imports this module: its class is only named here
from tinyworlds.masking import frame_mask
from tinyworlds.media import grid
from tinyworlds.models.stage import as_pictures

SHOWN = 6
"""Clips of a batch."""
FILM_FRAMES = 16


def drawn(dynamics: "tinyworlds.models.dynamics.Dynamics", frames: Float[Tensor, "B T C H W"]) -> dict[str, np.ndarray]:
    """Next frames as predicted, a frame guessed from part of its tokens, and each action from one prompt."""
    shown = frames[:SHOWN]
    tokens, actions = dynamics.tokenize(shown)
    generator = torch.Generator(dynamics.device).manual_seed(0)
    _, predicted = dynamics.next_frame(tokens, actions, generator)
    rows = torch.stack([shown[:, -2], shown[:, -1], predicted[:, 0]])
    return {
        "prediction": grid(as_pictures(rows), scale=2, labels=("now", "next", "predicted")),
        "masked": masked(dynamics, tokens, actions, generator),
        "rollout": film(dynamics, tokens[:1], actions[:1], generator),
    }


def masked(
    dynamics: "tinyworlds.models.dynamics.Dynamics",
    tokens: Int64[Tensor, "B T P"],
    actions: Int64[Tensor, "B N"],
    generator: torch.Generator,
) -> np.ndarray:
    """uint8 (y, x, 3): the last frames, the part of them that is seen, and the whole as guessed from that part."""
    batch, _, patches = tokens.shape
    hidden = torch.zeros_like(tokens, dtype=torch.bool)
    hidden[:, -1:] = frame_mask((batch, 1, patches), full=0, generator=generator, device=tokens.device)
    likeliest = dynamics.to_logits(dynamics(tokens, hidden, dynamics.condition(actions))).argmax(-1)
    true, guessed = (dynamics.render(t, count=1)[:, 0] for t in (tokens, torch.where(hidden, likeliest, tokens)))
    height, width = dynamics.video_tokenizer.grid
    size = dynamics.frame_size[0] // height
    grey = repeat(hidden[:, -1], "b (h w) -> b 1 (h i) (w j)", h=height, w=width, i=size, j=size)
    rows = torch.stack([true, torch.where(grey, 0.0, true), guessed])
    return grid(as_pictures(rows), scale=2, labels=("tokens", "seen", "guessed"))


def film(
    dynamics: "tinyworlds.models.dynamics.Dynamics",
    tokens: Int64[Tensor, "1 T P"],
    actions: Int64[Tensor, "1 T-1"],
    generator: torch.Generator,
) -> np.ndarray:
    """uint8 (`FILM_FRAMES`, y, x, 3): from one prompt, a column per action, held all the time."""
    n_actions = dynamics.action_tokenizer.n_actions
    held = torch.arange(n_actions, device=dynamics.device).unsqueeze(1)
    tokens, actions = (repeat(x, "1 ... -> n ...", n=n_actions) for x in (tokens, actions))
    names = [f"action {action}" for action in range(n_actions)]
    pages = []
    for _ in range(FILM_FRAMES):
        actions = torch.cat([actions, held], dim=1)
        following, codes = dynamics.imagine(tokens, actions, horizon=1, decoding=dynamics.decoding, generator=generator)
        tokens = torch.cat([tokens, following], dim=1)
        page = as_pictures(dynamics.render(tokens, count=1, codes=codes)[:, 0])
        pages.append(grid(page[None], scale=2, column_labels=names))
    return np.stack(pages)
