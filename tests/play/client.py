"""A player without a page."""

import json
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tinyworlds.play.protocol import Kind


class Frame:
    """A binary message."""

    def __init__(self, message: bytes) -> None:
        kind, self.number, self.action, self.milliseconds = struct.unpack("<4I", message[:16])
        self.kind, self.content = Kind(kind), message[16:]

    @property
    def pixels(self) -> np.ndarray:
        return np.asarray(Image.open(BytesIO(self.content)))


class Client:
    """Talks to a served world; frames are acknowledged as they come unless `slow`."""

    def __init__(self, socket: ClientConnection, *, slow: bool = False) -> None:
        self.socket, self.slow = socket, slow
        self.shown = False
        self.hello = self.until("hello")

    def say(self, kind: str, **values: Any) -> None:
        self.socket.send(json.dumps({"type": kind, **values}))

    def next(self, timeout: float = 10) -> dict[str, Any] | Frame:
        message = self.socket.recv(timeout=timeout)
        if isinstance(message, str):
            return json.loads(message)
        frame = Frame(message)
        self.shown = True
        if not self.slow and frame.kind in (Kind.FRAME, Kind.AGAIN):
            self.say("ack", frame=frame.number)
        return frame

    def until(self, kind: str | Kind) -> Any:
        """The next message of this type, others are passed over."""
        while True:
            message = self.next()
            if (message["type"] if isinstance(message, dict) else message.kind) == kind:
                return message

    def frames(self, count: int) -> list[Frame]:
        """The next so many imagined frames."""
        return [self.until(Kind.FRAME) for _ in range(count)]

    def pause(self) -> None:
        """Wait until nothing is on the way any more, not even the first frame."""
        if not self.shown:
            self.until(Kind.AGAIN)
        self.say("pause", on=True)
        while not self.until("state")["paused"]:
            pass

    def steps(self, count: int) -> list[Frame]:
        """So many single steps."""
        found = []
        for _ in range(count):
            self.say("step")
            found += self.frames(1)
        return found

    def reset(self, scene: int, **seed: int) -> Frame:
        self.say("reset", scene=scene, **seed)
        return self.until(Kind.AGAIN)


@contextmanager
def joined(url: str, *, resume: str = "", slow: bool = False, **options: Any) -> Iterator[Client]:
    """A player at the world that is served at `url`."""
    address = url.replace("http", "ws", 1) + "/play" + (f"?resume={resume}" if resume else "")
    with connect(address, **options) as socket:
        yield Client(socket, slow=slow)


def post(url: str, content: bytes, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(url, data=content, headers=headers, method="POST")
    return fetched(request)


def fetched(request: str | urllib.request.Request) -> tuple[int, Any]:
    """Status and content, JSON decoded."""
    try:
        with urllib.request.urlopen(request) as answer:
            content, status = answer.read(), answer.status
    except urllib.error.HTTPError as error:
        content, status = error.read(), error.code
    return status, json.loads(content) if content.startswith(b"{") else content
