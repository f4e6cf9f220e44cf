"""A world that is served for tests, as `play.py` serves one."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
import uvicorn

from tinyworlds import World
from tinyworlds.play.server import Opening, Server


@dataclass(frozen=True)
class Address:
    """Where a served world is."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(world: World, opening: Opening, port: int = 0) -> Iterator[Address]:
    """Serve a world from another thread, on a free port or this one, until the end of the block."""
    config = uvicorn.Config(Server(world, opening).app, port=port, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            thread.join(0.01)
        yield Address(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def opening() -> Opening:
    """Three scenes of noise, four actions of which three have names."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 24, 3), dtype=np.uint8)
    return Opening(
        name="noise", scenes=list(frames), names=["noop", "up", "turn_left", None], idle=0, fps=30, max_players=3
    )


@pytest.fixture
def serve(dynamics, opening) -> Iterator[Callable[..., Address]]:
    """Serves the world of `dynamics`, as `opening` or another says, until the test ends."""
    with ExitStack() as stack:
        yield lambda opening=opening, port=0: stack.enter_context(serving(World(dynamics), opening, port))
