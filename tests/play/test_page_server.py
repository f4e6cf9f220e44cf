"""The page in a real browser, against the real server: files both ways, and connections that come and go."""

import re
from contextlib import ExitStack
from io import BytesIO
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import WebSocketRoute, expect

from tinyworlds.media import save_mp4
from tinyworlds.play.recording import read_log, replay

from .conftest import PLAYERS, serving
from .playing import Player, pixels


def upload(player: Player, name: str, content: bytes) -> None:
    player.page.set_input_files("#upload", {"name": name, "mimeType": "application/octet-stream", "buffer": content})


def png(color: tuple[int, int, int]) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (90, 60), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.slow
def test_the_world_goes_on_from_a_picture_and_a_clip(served, join, tmp_path):
    player = join(served)
    player.pause()
    scene = player.press("#reset")
    before = player.frame
    upload(player, "red.png", png((250, 20, 20)))
    player.wait_for_frame(before, "again")
    expect(player.page.locator("#notice")).to_have_text("The world goes on from red.png.")
    expect(player.page.locator('[data-scene="3"]')).to_have_attribute("aria-pressed", "true")
    red, before = player.picture, player.frame
    save_mp4(tmp_path / "clip.mp4", np.random.default_rng(1).integers(0, 256, (6, 32, 48, 3), dtype=np.uint8), 10)
    upload(player, "clip.mp4", (tmp_path / "clip.mp4").read_bytes())
    player.wait_for_frame(before, "again")
    assert len({scene, red, player.picture}) == 3


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"GIF89a of a kind", bytes(1000)], ids=["half a picture", "zeros"])
def test_garbage_is_refused_in_a_sentence_and_play_goes_on(served, join, content):
    player = join(served, complains=True)  # browsers write refusals to the console themselves
    upload(player, "garbage.gif", content)
    expect(player.page.locator("#notice")).to_contain_text("garbage.gif was not taken: ")
    assert player.page.locator("#scenes button").count() == 3
    player.wait_for_frame(player.frame + 2, "frame")
    assert all("status of 400" in complaint for complaint in player.complaints)


@pytest.mark.slow
def test_a_recording_replays_to_the_same_frames(served, join, dynamics, tmp_path):
    player = join(served)
    player.pause()
    player.press("#reset")
    shown = [player.press("#record")]
    shown += player.steps("ArrowUp", 3) + player.steps("ArrowLeft", 2) + [player.press("#back")] + player.steps("3", 2)
    player.page.click("#record")
    saved = {}
    for kind in ("actions", "GIF", "MP4"):
        with player.page.expect_download() as download:
            player.page.locator("#recordings a", has_text=kind).click()
        saved[kind] = tmp_path / kind
        download.value.save_as(saved[kind])
    frames = replay(read_log(saved["actions"], dynamics), dynamics)
    assert len(frames) == len(shown)
    for picture, frame in zip(shown, frames, strict=True):
        scale = len(pixels(picture)) // 16
        assert np.array_equal(pixels(picture)[scale // 2 :: scale, scale // 2 :: scale], frame)
    assert Image.open(saved["GIF"]).n_frames == len(shown)
    with av.open(saved["MP4"]) as film:
        assert sum(1 for _ in film.decode(video=0)) == len(shown)


@pytest.mark.slow
def test_a_lost_connection_comes_back_to_the_same_world(served, join):
    player = join(served)
    sockets = []

    def pass_on(socket: WebSocketRoute) -> None:
        sockets.extend([socket, socket.connect_to_server()])

    player.page.route_web_socket(re.compile("/play"), pass_on)
    player.page.reload()
    player.wait_for_link()
    player.pause()
    player.press("#reset")
    picture, before = player.steps("ArrowUp", 3)[-1], player.frame
    for socket in sockets[:2]:
        socket.close()
    player.wait_for_frame(before, "again")
    assert len(sockets) == 4
    assert player.picture == picture
    expect(player.page.locator("#timeline")).to_have_js_property("max", "3")


@pytest.mark.slow
def test_a_server_that_was_started_anew_is_found_again(opening, join):
    with ExitStack() as first:
        url = first.enter_context(serving(opening))
        player = join(url, complains=True)
        player.page.locator("#set-temperature").fill("0.5")
        player.page.click('[data-scene="2"]')
        expect(player.page.locator('[data-scene="2"]')).to_have_attribute("aria-pressed", "true")
        first.close()
        expect(player.page.locator("#curtain-text")).to_contain_text("connection is lost")
    with serving(opening, urlsplit(url).port):
        expect(player.page.locator("#link")).to_have_text("connected")
        expect(player.page.locator("#curtain")).to_be_hidden()
        expect(player.page.locator('[data-scene="2"]')).to_have_attribute("aria-pressed", "true")
        expect(player.page.locator("#set-temperature")).to_have_value("0.5")
        player.wait_for_frame(player.frame + 2, "frame")


@pytest.mark.slow
def test_one_too_many_is_told_and_let_in_when_there_is_a_place(served, join):
    players = [join(served) for _ in range(PLAYERS)]
    for player in players:
        player.pause()
    late = join(served, wait=False)
    expect(late.page.locator("#curtain-text")).to_contain_text(f"all {PLAYERS} places are taken")
    players[0].page.close()
    late.page.get_by_role("button", name="Try again now").click()
    late.wait_for_link()


@pytest.mark.slow
def test_a_page_of_which_a_part_does_not_come_says_so(served, browser):
    page = browser.new_page()
    page.route("**/pictures.js", lambda route: route.abort())
    page.goto(served)
    expect(page.locator("#curtain-text")).to_contain_text("a part of the page did not come")
    expect(page.locator("#curtain")).to_be_visible()
    page.close()
