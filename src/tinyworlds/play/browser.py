"""``python play.py``: the world in the browser."""

from pathlib import Path

from omegaconf import DictConfig

from tinyworlds.data.settings import check_imagining, check_number, check_whole
from tinyworlds.play.opening import action_names, open_world, starting_scenes
from tinyworlds.play.server import Opening, serve


def play(config: DictConfig) -> None:
    """Serve until Ctrl-C."""
    check_imagining(clips=1, seed=config.seed, steps=config.steps, temperature=config.temperature)
    check_whole("port", config.port, at_least=0)
    check_whole("max_players", config.max_players, at_least=1)
    check_number("fps", config.fps, at_least=1, at_most=60)
    ckpt, world = open_world(config)
    names = action_names(world)
    idle = config.idle
    if idle is None:
        idle = next((code for code, name in enumerate(names) if name in ("noop", "none")), 0)
    opening = Opening(
        name=str(world.dynamics.dataset["name"]),
        scenes=starting_scenes(world, store=config.store),
        names=names,
        idle=idle,
        fps=config.fps,
        max_players=config.max_players,
    )
    serve(world, opening, host=config.host, port=config.port)
