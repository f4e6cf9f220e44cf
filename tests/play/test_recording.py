import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyworlds import World
from tinyworlds.play import recording
from tinyworlds.play.engine import Engine
from tinyworlds.play.loop import pictures
from tinyworlds.play.recording import Recorder, frames_digest, read_log, replay
from tinyworlds.play.session import Session

from ..test_checkpoints import save


def record(opening, folder: Path) -> list[np.ndarray]:
    """Write a recording of a game that shares batches now and then, and return its frames."""
    engine = Engine(opening.world.dynamics)
    game, other = (Session(engine.tokenize(scene), opening.settings) for scene in opening.scenes[:2])
    frames = []

    def take(action: int | None, beside: int = 0) -> None:
        request = game.request(action, context=4, watched=False)
        company = [
            other.request(None if action is None else 1, context=4, watched=False)._replace(settings=request.settings)
            for _ in range(beside)
        ]
        result = engine.run([*company, request])[beside]
        if action is not None:
            game.extend(result.tokens, action)
        recorder.take(request, result.place, [picture.frame for picture in pictures(result, engine.grid)])
        frames.extend(result.frames)

    for action in (1, 1):
        game.extend(engine.run([game.request(action, context=4, watched=False)])[0].tokens, action)
    recorder = Recorder(game.seen(4), game.step)
    take(None)
    take(2)
    take(3, beside=2)
    game.settings = game.settings.changed({"horizon": 2, "temperature": 0.5, "seed": 9})
    take(0, beside=1)
    game.rewind(3)
    recorder.begin(game.seen(4), game.step)
    take(None, beside=1)
    take(1)
    recorder.write(folder, "game", opening.world.dynamics)
    return frames


@pytest.mark.parametrize("decoding", [{}, {"order": "halton", "top_k": 2}])
def test_a_log_replays_to_the_recorded_frames(opening, tmp_path, decoding):
    settings = replace(opening.settings, decoding=opening.settings.decoding.changed(**decoding))
    frames = record(replace(opening, settings=settings), tmp_path)
    log = read_log(tmp_path / "game.json", opening.world.dynamics)
    again = replay(log, opening.world.dynamics)
    assert np.array_equal(again, np.stack(frames))
    assert (frames_digest(again), len(again)) == (log["sha256"], log["frames"])
    assert len((tmp_path / "game.json").read_bytes()) < 1500
    del log["decoding"]  # as in logs from before there was a choice
    assert np.array_equal(replay(log, opening.world.dynamics), again) == (not decoding)


@pytest.mark.slow
def test_the_command_line_replays(opening, tmp_path, entry_point, capsys):
    record(opening, tmp_path)
    save(opening.world.dynamics, tmp_path / "world.ckpt")
    for mode in ("browser", "rollout"):
        entry_point("play.py", f"mode={mode}", "ckpt=world.ckpt", "actions=game.json", "out=again")
        assert "the same 8 frames as recorded" in capsys.readouterr().out
    assert {path.name for path in Path("again").iterdir()} == {"replay.gif", "replay.mp4"}
    log = json.loads((tmp_path / "game.json").read_text())
    log["events"][3]["step"] = 1
    (tmp_path / "other.json").write_text(json.dumps(log))
    entry_point("play.py", "ckpt=world.ckpt", "actions=other.json", "out=again")
    assert "not all of them as recorded" in capsys.readouterr().out


def test_shared_and_opened_again_it_is_the_same_world(opening, tmp_path):
    record(opening, tmp_path)
    opening.world.save_pretrained(tmp_path / "world")
    read_log(tmp_path / "game.json", World.load(tmp_path / "world").dynamics)


def changed(log: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *where, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = log
    for key in where:
        place = place[key]
    place[last] = value
    return log


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("digest", "0", "recorded in another world"),
        ("format", 2, "its format is 2"),
        ("world", None, "names no world"),
        ("fps", 1e9, "fps"),
        ("decoding", [], "its decoding is none"),
        ("decoding.steps", 10**9, "its decoding is none"),
        ("decoding.order", "spiral", "decoding.order='spiral'"),
        ("events", [], "does not begin"),
        ("events", [1], "no list of events"),
        ("events.0", {"step": 0}, "does not begin"),
        ("events.0.begin.step", -1, "a begin of it"),
        ("events.0.begin.tokens", [[0] * 6] * 5, "a begin of it"),
        ("events.0.begin.tokens.0.0", 27, "a begin of it"),
        ("events.0.begin.tokens.0", [0], "a begin of it"),
        ("events.0.begin.actions.0", 4, "a begin of it"),
        ("events.0.begin.actions", [], "a begin of it"),
        ("events.1.settings.steps", 10**6, "steps"),
        ("events.1.settings.horizon", 4, "horizon"),
        ("events.1.settings", {"speed": 1}, "speed"),
        ("events.3.step", 4, "no action 4"),
        ("events.4.place", [10**6, 0], "no place"),
        ("events.4.place", [2, 2], "no place"),
        ("events.4", {"jump": 1}, "no event of jump"),
        ("events.4", {}, "no event of nothing"),
    ],
)
def test_a_log_that_is_none_is_refused_before_anything_is_imagined(opening, tmp_path, path, value, said):
    record(opening, tmp_path)
    log = json.loads((tmp_path / "game.json").read_text())
    (tmp_path / "game.json").write_text(json.dumps(changed(log, path, value)))
    with pytest.raises(ValueError, match=said):
        read_log(tmp_path / "game.json", opening.world.dynamics)


def test_a_recording_ends_by_itself(opening, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "MAX_FRAMES", 3)
    engine = Engine(opening.world.dynamics)
    game = Session(engine.tokenize(opening.scenes[0]), opening.settings)
    recorder = Recorder(game.seen(4), game.step)
    request = game.request(None, context=4, watched=False)
    for _ in range(3):
        assert not recorder.full
        recorder.take(request, (1, 0), [b"picture"])
    assert recorder.full


def test_where_a_recording_goes_on_is_kept_once_however_often_the_game_begins_anew(opening):
    engine = Engine(opening.world.dynamics)
    scenes = [Session(engine.tokenize(scene), opening.settings).seen(4) for scene in opening.scenes[:2]]
    recorder = Recorder(scenes[0], 0)
    for step in range(100):
        recorder.begin(scenes[step % 2], step)
    (begin,) = recorder.events
    assert begin["begin"]["step"] == 99
    assert begin["begin"]["tokens"] == scenes[1].tokens[0].tolist()


def test_a_log_that_grows_too_long_to_be_read_ends_the_recording(opening, monkeypatch):
    monkeypatch.setattr(recording, "MAX_LOG_BYTES", 5000)
    engine = Engine(opening.world.dynamics)
    game = Session(engine.tokenize(opening.scenes[0]), opening.settings)
    request = game.request(None, context=4, watched=False)
    recorder = Recorder(game.seen(4), game.step)
    while not recorder.full:
        recorder.take(request, (1, 0), [b"picture"])
        recorder.begin(game.seen(4), game.step)
    assert len(json.dumps(recorder.events)) == pytest.approx(5000, rel=0.1)
