"""A world that is served for tests, as `play.py` serves one, and a browser to play it in."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from playwright.sync_api import Browser, sync_playwright

from tinyworlds import World
from tinyworlds.play.opening import Opening
from tinyworlds.play.server import Server, web_server
from tinyworlds.play.session import Settings

from ..browser import MISSING, find
from .client import Client, joined
from .playing import Player

PLAYERS = 3


@contextmanager
def serving(opening: Opening, port: int = 0, *, max_players: int = PLAYERS) -> Iterator[str]:
    """Serve a world from another thread, on a free port or this one, until the end of the block; its address."""
    web = web_server(Server(opening, max_players=max_players, local=True), port=port)
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find()
    if path is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def join(browser) -> Iterator[Callable[..., Player]]:
    """Opens the page of a served world, in a window of its own; the console is to stay empty unless `complains`."""
    players = []
    with ExitStack() as stack:

        def join(url: str, *, complains: bool = False, wait: bool = True, **options) -> Player:
            context = stack.enter_context(
                browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            )
            player = Player(context.new_page(), url)
            if wait:
                player.wait_for_link()
            if not complains:
                players.append(player)
            return player

        yield join
    assert [player.complaints for player in players] == [[]] * len(players)


@pytest.fixture
def player(served) -> Iterator[Client]:
    with joined(served) as client:
        yield client
