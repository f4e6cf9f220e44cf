"""Opening a world to play: its weights, frames to begin from, and what its actions mean."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from tinyworlds.checkpoints import newest
from tinyworlds.data.settings import check_whole
from tinyworlds.json_files import read_object
from tinyworlds.play import rollout
from tinyworlds.world import World

SCENES = 12


def open_world(config: DictConfig) -> tuple[str | Path, World]:
    """The world that a config of play names, and where it is."""
    check_whole("horizon", config.horizon, at_least=1)
    ckpt = config.ckpt or newest(config.runs_dir, config.dataset, "dynamics")
    world = World.load(
        ckpt,
        horizon=config.horizon,
        seed=config.seed,
        steps=config.steps,
        temperature=config.temperature,
        device=config.device,
    )
    if config.compile:
        world.dynamics.compile_parts()
    print(f"world: {ckpt} · {world.n_actions} actions · sees {world.context_length} frames", flush=True)
    return ckpt, world


def starting_scenes(world: World, *, store: str | None) -> list[np.ndarray]:
    """Frames to begin from."""
    data = rollout.held_out(world, store=store)
    return list(data.held_out_clips(count=SCENES, length=world.context_length, seed=0))


def action_names(world: World) -> list[str | None]:
    """What each action means, as the evaluation found; None where it does not know."""
    unknown: list[str | None] = [None] * world.n_actions
    for name in ("evaluation/metrics.json", "metrics.json"):
        if world.folder is not None and (world.folder / name).is_file():
            found = read_object(world.folder / name, "result of an evaluation").get("actions", {}).get("names")
            return found if isinstance(found, list) and len(found) == len(unknown) else unknown
    return unknown
