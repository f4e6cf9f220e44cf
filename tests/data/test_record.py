import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from tinyworlds.command import CONF, build
from tinyworlds.data.record import Recording
from tinyworlds.data.store import FrameStore
from tinyworlds.data.truth import true_actions

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("ale_py")


def recording(preset: str, *overrides: str) -> Recording:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("record", [f"recording={preset}", *overrides])
    return build(OmegaConf.masked_copy(config, [key for key in config if key != "path"]))


def test_a_recording_of_pong(tmp_path: Path) -> None:
    recording("atari_pong", "frames=230", "max_episode_steps=100").write(tmp_path / "pong.h5")
    with FrameStore(tmp_path / "pong.h5") as store:
        assert (store.num_frames, store.height, store.width) == (230, 64, 64)
        assert (store.source, store.fps) == ("ALE/Pong-v5", 15)
        assert store.action_names == ("none", "up", "down")
        assert store.episode_starts.tolist() == [0, 100, 200]
        assert store.settings is not None
        assert store.settings["frames"] == 230
        last = store.read(60, 230).astype(int)
    green = (last[..., 1] - last[..., 0]) > 40  # the player's paddle alone is green
    ball = last[:, :, 3:61, 2] > 50  # of background, paddles and ball only the ball has blue
    assert green[..., 62:].any(axis=(1, 2)).mean() > 0.9
    assert not green[..., :62].any()
    assert ball.any(axis=(1, 2)).mean() > 0.3


