"""The loop in which all games go on: whoever is due shares a batch."""

import asyncio
import json
import struct
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from itertools import groupby, repeat
from typing import TypeVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from tinyworlds.play.engine import Engine, Inside, Result
from tinyworlds.play.player import Picture, Player, Turn
from tinyworlds.play.session import Session

KEPT = 30.0
"""Seconds for which the game of a player whose connection broke is kept."""
PREVIEW_FRAMES = 8
FAILED = {"type": "error", "message": "the world failed at this step; its terminal says more"}

T = TypeVar("T")


@dataclass
class Preview:
    """A game for each action, and the frames that holding it has given."""

    player: Player
    games: list[Session]
    frames: list[UInt8[np.ndarray, "actions h H W 3"]] = field(default_factory=list)


class Loop:
    """Players, and the one thread that computes for them."""

    def __init__(self, engine: Engine, *, max_players: int) -> None:
        self.engine, self.max_players = engine, max_players
        self.players: dict[str, Player] = {}
        self.wake = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="world")
        self._previews: deque[Preview] = deque()
        self._step_seconds = 0.0

    def admit(self, player: Player) -> bool:
        """Give a player a place, one that was left if there is no other; False: all are taken."""
        if len(self.players) >= self.max_players:
            gone = [other for other in self.players.values() if other.outbox is None]
            if not gone:
                return False
            del self.players[min(gone, key=lambda other: other.left).key]
        self.players[player.key] = player
        return True

    def preview(self, player: Player) -> None:
        """Begin to imagine what each action does."""
        games = player.preview(self.engine.dynamics.action_tokenizer.n_actions)
        self._previews.append(Preview(player, games))

    async def compute(self, task: Callable[[], T]) -> T:
        """What `task` returns, from the thread that computes."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, task)

    async def run(self) -> None:
        """Go on until cancelled."""
        clock = asyncio.create_task(self._every_second())
        try:
            while True:
                await self._round()
        finally:
            clock.cancel()
            self._worker.shutdown(wait=False, cancel_futures=True)

    async def _round(self) -> None:
        """Everybody who is due gets a frame; or wait until somebody is."""
        now = time.monotonic()
        waits = {player: wait for player in self.players.values() if (wait := player.due(now)) is not None}
        due = [player for player, wait in waits.items() if wait <= 0]
        turns = [turn for player in due if (turn := player.turn()) is not None]
        for _, group in groupby(sorted(turns, key=_kind), key=_kind):
            await self._take(list(group))
        if self._previews:
            await self._preview(self._previews.popleft())
        elif due:
            await asyncio.sleep(0)
        else:
            await self._wait(min(waits.values(), default=None))

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            return
        self.wake.clear()

    async def _take(self, turns: Sequence[Turn]) -> None:
        """Compute turns that are alike, and send what came of them."""
        begun = time.monotonic()
        requests = [turn.request for turn in turns]
        try:
            made = await self.compute(
                lambda: [(result, pictures(result, self.engine.grid)) for result in self.engine.run(requests)]
            )
        except Exception:  # such as too little memory for what one of them asked: the others are to go on
            if len(turns) > 1:
                for turn in turns:
                    await self._take([turn])
                return
            traceback.print_exc()
            turns[0].player.pause(on=True)
            turns[0].player.send(FAILED)
            return
        self._step_seconds = time.monotonic() - begun
        for turn, (result, shown) in zip(turns, made, strict=True):
            turn.player.take(turn, result, shown)

    async def _preview(self, preview: Preview) -> None:
        """One step of a preview; others may be due before the next."""
        context = self.engine.dynamics.context_length
        requests = [game.request(action, context=context, watched=False) for action, game in enumerate(preview.games)]
        try:
            results = await self.compute(lambda: self.engine.run(requests))
        except Exception:  # see _take
            traceback.print_exc()
            preview.player.previewing = False
            preview.player.send(FAILED)
            return
        for action, (game, result) in enumerate(zip(preview.games, results, strict=True)):
            game.extend(result.tokens, action)
        preview.frames.append(np.stack([result.frames for result in results]))
        if sum(part.shape[1] for part in preview.frames) < PREVIEW_FRAMES:
            self._previews.append(preview)
            return
        films = np.concatenate(preview.frames, axis=1)[:, :PREVIEW_FRAMES]
        preview.player.show_preview(png(np.concatenate(np.concatenate(films, axis=2), axis=0)))

    async def _every_second(self) -> None:
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            here = [player for player in self.players.values() if player.outbox is not None]
            shared = {"step_ms": round(1000 * self._step_seconds, 1), "players": len(here)}
            for player in here:
                player.send({"type": "status", **player.status(now), **shared})
                player.send(player.state())
            for key, player in list(self.players.items()):
                if player.outbox is None and now - player.left > KEPT:
                    del self.players[key]


def _kind(turn: Turn) -> str:
    return repr(turn.request.alike)


def pictures(result: Result, grid: tuple[int, int]) -> list[Picture]:
    """A result as it is sent."""
    insides = [inside_bytes(inside, grid) for inside in result.inside] if result.inside else repeat(None)
    return [Picture(png(frame), inside) for frame, inside in zip(result.frames, insides, strict=False)]


def png(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture as it is sent.

    Of frames of 64x64, on one core: PNG as here takes 0.1 to 3 ms and 0.3 to 8 kB; lossless WebP 0.1 to 3 ms and 0.3 to
    7 kB. JPEG (quality 95) takes 0.1 ms, but is wrong by up to 50 levels where a ball is a single pixel.
    """
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def inside_bytes(inside: Inside, grid: tuple[int, int]) -> bytes:
    """The content of an ``INSIDE``, as `protocol` has it."""
    steps = [
        {"tokens": tokens.tolist(), "hidden": hidden.astype(int).tolist(), "confidence": rounded(sure)}
        for tokens, hidden, sure in zip(inside.tokens, inside.hidden, inside.confidence, strict=True)
    ]
    about = {
        "grid": grid,
        "steps": steps,
        "tokens": inside.final.tolist(),
        "again": inside.again.tolist(),
        "rivals": inside.rivals.tolist(),
        "odds": [rounded(odds) for odds in inside.odds],
    }
    text = json.dumps(about, separators=(",", ":")).encode()
    return struct.pack("<I", len(text)) + text + png(np.concatenate([*inside.pictures, inside.alone], axis=1))


def rounded(probabilities: Float[np.ndarray, " n"]) -> list[float]:
    """As many digits as can be seen."""
    return [round(probability, 4) for probability in probabilities.tolist()]
