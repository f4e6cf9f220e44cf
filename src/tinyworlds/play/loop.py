"""The loop in which all games go on: whoever is due shares a batch."""

import asyncio
import json
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import groupby

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from tinyworlds.play.engine import Engine, Inside, Result
from tinyworlds.play.player import Player, Turn
from tinyworlds.play.session import Request

KEPT = 30.0
"""Seconds that the game of a player whose connection broke is kept."""


class Loop:
    """Players and the one thread that computes for them."""

    def __init__(self, engine: Engine, *, max_players: int) -> None:
        self.engine, self.max_players = engine, max_players
        self.players: dict[str, Player] = {}
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="world")
        self.wake = asyncio.Event()
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

    async def run(self) -> None:
        """Go on until cancelled."""
        statuses = asyncio.create_task(self._every_second())
        try:
            while True:
                now = time.monotonic()
                waits = {key: player.due(now) for key, player in self.players.items()}
                turns = [turn for key, wait in waits.items() if wait == 0 and (turn := self.players[key].turn())]
                if turns:
                    await self._take(turns)
                    continue
                later = [wait for wait in waits.values() if wait]
                await self._wait(min(later) if later else None)
        finally:
            statuses.cancel()
            self.worker.shutdown(wait=False, cancel_futures=True)

    async def _wait(self, seconds: float | None) -> None:
        if seconds is not None and seconds < 0.001:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            pass
        self.wake.clear()

    async def _take(self, turns: Sequence[Turn]) -> None:
        """Compute what is due, alike requests together, and send it."""
        by_kind = sorted(turns, key=lambda turn: repr(turn.request.alike))
        for _, group in groupby(by_kind, key=lambda turn: turn.request.alike):
            alike = list(group)
            requests = [turn.request for turn in alike]
            begun = time.monotonic()
            made = await asyncio.get_running_loop().run_in_executor(self.worker, self._make, requests)
            self._step_seconds = time.monotonic() - begun
            for turn, (result, pictures) in zip(alike, made, strict=True):
                turn.player.take(turn, result, pictures)

    def _make(self, requests: Sequence[Request]) -> list[tuple[Result, list[tuple[bytes, bytes | None]]]]:
        """In the worker: the results of requests, and what is sent of them."""
        made = []
        for result in self.engine.run(requests):
            insides = [inside_bytes(inside, self.engine.grid) for inside in result.inside] or [None] * len(result.frames)
            made.append((result, [(png(frame), inside) for frame, inside in zip(result.frames, insides, strict=True)]))
        return made

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


def png(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture to be sent."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def inside_bytes(inside: Inside, grid: tuple[int, int]) -> bytes:
    """What `protocol` says of an inside, after the header."""
    steps = [
        {"tokens": tokens.tolist(), "hidden": hidden.astype(int).tolist(), "confidence": confidence.round(3).tolist()}
        for tokens, hidden, confidence in zip(inside.tokens, inside.hidden, inside.confidence, strict=True)
    ]
    text = {"grid": grid, "steps": steps, "tokens": inside.final.tolist(), "again": inside.again.tolist()}
    content = json.dumps(text).encode()
    pictures = np.concatenate([*inside.pictures, inside.alone], axis=1)
    return struct.pack("<I", len(content)) + content + png(pictures)
