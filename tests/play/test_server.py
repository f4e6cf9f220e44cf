"""The server as its players see it, over real sockets."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tinyworlds.play import loop, server
from tinyworlds.play.engine import Engine, Result
from tinyworlds.play.protocol import BURST, Kind
from tinyworlds.play.recording import frames_digest, read_log, replay
from tinyworlds.play.session import Request

from .client import fetched, joined, post
from .conftest import serving


def test_a_player_is_greeted_and_shown_the_scene_and_then_what_follows(player):
    hello = player.hello
    assert hello["size"] == [16, 24]
    assert [action["name"] for action in hello["actions"]] == ["noop", "up", "turn_left", None]
    assert (hello["idle"], hello["scenes"], hello["resumed"]) == (0, 3, False)
    first = player.until(Kind.AGAIN)
    assert first.pixels.shape == (16, 24, 3)
    following = player.frames(4)
    assert [frame.number for frame in following] == [first.number + n for n in range(1, 5)]
    assert {frame.action for frame in following} == {0}


def test_a_held_action_is_taken_until_it_is_let_go(player):
    player.say("hold", action=2)
    frame = next(frame for frame in iter(lambda: player.until(Kind.FRAME), None) if frame.action == 2)
    assert frame.milliseconds > 0
    assert {(frame.action, frame.milliseconds) for frame in player.frames(3)} == {(2, 0)}
    player.say("hold", action=None)
    assert any(frame.action == 0 for frame in player.frames(6))


@pytest.mark.slow
def test_nothing_moves_while_paused_but_by_single_steps(player):
    player.pause()
    player.until("status")  # of the next second
    before = player.until("state")["frames"]
    player.until("status")
    assert player.until("state")["frames"] == before
    player.steps(2)
    assert player.until("state")["frames"] == before + 2
    player.say("pause", on=False)
    player.frames(2)


def test_the_same_scene_seed_and_actions_give_the_same_frames(player):
    player.pause()

    player.say("settings", temperature=4)

    def play(scene: int, seed: int, action: int) -> bytes:
        player.say("hold", action=action)
        first = player.reset(scene, seed=seed)
        return b"".join(frame.pixels.tobytes() for frame in [first, *player.steps(3)])

    one = play(1, 7, 2)
    assert play(1, 7, 2) == one
    assert len({one, play(0, 7, 2), play(1, 8, 2), play(1, 7, 3)}) == 4


def test_rewinding_takes_steps_back_and_another_action_leads_elsewhere(player):
    player.pause()
    scene = player.reset(0)
    player.say("hold", action=1)
    steps = player.steps(4)
    player.say("rewind", frames=3)
    assert np.array_equal(player.until(Kind.AGAIN).pixels, steps[0].pixels)
    again = player.steps(2)
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(again, steps[1:], strict=False))
    player.say("rewind", frames=1)
    player.say("hold", action=2)
    player.until(Kind.AGAIN)
    assert not np.array_equal(player.steps(1)[0].pixels, steps[2].pixels)
    player.say("rewind", frames=1000)
    assert np.array_equal(player.until(Kind.AGAIN).pixels, scene.pixels)


def test_settings_change_how_frames_are_imagined(player):
    player.pause()

    def play(**changes: Any) -> bytes:
        player.say("settings", **changes)
        given = player.until("settings")
        assert all(given[name] == value for name, value in changes.items())
        player.reset(0)
        return b"".join(frame.pixels.tobytes() for frame in player.steps(4))

    plays = [play(seed=1), play(temperature=0.3), play(steps=1), play(horizon=3)]
    assert len(set(plays)) == 4


def test_a_frame_comes_with_how_it_was_decoded_when_that_is_wanted(player):
    player.pause()
    player.say("inside", on=True)
    looked = player.until(Kind.INSIDE)
    player.say("step")
    message = player.until(Kind.INSIDE)
    frame = player.until(Kind.FRAME)
    assert message.number == frame.number == looked.number + 1

    def parts(content: bytes) -> tuple[dict[str, Any], np.ndarray]:
        length = int.from_bytes(content[:4], "little")
        return json.loads(content[4 : 4 + length]), np.asarray(Image.open(BytesIO(content[4 + length :])))

    about, pictures = parts(message.content)
    assert about["grid"] == [2, 3]
    assert pictures.shape == (16, 24 * (len(about["steps"]) + 1), 3)
    assert np.array_equal(pictures[:, -48:-24], frame.pixels), "the last step shows the frame"
    assert about["steps"][-1]["tokens"] == about["tokens"]
    hidden = [sum(step["hidden"]) for step in about["steps"]]
    assert hidden == sorted(hidden, reverse=True)
    assert hidden[-1] == 0
    about, pictures = parts(looked.content)
    assert about["steps"] == []
    assert pictures.shape == (16, 24, 3)


def test_a_preview_shows_what_each_action_does(player):
    player.pause()
    player.reset(1)
    player.say("preview")
    preview = player.until(Kind.PREVIEW).pixels
    assert preview.shape == (loop.PREVIEW_FRAMES * 16, 4 * 24, 3)
    for action in (0, 3):
        player.say("hold", action=action)
        player.reset(1)
        column = preview[:, 24 * action : 24 * (action + 1)].reshape(-1, 16, 24, 3).astype(int)
        for tile, frame in zip(column, player.steps(2), strict=False):
            assert np.abs(tile - frame.pixels).max() <= 1  # in a batch sums are rounded otherwise


@pytest.mark.slow
def test_whoever_draws_slowly_gets_fewer_frames(served):
    with joined(served, slow=True) as player:
        frames = [player.until(Kind.AGAIN), player.until(Kind.FRAME)]
        texts = [player.next() for _ in range(4)]
        assert all(isinstance(text, dict) for text in texts), "no third frame before one is acknowledged"
        player.say("ack", frame=frames[0].number)
        assert player.until(Kind.FRAME).number == frames[1].number + 1


def test_eight_players_all_play_and_a_ninth_is_told(opening):
    with serving(opening, max_players=8) as url, ExitStack() as stack:
        players = [stack.enter_context(joined(url)) for _ in range(8)]
        for player in players:
            player.frames(1)
        counts = [0] * 8
        while min(counts) < 5:
            for index, player in enumerate(players):
                player.frames(1)
                counts[index] += 1
        with connect(url.replace("http", "ws") + "/play") as ninth:
            assert json.loads(ninth.recv()) == {"type": "full", "message": "all 8 places are taken"}
            with pytest.raises(ConnectionClosed):
                ninth.recv()
    assert counts == [5] * 8


def test_a_connection_that_broke_goes_on_with_its_game(served):
    with joined(served) as player:
        player.pause()
        player.reset(2)
        last = player.steps(3)[-1]
        key = player.hello["key"]
    with joined(served, resume=key) as player:
        assert player.hello["resumed"]
        state = player.until("state")
        assert (state["paused"], state["scene"], state["frames"]) == (True, 2, 3)
        assert np.array_equal(player.until(Kind.AGAIN).pixels, last.pixels)
    with joined(served, resume="unknown") as player:
        assert not player.hello["resumed"]


def test_a_vanished_player_frees_state_and_place(opening, monkeypatch):
    monkeypatch.setattr(loop, "KEPT", 0.5)
    with serving(opening, max_players=2) as url, joined(url) as other:
        with joined(url) as player:
            key = player.hello["key"]
        with joined(url) as successor:  # has the place at once
            assert successor.hello["key"] != key
        for _ in range(10):
            other.until("status")  # of the next second
            if fetched(f"{url}/healthz")[1]["players"] == 1:
                break
        assert fetched(f"{url}/healthz")[1]["players"] == 1


def test_a_flood_ends_the_connection_and_no_other(served, player):
    def flood() -> None:
        for _ in range(20 * BURST):
            flooder.say("step")
        while True:
            flooder.next()

    with joined(served) as flooder, pytest.raises(ConnectionClosed):
        flood()
    player.frames(3)


def test_pages_of_other_servers_are_refused(served):
    for headers in ({"Origin": "https://example.org"}, {"Origin": "null"}, {"Host": "example.org"}):
        host = {"additional_headers": headers} if "Host" not in headers else {}
        if host:
            with pytest.raises(InvalidStatus), joined(served, **host):
                pass
        assert post(f"{served}/scene?key=x", b"", **headers)[0] == 403
    with joined(served, additional_headers={"Origin": served}) as player:
        player.frames(1)


def test_what_was_recorded_beside_another_player_is_replayed_to_the_same_frames(served, player, opening, tmp_path):
    with joined(served) as other:
        player.say("record", on=True)
        player.frames(3)
        other.frames(3)
        player.say("hold", action=2)
        player.frames(3)
        player.say("settings", temperature=0.5, horizon=2)
        player.frames(4)
        player.say("rewind", frames=4)
        player.say("pause", on=False)
        player.frames(2)
        player.reset(1)
        player.frames(3)
        player.say("record", on=False)
        recorded = player.until("recorded")
    for kind, start in (("gif", b"GIF8"), ("mp4", b"\x00\x00\x00"), ("json", b"{")):
        content = urllib.request.urlopen(f"{served}/recordings/{recorded['id']}.{kind}").read()
        assert content.startswith(start)
    (tmp_path / "log.json").write_bytes(content)
    log = read_log(tmp_path / "log.json", opening.world.dynamics)
    frames = replay(log, opening.world.dynamics)
    assert len(frames) == recorded["frames"] == log["frames"] > 15
    assert frames_digest(frames) == log["sha256"]
    player.say("record", on=True)
    while not player.until("state")["recording"]:
        pass


def test_recordings_that_there_are_not(served, player):
    for name in ("x.gif", "..%2fx.json", "x.exe"):
        assert fetched(f"{served}/recordings/{name}")[0] == 404


@pytest.mark.parametrize("page", ["/", "/healthz", "/scenes/0.png"])
def test_pages_need_nothing_from_elsewhere(served, page):
    with urllib.request.urlopen(served + page) as answer:
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not Path("page").exists()


class Faulty(Engine):
    """Fails where a seed is 13."""

    def run(self, requests: Sequence[Request]) -> list[Result]:
        if any(request.settings.seed == 13 for request in requests):
            raise RuntimeError("too little memory")
        return super().run(requests)


def test_a_step_that_fails_is_told_to_who_asked_for_it_and_others_play_on(opening, monkeypatch):
    monkeypatch.setattr(server, "Engine", Faulty)
    with serving(opening) as url, joined(url) as unlucky, joined(url) as other:
        unlucky.pause()
        unlucky.say("settings", seed=13)
        assert "failed at this step" in unlucky.until("error")["message"]
        for _ in range(2):
            unlucky.say("preview")
            assert "failed at this step" in unlucky.until("error")["message"]
        other.frames(3)
        unlucky.say("settings", seed=12)
        unlucky.steps(1)
