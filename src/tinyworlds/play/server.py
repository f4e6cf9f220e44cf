"""The web server of the browser player: the page, the WebSocket, and what is fetched beside it."""

import asyncio
import contextlib
import secrets
import tempfile
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from tinyworlds.play.engine import Engine
from tinyworlds.play.guard import Guard
from tinyworlds.play.keys import default_keys
from tinyworlds.play.loop import Loop, png
from tinyworlds.play.opening import Opening
from tinyworlds.play.player import Outbox, Player, Scene
from tinyworlds.play.protocol import BURST, RATE, Bounds, parse
from tinyworlds.play.recording import Recorder
from tinyworlds.play.session import REMEMBERED
from tinyworlds.play.uploads import MAX_BYTES, read_scene

PAGE = Path(__file__).parent / "page"
RECORDINGS = 16
"""The last so many are kept."""
TYPES = {"gif": "image/gif", "mp4": "video/mp4", "json": "application/json"}
PING = 5.0
"""Seconds between signs of life, and until one that is missing ends the connection."""
LARGEST = 2**16
"""Bytes of a message that is still read, if only to say that it is too long."""


class Server:
    """Everything that is asked for over HTTP and WebSockets, as `app`.

    `local`: only pages that this machine served itself may ask.
    """

    def __init__(self, opening: Opening, *, max_players: int, local: bool) -> None:
        self.opening = opening
        self.dynamics = opening.world.dynamics
        self.loop = Loop(Engine(self.dynamics), max_players=max_players)
        self.scenes = [Scene(picture=frames[-1], tokens=self.loop.engine.tokenize(frames)) for frames in opening.scenes]
        self._uploading = asyncio.Semaphore(1)
        self._recordings: deque[str] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        routes = [
            Route("/", lambda _: FileResponse(PAGE / "index.html")),
            Route("/healthz", lambda _: JSONResponse({"players": len(self.loop.players)})),
            Route("/scene", self.add_scene, methods=["POST"]),
            Route("/scenes/{number:int}.png", self.scene_picture),
            Route("/recordings/{name}.{kind}", self.recording),
            WebSocketRoute("/play", self.play),
            Mount("/", StaticFiles(directory=PAGE)),
        ]
        self.app = Guard(Starlette(routes=routes, lifespan=self._running), local=local)

    @contextlib.asynccontextmanager
    async def _running(self, _: Starlette) -> AsyncIterator[None]:
        with tempfile.TemporaryDirectory(prefix="tinyworlds-") as folder:
            self._folder = Path(folder)
            self.running = asyncio.create_task(self.loop.run())
            yield
            self.running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.running

    async def play(self, socket: WebSocket) -> None:
        """One player's WebSocket."""
        await socket.accept()
        player = self.loop.players.get(socket.query_params.get("resume", ""))
        resumed = player is not None
        if player is None:
            player = self._new_player()
            if not self.loop.admit(player):
                await socket.send_json({"type": "full", "message": f"all {self.loop.max_players} places are taken"})
                await socket.close(1013)
                return
        outbox = player.connect()
        player.send(self._hello(player, resumed=resumed))
        player.send(player.state())
        self.loop.wake.set()
        tasks = [asyncio.create_task(self._send(socket, outbox)), asyncio.create_task(self._receive(socket, player))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            player.disconnect(outbox)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close()

    def _new_player(self) -> Player:
        return Player(
            self.scenes,
            self.opening.settings,
            idle=self.opening.idle,
            context=self.dynamics.context_length,
            deliver=self._deliver,
        )

    def _hello(self, player: Player, *, resumed: bool) -> dict[str, Any]:
        opening, tokenizer, own = self.opening, self.dynamics.video_tokenizer, self.dynamics.decoding
        keys = default_keys(opening.names, idle=opening.idle)
        return {
            "type": "hello",
            "key": player.key,
            "resumed": resumed,
            "world": str(self.dynamics.dataset["name"]),
            "size": list(self.dynamics.frame_size),
            "actions": [{"code": n, "name": name, "keys": keys[n]} for n, name in enumerate(opening.names)],
            "idle": opening.idle,
            "scenes": len(player.scenes),
            "grid": list(tokenizer.grid),
            "levels": {"bins": tokenizer.quantizer.num_bins, "dimensions": tokenizer.quantizer.latent_dim},
            "context": self.dynamics.context_length,
            "remembered": REMEMBERED,
            "limits": self._bounds(player).limits,
            "own": {"temperature": own.temperature, "steps": own.steps},
            "settings": player.session.settings.plain(),
        }

    def _bounds(self, player: Player) -> Bounds:
        return Bounds.of(self.dynamics, scenes=len(player.scenes))

    async def _send(self, socket: WebSocket, outbox: Outbox) -> None:
        while (message := await outbox.get()) is not None:
            await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))

    async def _receive(self, socket: WebSocket, player: Player) -> None:
        allowance, last = float(BURST), time.monotonic()
        while (event := await socket.receive())["type"] != "websocket.disconnect":
            now = time.monotonic()
            allowance, last = min(allowance + RATE * (now - last), BURST) - 1, now
            if allowance < 0:
                await socket.close(1008, "too many messages")
                return
            try:
                self._obey(player, event.get("text") or event.get("bytes") or "")
            except ValueError as error:
                player.send({"type": "error", "message": str(error)})
            self.loop.wake.set()
            await asyncio.sleep(0)  # receiving what came already waits for nothing, and others are to be heard too

    def _obey(self, player: Player, text: str | bytes) -> None:
        kind, values = parse(text, self._bounds(player))
        if kind == "preview":
            self.loop.preview(player)
        else:
            getattr(player, kind)(**values)
        if kind in ("settings", "reset"):
            player.send({"type": "settings", **player.session.settings.plain()})
        if kind not in ("hold", "ack", "preview"):
            player.send(player.state())

    def _deliver(self, player: Player, recorder: Recorder) -> None:
        """Write what was recorded, and say so, while the games go on."""
        task = asyncio.create_task(self._write(player, recorder))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, player: Player, recorder: Recorder) -> None:
        name = secrets.token_urlsafe(12)
        try:
            await asyncio.to_thread(recorder.write, self._folder, name, self.dynamics)
        except Exception:  # such as a full disk: the player is to hear of it
            traceback.print_exc()
            player.send({"type": "error", "message": "the recording could not be written; the terminal says more"})
            return
        finally:
            player.writing = False
        self._recordings.append(name)
        if len(self._recordings) > RECORDINGS:
            oldest = self._recordings.popleft()
            for kind in TYPES:
                (self._folder / f"{oldest}.{kind}").unlink(missing_ok=True)
        about = {"id": name, "frames": len(recorder.pictures), "fps": recorder.fps}
        player.send({"type": "recorded", **about})

    async def recording(self, request: Request) -> Response:
        """A film or the log of a recording."""
        name, kind = request.path_params["name"], request.path_params["kind"]
        path = self._folder / f"{name}.{kind}"
        if name not in self._recordings or kind not in TYPES or not path.is_file():
            return JSONResponse({"error": "there is no such recording, or no longer"}, 404)
        return FileResponse(path, media_type=TYPES[kind], filename=f"{self.dynamics.dataset['name']}.{kind}")

    async def scene_picture(self, request: Request) -> Response:
        """The last frame of a starting scene."""
        number, player = request.path_params["number"], self._whose(request)
        scenes = self.scenes if player is None else player.scenes
        if number >= len(scenes):
            return JSONResponse({"error": f"there are scenes 0 to {len(scenes) - 1}"}, 404)
        return Response(png(scenes[number].picture), media_type="image/png")

    async def add_scene(self, request: Request) -> Response:
        """Take a picture or a film as a starting scene of one player."""
        player = self._whose(request)
        if player is None:
            return JSONResponse({"error": "whose scene is it? The address lacks the key of a game"}, 403)
        try:
            player.check_room()
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 409)
        player.uploading = True
        try:
            return await self._upload(request, player)
        finally:
            player.uploading = False

    async def _upload(self, request: Request, player: Player) -> Response:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MAX_BYTES:
                return JSONResponse({"error": f"a scene has at most {MAX_BYTES // 10**6} MB"}, 413)
        size, count = self.dynamics.frame_size, self.dynamics.context_length
        try:
            async with self._uploading:
                frames = await asyncio.to_thread(read_scene, bytes(content), size=size, count=count)
        except ValueError as error:
            return JSONResponse({"error": str(error)}, 400)
        tokens = await self.loop.compute(partial(self.loop.engine.tokenize, frames))
        number = player.add_scene(Scene(picture=frames[-1], tokens=tokens))
        player.send(player.state())
        return JSONResponse({"scene": number})

    def _whose(self, request: Request) -> Player | None:
        return self.loop.players.get(request.query_params.get("key", ""))


def web_server(server: Server, *, port: int = 0) -> uvicorn.Server:
    """What runs a `server`, on a socket that it is given or on a port of this machine."""
    settings = uvicorn.Config(
        server.app,
        port=port,
        log_level="warning",
        ws_ping_interval=PING,
        ws_ping_timeout=PING,
        ws_max_size=LARGEST,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(settings)
