from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tinyworlds.data.game import Game

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("ale_py")


def counting_env(**attributes):
    """An environment that renders how many steps it has made, and whose episodes are 7 steps long."""

    class Counting(gymnasium.Env):
        metadata: ClassVar[dict[str, object]] = {"render_modes": ["rgb_array"], "render_fps": 30}
        action_space = gymnasium.spaces.Discrete(3, start=2)

        def __init__(self, render_mode):
            self.render_mode = render_mode

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.steps = 0
            return None, {}

        def step(self, action):
            assert self.action_space.contains(action)
            self.steps += 1
            return None, 0.0, self.steps == 7, False, {}

        def render(self):
            return np.full((4, 6, 3), self.steps, np.uint8)

    for name, value in attributes.items():
        setattr(Counting, name, value)
    return Counting


@pytest.fixture
def register(request):
    def register(**attributes):
        name = f"Counting-{request.node.name.replace('[', '-').replace(']', '')}-v0"
        gymnasium.register(name, entry_point=counting_env(**attributes))
        registered.append(name)
        return name

    registered = []
    yield register
    for name in registered:
        del gymnasium.registry[name]


def test_an_action_lasts_for_the_skipped_frames_but_not_beyond_the_episode(register):
    with Game(register(), seed=0, frame_skip=3, options={}) as game:
        pictures, overs = [], []
        for _ in range(3):
            overs.append(game.step(2))
            pictures.append(int(game.picture()[0, 0, 0]))
        game.reset()
        pictures.append(int(game.picture()[0, 0, 0]))
    assert overs == [False, False, True]
    assert pictures == [3, 6, 7, 0]


def test_actions_without_names_are_called_by_their_numbers(register):
    with Game(register(), seed=0, frame_skip=1, options={}) as game:
        assert game.actions == {"2": 2, "3": 3, "4": 4}
        assert game.fps == 30


def test_actions_have_the_names_that_the_game_gives():
    with Game("ALE/Pong-v5", seed=0, frame_skip=4, options={}) as game:
        assert game.actions["noop"] == 0
        assert game.picture().shape == (210, 160, 3)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"action_space": gymnasium.spaces.Box(-1, 1)}, "they must be discrete"),
        ({"render": lambda self: None}, "does not render RGB pictures"),
        ({"render": lambda self: np.zeros((4, 6), np.uint8)}, "does not render RGB pictures"),
    ],
    ids=["box", "nothing", "gray"],
)
def test_what_cannot_be_recorded_is_refused(register, attributes, sentence):
    name = register(**attributes)
    with pytest.raises(ValueError, match=f"env={name} .*{sentence}"):
        Game(name, seed=0, frame_skip=1, options={})


@pytest.mark.parametrize("name", ["ALE/Pongo-v5", "NoSuchGame-v0", "not/a/name", "no_such_module:Game-v0"])
def test_an_unknown_environment_is_one_sentence(name):
    with pytest.raises(ValueError, match=f"env={name} cannot be made"):
        Game(name, seed=0, frame_skip=1, options={})


def test_an_option_that_the_game_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"env=ALE/Pong-v5 refuses .*colour"):
        Game("ALE/Pong-v5", seed=0, frame_skip=1, options={"colour": 1})


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ale_py", None)
    with pytest.raises(ValueError, match=r"env=ALE/Pong-v5 needs .*ale_py.*pip install -e '\.\[games\]'"):
        Game("ALE/Pong-v5", seed=0, frame_skip=1, options={})


def test_doom_leaves_nothing_in_the_working_directory(tmp_path: Path, monkeypatch):
    pytest.importorskip("vizdoom")
    monkeypatch.chdir(tmp_path)
    with Game("VizdoomMyWayHome-v1", seed=0, frame_skip=4, options={}) as game:
        game.step(3)
        assert game.picture().shape == (240, 320, 3)
    assert list(tmp_path.iterdir()) == []