def test_the_seed_decides_the_recording(tmp_path: Path) -> None:
    read = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        recording("atari_pong", "frames=120", f"seed={seed}").write(tmp_path / name)
        with FrameStore(tmp_path / name) as store:
            read.append((store.read(0, 120), true_actions(tmp_path / name, 0, 120)))
    for ours, theirs in zip(read[0], read[1], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (read[0][1] != read[2][1]).any()


class Echo(gymnasium.Env):
    """Renders the last action, or 99 after a reset; an episode ends after 13 steps."""

    metadata: ClassVar[dict[str, object]] = {"render_modes": ["rgb_array"], "render_fps": 20}
    action_space = gymnasium.spaces.Discrete(5)
    render_mode = "rgb_array"

    def __init__(self, render_mode: str) -> None:
        self.shown, self.steps = 99, 0

    def reset(self, **_: Any) -> tuple[None, dict[str, Any]]:
        self.shown, self.steps = 99, 0
        return None, {}

    def step(self, action: int) -> tuple[None, float, bool, bool, dict[str, Any]]:
        self.shown, self.steps = action, self.steps + 1
        return None, 0.0, self.steps == 13, False, {}

    def render(self) -> np.ndarray:
        return np.full((8, 8, 3), self.shown, np.uint8)


def record_echo(path: Path, *overrides: str) -> None:
    gymnasium.register("Echo-v0", entry_point=Echo)
    try:
        actions = "actions={four: 4, one: 1, two: 2}"
        recording("default", "env=Echo-v0", "frames=100", "frame_skip=1", "size=8", actions, *overrides).write(path)
    finally:
        del gymnasium.registry["Echo-v0"]


def test_an_action_is_stored_with_the_frame_that_it_follows(tmp_path: Path) -> None:
    record_echo(tmp_path / "e.h5")
    with FrameStore(tmp_path / "e.h5") as store:
        shown = store.read(0, 100)[:, 0, 0, 0]
        assert store.episode_starts.tolist() == list(range(0, 100, 13))
        assert store.action_names == ("four", "one", "two")
        assert store.fps == 20
        begins = np.isin(np.arange(100), store.episode_starts)
    taken = np.array([4, 1, 2])[true_actions(tmp_path / "e.h5", 0, 100)]
    assert (shown[begins] == 99).all()
    np.testing.assert_array_equal(shown[1:][~begins[1:]], taken[:-1][~begins[1:]])
    assert set(taken) == {4, 1, 2}


def test_the_first_steps_of_each_episode_can_be_left_out(tmp_path: Path) -> None:
    record_echo(tmp_path / "e.h5", "skip_first=3")
    with FrameStore(tmp_path / "e.h5") as store:
        assert store.episode_starts.tolist() == list(range(0, 100, 10))
        assert {int(store.read(start, start + 1)[0, 0, 0, 0]) for start in store.episode_starts.tolist()} == {4}
    with pytest.raises(ValueError, match="skip_first=13: an episode of Echo-v0 ended after 13 steps"):
        record_echo(tmp_path / "none.h5", "skip_first=13")
    assert not (tmp_path / "none.h5").exists()


def test_weights_are_those_of_the_actions_by_name(tmp_path: Path) -> None:
    record_echo(tmp_path / "e.h5", "weights={two: 1, one: 3, four: 0}")
    counts = np.bincount(true_actions(tmp_path / "e.h5", 0, 100), minlength=3)
    assert counts[0] == 0
    assert counts[1] > counts[2] > 0


def test_doom_is_recorded_in_several_episodes(tmp_path: Path) -> None:
    pytest.importorskip("vizdoom")
    recording("vizdoom", "frames=60", "max_episode_steps=25", "size=[24,32]").write(tmp_path / "doom.h5")
    with FrameStore(tmp_path / "doom.h5") as store:
        assert (store.height, store.width) == (24, 32)
        assert store.episode_starts.tolist() == [0, 25, 50]
        assert store.action_names == ("none", "turn_left", "turn_right", "forward")
        assert store.fps == pytest.approx(35 / 4)
        assert (store.read(0, 1) != store.read(25, 26)).any()  # another place


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["frames=0"], "frames=0"),
        (["frame_skip=0"], "frame_skip=0"),
        (["seed=-1"], "seed=-1"),
        (["max_episode_steps=0"], "max_episode_steps=0"),
        (["hold=[3,2]"], r"hold\[1\]=2"),
        (["hold=[1,2,3]"], r"hold=\[1, 2, 3\]"),
        (["skip_first=0"], "skip_first=0"),
        (["weights={go: -1}"], "weights.go=-1"),
        (["weights={go: 0}"], "weights={'go': 0}"),
        (["follow_ball=1.5"], "follow_ball=1.5"),
        (["fps=0"], "fps=0"),
        (["size=0"], "size=0"),
        (["actions=null", "+actions={}"], "actions={}"),
    ],
)
def test_an_impossible_setting_is_refused_before_anything_is_played(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        recording("default", "env=ALE/Pong-v5", *overrides)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["crop.bottom=500"], "does not fit the picture of 210 rows and 160 columns"),
        (["actions={go: 17}"], r"has no action 17 \(go\)"),
        (["actions={up: 2, down: 3}"], "actions lacks ALE/Pong-v5's 0: following the ball takes 0, 2, 3"),
        (["actions={up: 2, down: 3}", "weights={up: 1}"], "weights of up: give one for each of up, down"),
    ],
)
def test_what_does_not_fit_the_game_is_refused(tmp_path: Path, overrides: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        recording("default", "env=ALE/Pong-v5", *overrides).write(tmp_path / "x.h5")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_recording_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(iterable: Any, **_: Any) -> Any:
        for step in iterable:
            if step == 50:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr("tinyworlds.data.record.track", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recording("atari_pong").write(tmp_path / "pong.h5")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_all_there_is() -> None:
    pong = recording("atari_pong")
    assert pong.settings() == asdict(pong)
    assert pong.settings()["crop"] == {"top": 34, "bottom": 194, "left": 16, "right": 144}


def record(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tinyworlds.data.record", *arguments], capture_output=True, text=True)


def test_the_command_records_any_environment(tmp_path: Path) -> None:
    done = record("env=ALE/Pong-v5", f"path={tmp_path / 'p.h5'}", "frames=20", "size=16")
    assert done.returncode == 0, done.stderr
    with FrameStore(tmp_path / "p.h5") as store:
        assert (store.num_frames, store.height, store.width) == (20, 16, 16)
        assert store.action_names is not None
        assert len(store.action_names) == 6


def test_the_command_says_in_one_sentence_what_is_wrong(tmp_path: Path) -> None:
    done = record("env=ALE/Pongo-v5", f"path={tmp_path / 'p.h5'}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: env=ALE/Pongo-v5 cannot be made")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
