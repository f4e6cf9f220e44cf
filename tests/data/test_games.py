"""Every game that has a name of its own is recorded as a world can be learned from it."""

from pathlib import Path

import numpy as np
import pytest

from tinyworlds.command import CONF
from tinyworlds.data.store import FrameStore
from tinyworlds.data.truth import true_actions

from .test_record import recording

FRAMES = 400
END_THEMSELVES = {"vizdoom_take_cover", "vizdoom_health_gathering"}
"""Those in which nobody lives as long as an episode may last. The others go on for longer than is recorded here."""
GAMES = sorted(path.stem for path in (CONF / "recording").glob("*.yaml") if path.stem != "default")


def test_every_recording_is_that_of_a_dataset() -> None:
    assert len(GAMES) >= 9
    assert {f"{game}.yaml" for game in GAMES} <= {path.name for path in (CONF / "data").iterdir()}


@pytest.mark.parametrize("page", ["README.md", "docs/data.md"])
def test_a_page_names_every_game(page: str) -> None:
    text = (CONF.parent / page).read_text()
    assert [game for game in GAMES if f"`{game}`" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("game", GAMES)
def test_a_game_moves_by_named_actions_and_is_the_same_again(game: str, tmp_path: Path) -> None:
    settings = recording(game, f"frames={FRAMES}")
    read = []
    for name in ("once.h5", "again.h5"):
        settings.write(tmp_path / name)
        with FrameStore(tmp_path / name) as store:
            read.append((store.read(0, FRAMES), true_actions(tmp_path / name, 0, FRAMES)))
    (frames, actions), (same_frames, same_actions) = read
    np.testing.assert_array_equal(frames, same_frames)
    np.testing.assert_array_equal(actions, same_actions)

    assert frames.shape == (FRAMES, 64, 64, 3)
    assert settings.actions is not None
    assert store.action_names == tuple(settings.actions)
    assert all(not name.isdigit() for name in store.action_names)
    assert (np.bincount(actions) / FRAMES > 0.1).all(), "every action is often taken"

    change = np.abs(np.diff(frames.astype(int), axis=0)).max(axis=-1) > 25
    assert 0.001 < change.mean() < 0.5
    moving = change.mean(axis=0) > 0
    assert np.ptp(np.flatnonzero(moving.any(axis=0))) > 32, "what happens is spread over the frame"

    assert settings.max_episode_steps is not None or game in END_THEMSELVES
    lengths = np.diff([*store.episode_starts, FRAMES])[:-1]
    longest = settings.max_episode_steps or FRAMES
    assert (lengths <= longest).all()
    assert len(lengths) >= 2 if game in END_THEMSELVES else (lengths == longest).all()


@pytest.mark.slow
def test_a_game_that_is_lost_ends_its_episode(tmp_path: Path) -> None:
    """Breakout, played so badly that the fifth ball is soon gone."""
    recording("atari_breakout", "frames=600", "follow_ball=0").write(tmp_path / "lost.h5")
    with FrameStore(tmp_path / "lost.h5") as store:
        lengths = np.diff(store.episode_starts)
    assert len(lengths) >= 1
    assert lengths.max() < 400
