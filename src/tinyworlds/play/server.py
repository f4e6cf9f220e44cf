"""The web server of the browser player: the page, the WebSocket, and what is fetched beside it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from tinyworlds.play.engine import Engine
from tinyworlds.play.loop import Loop, png
from tinyworlds.play.player import Player
from tinyworlds.play.protocol import BURST, RATE, Bounds, parse
from tinyworlds.play.session import Settings
from tinyworlds.world import World

PAGE = Path(__file__).parent / "page"


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What a world is opened with: its name, scenes (T, H, W, 3) to begin from, names of actions, idle action."""

    name: str
    scenes: list[np.ndarray]
    names: list[str | None]
    idle: int
    fps: float
    max_players: int


class Server:
    """Everything that is asked for over HTTP and WebSockets."""

    def __init__(self, world: World, opening: Opening) -> None:
        self.world, self.opening = world, opening
        self.engine = Engine(world)
        self.loop = Loop(self.engine, max_players=opening.max_players)
        self.scenes = [self.engine.tokenize(frames) for frames in opening.scenes]
        self.settings = Settings(
            seed=world.seed, decoding=world.decoding, horizon=world.horizon, fps=float(opening.fps)
        )
        routes = [
            Route("/", self.page),
            Route("/healthz", self.health),
            Route("/scenes/{scene:int}.png", self.scene),
            WebSocketRoute("/play", self.play),
            Mount("/", StaticFiles(directory=PAGE)),
        ]
        self.app = Starlette(routes=routes, lifespan=self._running)

    @contextlib.asynccontextmanager
    async def _running(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self.loop.run())
        task.add_done_callback(_loudly)
        yield
        task.cancel()

    async def page(self, request: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    async def health(self, request: Request) -> Response:
        return JSONResponse({"players": len(self.loop.players)})

    async def scene(self, request: Request) -> Response:
        number = request.path_params["scene"]
        if number >= len(self.opening.scenes):
            return Response("no such scene", 404)
        return Response(png(self.opening.scenes[number][-1]), media_type="image/png")

    async def play(self, socket: WebSocket) -> None:
        if not same_origin(socket):
            await socket.close(1008)
            return
        await socket.accept()
        player = self.loop.players.get(socket.query_params.get("resume", ""))
        resumed = player is not None
        if player is None:
            player = Player(
                self.scenes, self.settings, idle=self.opening.idle, context=self.world.context_length
            )
            if not self.loop.admit(player):
                await socket.send_json({"type": "full", "message": "all places are taken; try again later"})
                await socket.close(1013)
                return
        outbox = player.connect()
        player.send(self.hello(player, resumed=resumed))
        player.send(player.state())
        self.loop.wake.set()
        tasks = [asyncio.create_task(self._send(socket, outbox)), asyncio.create_task(self._receive(socket, player))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            player.disconnect(outbox)
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close()

    def hello(self, player: Player, *, resumed: bool) -> dict[str, Any]:
        dynamics = self.world.dynamics
        own = dynamics.decoding
        return {
            "type": "hello",
            "key": player.key,
            "resumed": resumed,
            "world": self.opening.name,
            "size": list(self.world.frame_size),
            "actions": [{"code": code, "name": name} for code, name in enumerate(self.opening.names)],
            "idle": player.idle,
            "scenes": len(player.scenes),
            "scene": player.scene,
            "grid": list(dynamics.video_tokenizer.grid),
            "vocabulary": dynamics.video_tokenizer.vocabulary,
            "context": dynamics.context_length,
            "paused": player.paused,
            "settings": player.session.settings.plain(),
            "limits": self.bounds(player).limits,
            "own": {"temperature": own.temperature, "steps": own.steps},
        }

    def bounds(self, player: Player) -> Bounds:
        return Bounds(
            actions=self.world.n_actions, scenes=len(player.scenes), horizon=self.world.context_length - 1
        )

    async def _send(self, socket: WebSocket, outbox: "asyncio.Queue[str | bytes | None]") -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            while (message := await outbox.get()) is not None:
                await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))

    async def _receive(self, socket: WebSocket, player: Player) -> None:
        allowance, last = float(BURST), time.monotonic()
        while True:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            now = time.monotonic()
            allowance, last = min(allowance + RATE * (now - last), BURST) - 1, now
            if allowance < 0:
                await socket.close(1008, "too many messages")
                return
            try:
                self._obey(player, event.get("text", event.get("bytes")))
            except ValueError as error:
                player.send({"type": "error", "message": str(error)})
            self.loop.wake.set()

    def _obey(self, player: Player, text: str | bytes | None) -> None:
        kind, values = parse(text or "", self.bounds(player))
        match kind:
            case "settings":
                player.change(**values)
                player.send({"type": "settings", **player.session.settings.plain()})
            case "inside":
                player.look_inside(**values)
            case "record" | "preview":
                raise ValueError(f"{kind}: not yet")
            case _:
                getattr(player, kind)(**values)
        if kind not in ("hold", "ack"):
            player.send(player.state())


def same_origin(socket: WebSocket) -> bool:
    """Whether a page of this server asks, or no page at all."""
    origin = socket.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == socket.headers.get("host")


def _loudly(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


def serve(world: World, opening: Opening, *, host: str, port: int) -> None:
    """Serve until Ctrl-C."""
    server = Server(world, opening)
    print(f"play at http://{host}:{port}", flush=True)
    uvicorn.run(server.app, host=host, port=port, log_level="warning", ws_ping_interval=5, ws_ping_timeout=5)
