"""Opening a world to play: its weights, frames to begin from, and what its actions mean."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from omegaconf import DictConfig

from tinyworlds import scenes
from tinyworlds.checkpoints import newest
from tinyworlds.data.settings import check_flag, check_number, check_whole
from tinyworlds.json_files import read_object
from tinyworlds.maskgit import chosen_decoding
from tinyworlds.play.protocol import LIMITS
from tinyworlds.play.session import Settings
from tinyworlds.pretrained import CONFIG, METRICS
from tinyworlds.world import World

MOST_THREADS = 4
IDLE_NAMES = ("noop", "none", "nothing", "stay")


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A world to play, and what it is played with.

    `scenes`: frames to begin from. `names`: of each action the true one that it stands for, or None. `idle`: the
    action while none is asked for. `settings`: until a player chooses others.
    """

    world: World
    scenes: UInt8[np.ndarray, "N T H W 3"]
    names: list[str | None]
    idle: int
    settings: Settings


def open_world(config: DictConfig) -> tuple[str | Path, World]:
    """The world that a config of play names, and where it is.

    Raises:
        FileNotFoundError: there is none.
        ValueError: an option is impossible.
    """
    check_whole("horizon", config.horizon, at_least=1)
    check_flag("compile", config.compile)
    check_whole("clips", config.clips, at_least=1)
    check_whole("seed", config.seed, at_least=0)
    decoding = chosen_decoding(config)
    ckpt = config.ckpt or _newest_or_shared(config)
    world = World.load(ckpt, horizon=config.horizon, seed=config.seed, device=config.device, **decoding)
    if config.compile:
        world.dynamics.compile_parts()
    print(f"world: {ckpt} · {world.n_actions} actions · sees {world.context_length} frames", flush=True)
    return ckpt, world


def _newest_or_shared(config: DictConfig) -> Path:
    """The newest own world of the dataset, or else the one that came with the project."""
    try:
        return newest(config.runs_dir, config.dataset, "dynamics")
    except FileNotFoundError:
        shared = Path(config.worlds_dir, config.dataset)
        if (shared / CONFIG).is_file():
            return shared
        raise


def open_to_play(config: DictConfig) -> Opening:
    """The world, its scenes and actions, as a config of play names them.

    Raises:
        FileNotFoundError: there is no world, or nothing to begin from.
        ValueError: an option is impossible.
    """
    check_number("fps", config.fps, at_least=LIMITS["fps"][0], at_most=LIMITS["fps"][1])
    for name in ("seed", "steps", "temperature"):
        if config[name] is not None:
            check_number(name, config[name], at_least=LIMITS[name][0], at_most=LIMITS[name][1])
    if config.idle is not None:
        check_whole("idle", config.idle, at_least=0)
    if config.threads is not None:
        check_whole("threads", config.threads, at_least=1)
    torch.set_num_threads(config.threads or default_threads())
    _, world = open_world(config)
    if config.idle is not None and config.idle >= world.n_actions:
        raise ValueError(f"idle={config.idle}: this world's actions are 0 to {world.n_actions - 1}")
    found = scenes.find(world.dynamics, store=config.store, folder=world.folder)
    names = action_names(world)
    idle = idle_action(world, found, names) if config.idle is None else config.idle
    settings = Settings(seed=world.seed, decoding=world.decoding, horizon=world.horizon, fps=float(config.fps))
    return Opening(world=world, scenes=found, names=names, idle=idle, settings=settings)


def default_threads() -> int:
    """As many as make steps of small worlds quick. With one for each core, all wait for that whose core is shared."""
    return min(max((os.cpu_count() or 1) - 1, 1), MOST_THREADS, torch.get_num_threads())


def action_names(world: World) -> list[str | None]:
    """What each action means, as the world's evaluation found; None where it does not know."""
    unknown: list[str | None] = [None] * world.n_actions
    for name in (f"evaluation/{METRICS}", METRICS):
        path = None if world.folder is None else world.folder / name
        if path is not None and path.is_file():
            actions = read_object(path, "result of an evaluation").get("actions")
            names = actions.get("names") if isinstance(actions, dict) else None
            if isinstance(names, list) and len(names) == len(unknown):
                return [name[:40] if isinstance(name, str) else None for name in names]
            return unknown
    return unknown


def idle_action(world: World, shown: UInt8[np.ndarray, "N T H W 3"], names: list[str | None]) -> int:
    """Of the actions that stand for doing nothing, or of all, the one most often inferred in the scenes."""
    counts = np.zeros(world.n_actions, np.int64)
    if shown.shape[1] > 1:
        counts = np.bincount(world.infer(shown).ravel(), minlength=world.n_actions)
    still = [code for code, name in enumerate(names) if (name or "").lower() in IDLE_NAMES]
    return max(still or range(world.n_actions), key=lambda code: counts[code])
