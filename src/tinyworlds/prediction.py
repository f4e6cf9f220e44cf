"""How well a world foretells held-out play, and how much of that is owed to the actions."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, Float32, Int64, UInt8
from numpy.typing import ArrayLike
from torch import Tensor

from tinyworlds.data.clips import normalize
from tinyworlds.metrics import frame_quality
from tinyworlds.progress import track

STEPS = (1, 4, 8, 16)
"""k: which imagined frames are scored, the first being 1."""
CONTROL_STEP = 4
"""The imagined frame at which Genie measures controllability (arXiv 2402.15391, section 3)."""
DRAWS = 3
"""Random sequences of actions for each clip."""
BATCH = 32
"""Games stepped at once."""

Quality = dict[str, float | None]


@runtime_checkable
class Playable(Protocol):
    """What is measured: a `World` that imagines one frame at a time, or what is played like one, in batches."""

    @property
    def n_actions(self) -> int: ...
    @property
    def context_length(self) -> int: ...
    def infer(self, frames: np.ndarray, /) -> np.ndarray: ...
    def reset(self, frames: np.ndarray, /) -> np.ndarray: ...
    def step(self, action: ArrayLike, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Foretelling:
    """Held-out clips, and what a world imagines after their first `prompt` frames.

    The films begin with the last frame of the prompt as the world renders it.
    """

    clips: UInt8[np.ndarray, "N T H W 3"]
    prompt: int
    actions: Int64[np.ndarray, "N k"]
    inferred: UInt8[np.ndarray, "N k+1 H W 3"]
    random: list[np.ndarray]

    def quality(self, film: UInt8[np.ndarray, "N n H W 3"]) -> list[Quality]:
        """`frame_quality` of each imagined frame of `film`, beside repeating the last frame of the prompt."""
        first = self.prompt - 1
        return [
            frame_quality(
                _as_floats(film[:, k]),
                copied=_as_floats(self.clips[:, first]),
                true=_as_floats(self.clips[:, first + k]),
                before=_as_floats(self.clips[:, first + k - 1]),
            )
            for k in range(1, film.shape[1])
        ]


def foretell(
    world: Playable, clips: UInt8[np.ndarray, "N T H W 3"], *, shares: Float[np.ndarray, " codes"], seed: int
) -> Foretelling:
    """Imagine the frames of clips after as many as the world sees, under inferred actions and under random ones.

    Random ones are drawn from the codes by their `shares`. Only the first of the draws lasts for the whole
    clip, the others until `CONTROL_STEP`.
    """
    prompt = world.context_length
    prompts, actions = clips[:, :prompt], world.infer(clips)[:, prompt - 1 :]
    drawn = np.random.default_rng(seed).choice(world.n_actions, p=shares, size=(DRAWS, *actions.shape))
    return Foretelling(
        clips=clips,
        prompt=prompt,
        actions=actions,
        inferred=imagine(world, prompts, actions, label="imagining, actions inferred"),
        random=[
            imagine(world, prompts, draw[:, : CONTROL_STEP if number else None], label="imagining, actions random")
            for number, draw in enumerate(drawn)
        ],
    )


def imagine(
    world: Playable, prompts: UInt8[np.ndarray, "N T H W 3"], actions: Int64[np.ndarray, "N k"], *, label: str
) -> UInt8[np.ndarray, "N k+1 H W 3"]:
    """For each prompt its last frame as the world renders it, then the frames imagined under its actions."""
    films: list[list[np.ndarray]] = []
    work = [
        (slice(start, start + BATCH), k) for start in range(0, len(prompts), BATCH) for k in range(actions.shape[1])
    ]
    for part, k in track(work, total=len(work), label=label):
        if k == 0:
            films.append([world.reset(prompts[part])])
        films[-1].append(world.step(actions[part, k]))
    return np.concatenate([np.stack(film, axis=1) for film in films])


def under_each_code(
    world: Playable, prompts: UInt8[np.ndarray, "N T H W 3"], codes: Int64[np.ndarray, " codes"]
) -> UInt8[np.ndarray, "N codes 2 H W 3"]:
    """For each prompt and each code, the last frame as the world renders it, and the one imagined after it."""
    every = imagine(
        world,
        repeat(prompts, "n ... -> (n k) ...", k=len(codes)),
        repeat(codes, "k -> (n k) 1", n=len(prompts)),
        label="imagining, each action",
    )
    return rearrange(every, "(n k) two h w c -> n k two h w c", k=len(codes))


def scores(foretelling: Foretelling) -> Quality:
    """`Foretelling.quality` at each of `STEPS` that the clips are long enough for, as ``psnr_4`` and so on."""
    quality = foretelling.quality(foretelling.inferred)
    return {f"{name}_{k}": value for k in STEPS if k <= len(quality) for name, value in quality[k - 1].items()}


def control_gain(foretelling: Foretelling) -> Quality:
    """What random actions in place of the inferred ones cost in PSNR (dB) at frame `CONTROL_STEP`.

    Genie's controllability (arXiv 2402.15391, section 3), over all pixels and over those that moved; the mean
    over the draws. Empty where the clips are too short.
    """
    if foretelling.actions.shape[1] < CONTROL_STEP:
        return {}
    own = foretelling.quality(foretelling.inferred)[CONTROL_STEP - 1]
    others = [foretelling.quality(film)[CONTROL_STEP - 1] for film in foretelling.random]
    gains: Quality = {}
    for name in ("psnr", "psnr_moving"):
        reached = own[name]  # None where nothing moved, and then for the others too
        lesser = np.array([other[name] for other in others], float).mean()
        gains[f"delta_{name}_{CONTROL_STEP}"] = None if reached is None else reached - float(lesser)
    return gains


def action_margin(
    imagined: UInt8[np.ndarray, "N codes H W 3"],
    codes: Int64[np.ndarray, " codes"],
    *,
    inferred: Int64[np.ndarray, " N"],
    own: UInt8[np.ndarray, "N H W 3"],
    true: UInt8[np.ndarray, "N H W 3"],
) -> float:
    """By how much the best wrong action foretells the next frame worse than the inferred one does.

    Difference of mean squared errors of frames in [-1, 1], mean over clips; above 0 where the action matters.
    `imagined` under each of `codes`, `own` under the `inferred` one. Where no other code is in use, it is 0.
    """
    errors = np.stack([_squared_error(imagined[:, k], true) for k in range(len(codes))], axis=1)
    wrong = np.where(codes == inferred[:, None], np.inf, errors).min(axis=1, initial=np.inf)
    margin = wrong - _squared_error(own, true)
    return float(np.where(np.isfinite(margin), margin, 0).mean())


def _squared_error(
    imagined: UInt8[np.ndarray, "N H W 3"], true: UInt8[np.ndarray, "N H W 3"]
) -> Float32[np.ndarray, " N"]:
    return (_as_floats(imagined) - _as_floats(true)).square().mean(dim=(1, 2, 3)).numpy()


def _as_floats(frames: UInt8[np.ndarray, "N H W 3"]) -> Float[Tensor, "N 3 H W"]:
    return normalize(torch.from_numpy(np.ascontiguousarray(frames))[None])[0]
