"""A world that is served for tests, as `play.py` serves one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import uvicorn

from tinyworlds import World
from tinyworlds.play.opening import Opening
from tinyworlds.play.server import Server
from tinyworlds.play.session import Settings

PLAYERS = 3


@contextmanager
def serving(opening: Opening, port: int = 0) -> Iterator[str]:
    """Serve a world from another thread, on a free port or this one, until the end of the block; its address."""
    server = Server(opening, max_players=PLAYERS, local=True)
    web = uvicorn.Server(uvicorn.Config(server.app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=web.run)
    thread.start()
    try:
        while not web.started and thread.is_alive():
            thread.join(0.01)
        yield f"http://127.0.0.1:{web.servers[0].sockets[0].getsockname()[1]}"
    finally:
        web.should_exit = True
        thread.join()


@pytest.fixture
def opening(dynamics) -> Opening:
    """A world with three scenes of noise and four actions, of which three have names."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 24, 3), dtype=np.uint8)
    settings = Settings(seed=0, decoding=dynamics.decoding, horizon=1, fps=30.0)
    names = ["noop", "up", "turn_left", None]
    return Opening(world=World(dynamics), scenes=frames, names=names, idle=0, settings=settings)


@pytest.fixture
def served(opening) -> Iterator[str]:
    """The address of that world."""
    with serving(opening) as url:
        yield url
