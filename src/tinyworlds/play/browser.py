"""``python play.py``: a world in the browser."""

import errno
import os
import socket
import sys
import webbrowser

from omegaconf import DictConfig

from tinyworlds.data.settings import check_whole
from tinyworlds.play.opening import open_to_play
from tinyworlds.play.recording import MAX_BATCH

MISSING = "mode=browser needs {}: install it with `pip install -e '.[play]'`, or play with mode=terminal"


def play(config: DictConfig) -> None:
    """Serve until Ctrl-C."""
    check_whole("port", config.port, at_least=0)
    check_whole("max_players", config.max_players, at_least=1)
    if config.max_players > MAX_BATCH:
        raise ValueError(f"max_players={config.max_players}: at most {MAX_BATCH} can share a step")
    try:
        from tinyworlds.play.guard import LOCAL
        from tinyworlds.play.server import Server, web_server
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("uvicorn", "starlette", "websockets"):
            raise
        raise ValueError(MISSING.format(package)) from None
    with listen(config.host, config.port) as listening:
        server = Server(open_to_play(config), max_players=config.max_players, local=config.host in LOCAL)
        web = web_server(server)
        address = f"http://{shown(config.host)}:{listening.getsockname()[1]}"
        print(f"play at {address} · Ctrl-C ends it", flush=True)
        if sys.stdin.isatty() and _has_display():
            webbrowser.open(address)
        try:
            web.run([listening])
        except KeyboardInterrupt:
            print("the end", flush=True)
            os._exit(0)  # a step that is under way in the other thread may take long, and nobody waits for it


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for players.

    Raises:
        ValueError: the port is taken, or the address is none of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in str(host) else socket.AF_INET)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ValueError(f"port={port} is taken: choose another with port=, or 0 for any that is free") from None
        raise ValueError(f"host={host} port={port} cannot be listened at: {error}") from None


def shown(host: str) -> str:
    """A host as a browser on this machine wants it."""
    return "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
