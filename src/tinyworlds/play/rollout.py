"""Rollouts without a window: what a world imagines, beside what happened, and what each action does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Int64, UInt8

from tinyworlds.data.clips import normalize
from tinyworlds.media import grid
from tinyworlds.metrics import frame_quality
from tinyworlds.progress import track
from tinyworlds.world import World

SCALE = 3
"""Screen pixels per pixel of the world."""
FPS = 10
"""Of films, where the store does not say."""
SHOWN = 12
"""At most so many frames in a strip."""
BATCH = 16
"""Clips scored at once."""


def choose_actions(
    world: World,
    clip: UInt8[np.ndarray, "T H W 3"],
    *,
    prompt: int,
    wanted: Any,
    seed: int,
) -> Int64[np.ndarray, " steps"]:
    """The action of each step after the first `prompt` frames of a clip.

    `wanted`: ``inferred`` from the clip, ``random``, or action numbers, repeated as long as needed.

    Raises:
        ValueError: `wanted` is something else, or no action of this world.
    """
    steps = len(clip) - prompt
    if wanted == "inferred":
        return world.infer(clip)[prompt - 1 :]
    if wanted == "random":
        return np.random.default_rng(seed).integers(world.n_actions, size=steps)
    numbers = wanted if isinstance(wanted, str | Sequence) else [wanted]
    if (
        isinstance(numbers, str)
        or not all(isinstance(n, int) and 0 <= n < world.n_actions for n in numbers)
        or not numbers
    ):
        raise ValueError(
            f"actions={wanted}: give inferred, random, or numbers from 0 to {world.n_actions - 1}, as 0,1,1"
        )
    return np.resize(np.array(numbers, np.int64), steps)


def imagine(
    world: World, clip: UInt8[np.ndarray, "T H W 3"], actions: Int64[np.ndarray, " steps"], *, prompt: int
) -> UInt8[np.ndarray, "T H W 3"]:
    """The first `prompt` frames of a clip, decoded from their tokens, then what the world imagines after them."""
    frames = [world.reset(clip[: start + 1])[None] for start in range(prompt)]
    taken = np.pad(actions, (0, -len(actions) % world.horizon), mode="edge")
    steps = rearrange(taken, "(n h) -> n h", h=world.horizon)
    for action in track(steps, total=len(steps), label="imagining"):
        following = world.step(action)
        frames.append(following if world.horizon > 1 else following[None])
    return np.concatenate(frames)[: prompt + len(actions)]


def side_by_side(
    true: UInt8[np.ndarray, "T H W 3"], imagined: UInt8[np.ndarray, "T H W 3"]
) -> UInt8[np.ndarray, "T y x 3"]:
    """A film of the true frames at the left and the imagined ones at the right."""
    return np.stack(
        [
            grid(np.stack(pair)[None], scale=SCALE, column_labels=("true", "imagined"))
            for pair in zip(true, imagined, strict=True)
        ]
    )


def strip(
    true: UInt8[np.ndarray, "T H W 3"], imagined: UInt8[np.ndarray, "T H W 3"], *, prompt: int
) -> UInt8[np.ndarray, "y x 3"]:
    """The true frames above the imagined ones; at most `SHOWN` of them, from the last of the prompt on."""
    shown = np.linspace(prompt - 1, len(true) - 1, min(SHOWN, len(true) - prompt + 1)).round().astype(int)
    labels = ["prompt" if frame < prompt else f"+{frame - prompt + 1}" for frame in shown]
    return grid(np.stack([true[shown], imagined[shown]]), scale=2, labels=("true", "imagined"), column_labels=labels)


def each_action(
    world: World, prompt: UInt8[np.ndarray, "T H W 3"], *, steps: int
) -> UInt8[np.ndarray, "actions {steps+1} H W 3"]:
    """From one prompt, what each action does when it is held: the last prompt frame and then the imagined ones."""
    actions = np.arange(world.n_actions)
    frames = [world.reset(np.repeat(prompt[None], world.n_actions, axis=0))[:, None]]
    while sum(frame.shape[1] for frame in frames) <= steps:
        following = world.step(actions)
        frames.append(following if world.horizon > 1 else following[:, None])
    return np.concatenate(frames, axis=1)[:, : steps + 1]


def action_labels(meanings: Sequence[str | None]) -> list[str]:
    """``action 2: up`` of an action whose meaning is known, else ``action 2``."""
    return [f"action {code}" + (f": {name}" if name else "") for code, name in enumerate(meanings)]


def actions_strip(films: UInt8[np.ndarray, "actions T H W 3"], *, rows: Sequence[str]) -> UInt8[np.ndarray, "y x 3"]:
    """One row per action, called as `rows` says, from the same prompt."""
    shown = np.linspace(0, films.shape[1] - 1, min(SHOWN, films.shape[1])).round().astype(int)
    labels = ["prompt" if frame == 0 else f"+{frame}" for frame in shown]
    return grid(films[:, shown], scale=2, labels=rows, column_labels=labels)


def actions_film(
    films: UInt8[np.ndarray, "actions T H W 3"], *, columns: Sequence[str]
) -> UInt8[np.ndarray, "T y x 3"]:
    """A film with one column per action, called as `columns` says, from the same prompt."""
    return np.stack([grid(films[None, :, t], scale=SCALE, column_labels=columns) for t in range(films.shape[1])])


def next_frame_quality(world: World, clips: UInt8[np.ndarray, "N T H W 3"]) -> dict[str, float | None]:
    """How well the last frame of each clip is imagined from those before it, actions inferred, in dB of PSNR.

    ``psnr`` of the imagined frames, ``copy_psnr`` of repeating the frame before, and both over the pixels
    that moved alone. With a horizon above 1 the first of the frames imagined at once is scored.
    """
    imagined = []
    for batch in track(np.array_split(clips, max(len(clips) // BATCH, 1)), total=None, label="scoring clips, batches"):
        world.reset(batch[:, :-1])
        following = world.step(world.infer(batch)[:, -1])
        imagined.append(following[:, 0] if world.horizon > 1 else following)
    predicted, true, before = (
        normalize(torch.from_numpy(frames)[None])[0]
        for frames in (np.concatenate(imagined), clips[:, -1].copy(), clips[:, -2].copy())
    )
    return frame_quality(predicted, copied=before, true=true, before=before)
