"""Uploads of pictures and films over real sockets."""

import socket
import urllib.parse
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tinyworlds.media import save_mp4

from .client import fetched, post


def png(height: int, width: int) -> bytes:
    buffer = BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_or_a_film_becomes_a_scene(served, player, tmp_path):
    key = player.hello["key"]
    save_mp4(tmp_path / "film.mp4", np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), np.uint8), 15)
    player.pause()
    for number, content in enumerate((png(40, 40), (tmp_path / "film.mp4").read_bytes()), start=3):
        assert post(f"{served}/scene?key={key}", content) == (200, {"scene": number})
        assert fetched(f"{served}/scenes/{number}.png?key={key}")[0] == 200
        player.reset(number)
        player.steps(1)
    assert fetched(f"{served}/scenes/3.png")[0] == 404, "it is that player's alone"


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x89PNG\r\n\x1a\n garbage", b"#EXTM3U\nfile:///etc/passwd\n"])
def test_what_is_no_picture_is_refused(served, player, content):
    status, answer = post(f"{served}/scene?key={player.hello['key']}", content)
    assert status == 400
    assert set(answer) == {"error"}
    player.frames(1)


def test_uploads_are_bounded_and_need_a_game(served, player, monkeypatch):
    assert post(f"{served}/scene", png(8, 8))[0] == 403
    status, answer = post(f"{served}/scene?key={player.hello['key']}", bytes(17 * 10**6))
    assert (status, answer) == (413, {"error": "a scene has at most 16 MB"})
    for _ in range(8):
        assert post(f"{served}/scene?key={player.hello['key']}", png(8, 8))[0] == 200
    answer = post(f"{served}/scene?key={player.hello['key']}", b"garbage")[1]
    assert "at most 8" in answer["error"], "said before anything is decoded"


def test_a_player_uploads_one_scene_at_a_time(served, player):
    path, content = f"/scene?key={player.hello['key']}", png(8, 8)
    address = urllib.parse.urlsplit(served)
    with socket.create_connection((address.hostname, address.port), timeout=10) as slow:
        head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: {len(content)}\r\n"
        slow.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert b"100 Continue" in slow.recv(1000)
        assert post(served + path, content)[0] == 409
        slow.sendall(content)
        assert b"200 OK" in slow.recv(1000)
    assert post(served + path, content) == (200, {"scene": 4})
