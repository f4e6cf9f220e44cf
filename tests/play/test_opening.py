import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from omegaconf import OmegaConf

from tinyworlds import World
from tinyworlds.command import CONF
from tinyworlds.play.opening import action_names, default_threads, idle_action, open_to_play
from tinyworlds.scenes import SCENES, png_bytes


@pytest.fixture
def shared(opening, tmp_path, monkeypatch):
    """The world of `opening` in worlds/game, with its scenes, in the folder one is in."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "worlds" / "game"
    opening.world.save_pretrained(folder)
    (folder / SCENES).write_bytes(png_bytes(opening.scenes))
    return folder


def config(**changes):
    play = OmegaConf.load(CONF / "play.yaml")
    del play["hydra"]
    return OmegaConf.merge(play, {"dataset": "game", **changes})


def test_without_an_own_world_the_one_that_came_along_is_played(shared, opening, capsys):
    opened = open_to_play(config())
    assert "world: worlds/game" in capsys.readouterr().out
    assert np.array_equal(opened.scenes, opening.scenes)
    assert opened.names == [None] * 4
    with pytest.raises(FileNotFoundError, match="make one with `python train"):
        open_to_play(config(worlds_dir="elsewhere"))


def test_options_reach_the_game(shared):
    others = {"schedule": "linear", "order": "random", "top_k": 3, "top_p": 0.5, "guidance": 3, "show": "expected"}
    opened = open_to_play(config(seed=5, steps=2, temperature=0.25, horizon=2, fps=7, idle=3, **others))
    plain = {"seed": 5, "steps": 2, "temperature": 0.25, "horizon": 2, "fps": 7.0}
    assert opened.settings.plain() == plain
    assert asdict(opened.settings.decoding) == {"steps": 2, "temperature": 0.25, "choice_temperature": 0, **others}
    assert open_to_play(config(choice_temperature=2)).settings.decoding.choice_temperature == 2
    assert opened.idle == 3


@pytest.mark.parametrize(
    "option",
    [
        "fps=0",
        "fps=100",
        "idle=4",
        "idle=-1",
        "seed=-1",
        "steps=100",
        "temperature=9",
        "threads=0",
        "horizon=4",
        "top_k=-1",
        "top_p=0",
        "choice_temperature=-1",
        "guidance=-1",
    ],
)
def test_impossible_options_are_named(shared, option):
    name, value = option.split("=")
    with pytest.raises(ValueError, match=f"{name}={value}"):
        open_to_play(config(**{name: int(value)}))


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ({"actions": {"names": ["up", None, "down", "x" * 99]}}, ["up", None, "down", "x" * 40]),
        ({"actions": {"names": ["up", 3, "down", "fire"]}}, ["up", None, "down", "fire"]),
        ({"actions": {"names": ["up"]}}, [None] * 4),
        ({"actions": {"names": None}}, [None] * 4),
        ({"actions": [1]}, [None] * 4),
        ({}, [None] * 4),
    ],
)
def test_actions_are_called_what_the_evaluation_found(shared, written, names):
    (shared / "metrics.json").write_text(json.dumps(written))
    assert action_names(World.load(shared)) == names
    (shared / "evaluation").mkdir()
    (shared / "evaluation" / "metrics.json").write_text(json.dumps({"actions": {"names": list("abcd")}}))
    assert action_names(World.load(shared)) == list("abcd"), "an evaluation of one's own goes before"


def test_idle_is_what_means_nothing_or_else_what_is_commonest(opening):
    world, shown = opening.world, opening.scenes
    counts = np.bincount(world.infer(shown).ravel(), minlength=4)
    assert idle_action(world, shown, [None] * 4) == counts.argmax()
    assert idle_action(world, shown, ["up", "noop", None, None]) == 1
    still = idle_action(world, shown, ["none", "up", "none", "none"])
    assert counts[still] == counts[[0, 2, 3]].max()
    assert idle_action(world, shown[:, :1], [None] * 4) == 0


def test_one_thread_is_enough_for_one_core():
    assert 1 <= default_threads() <= 4


def test_only_the_browser_needs_a_web_server():
    said = {}
    for mode in ("rollout", "browser"):
        arguments = ["play.py", f"mode={mode}", "runs_dir=none", "worlds_dir=none"]
        without = f"import runpy, sys; sys.modules['starlette'] = None; sys.argv = {arguments}"
        command = [sys.executable, "-c", f"{without}; runpy.run_path('play.py', run_name='__main__')"]
        said[mode] = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True).stderr
    assert said["rollout"].startswith("error: no finished dynamics of data=atari_pong in none/")
    assert said["browser"].startswith("error: mode=browser needs starlette: install it with")
