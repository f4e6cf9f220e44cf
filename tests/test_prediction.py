from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds import World, prediction
from tinyworlds.control import in_use
from tinyworlds.evaluate import Truth, put_actions, put_obedience
from tinyworlds.prediction import action_margin, control_gain, foretell, imagine, scores, under_each_code
from tinyworlds.probe import Probe
from tinyworlds.report import Scores
from tinyworlds.transitions import Transitions

from .square import NAMES, SquareWorld, play, read

TRUE = np.random.default_rng(1).integers(0, 4, (12, 18))
CLIPS = play(TRUE)
EVENLY = np.full(4, 0.25)
ORDER = [2, 0, 3, 1]
OBEYS = SquareWorld(says=ORDER, does=[1, 3, 0, 2])
IGNORES = SquareWorld(says=ORDER, does=[1, 1, 1, 1])
OPPOSES = SquareWorld(says=ORDER, does=[0, 2, 1, 3])
STAYS = SquareWorld(says=ORDER, does=[None] * 4)
COLLAPSED = SquareWorld(says=[0, 0, 0, 0], does=[None])
"""One code is used; the others break the picture."""


class Blank(SquareWorld):
    """Paints the same picture, that of all frames in the mean, whatever happened before and whatever is done."""

    def step(self, action):
        return np.broadcast_to(CLIPS.mean((0, 1)).astype(np.uint8), super().step(action).shape)


BLANK = Blank(says=ORDER, does=[1, 3, 0, 2])
WORLDS = {
    "obeys": OBEYS,
    "ignores": IGNORES,
    "opposes": OPPOSES,
    "stays": STAYS,
    "collapsed": COLLAPSED,
    "blank": BLANK,
}


class Knows(Probe):
    """The probe that is never wrong."""

    def read(self, before, after):
        return read(before, after)


def measured(world: SquareWorld) -> dict[str, Any]:
    """Everything that a world's actions and imagination are measured by."""
    codes, scored = world.infer(CLIPS), Scores()
    counts = np.bincount(codes.flatten(), minlength=4)
    foretelling = foretell(world, CLIPS, shares=counts / counts.sum(), seed=0)
    used = np.flatnonzero(in_use(counts))
    pairs = under_each_code(world, CLIPS[:, :3], used)
    margin = action_margin(pairs[:, :, 1], used, inferred=codes[:, 2], own=foretelling.inferred[:, 1], true=CLIPS[:, 3])
    seen = read(*(CLIPS[:, place].reshape(-1, 16, 24, 3) for place in (slice(0, -1), slice(1, None))))
    truth = Truth(actions=TRUE.flatten(), names=NAMES, probe=Knows(n_actions=4))
    where = {"before": np.arange(TRUE.size), "episode": np.arange(TRUE.size) // TRUE.shape[1]}
    confusion = put_actions(scored, Transitions(**where, codes=codes.flatten(), read=seen), counts, truth, "")
    put_obedience(scored, pairs, used, confusion, where["before"], seen, truth, "")
    found = {**scores(foretelling), **control_gain(foretelling)}
    return {**found, "margin": margin, "obedience": scored.values["obedience.accuracy"], **scored.values}


FOUND = {name: measured(world) for name, world in WORLDS.items()}


def test_a_perfect_world_is_exact_and_owes_it_to_the_actions():
    found = FOUND["obeys"]
    assert [found[f"psnr_{k}"] for k in (1, 4, 8, 16)] == [pytest.approx(100)] * 4
    assert found["psnr_moving_16"] == pytest.approx(100)
    assert found["copy_psnr_1"] < 25
    assert found["delta_psnr_4"] > 50
    assert found["delta_psnr_moving_4"] > 50
    assert found["margin"] > 0.05
    assert found["obedience"] == found["obedience.reconstructed"] == found["actions.control_score"] == 1
    assert found["actions.names"] == ["right", "down", "left", "up"]
    assert found["obedience.chance"] == 0.25


def test_a_world_that_ignores_its_actions_has_no_control():
    found = FOUND["ignores"]
    assert found["delta_psnr_4"] == found["delta_psnr_moving_4"] == 0
    assert found["margin"] <= 0
    assert found["obedience"] == 0.25


def test_a_world_that_stays_is_as_good_as_copying():
    found = FOUND["stays"]
    for k in (1, 4, 8, 16):
        assert found[f"psnr_{k}"] == found[f"copy_psnr_{k}"]
        assert found[f"psnr_moving_{k}"] == found[f"copy_psnr_moving_{k}"]
    assert found["delta_psnr_4"] == found["margin"] == 0


def test_a_world_that_does_the_opposite_is_worse_than_chance():
    found = FOUND["opposes"]
    assert found["obedience"] == 0
    assert found["margin"] < 0
    assert found["psnr_1"] < found["copy_psnr_1"]


def test_a_blank_gains_in_psnr_alone():
    """The mean of all frames is nearer to what comes than a frame that is out of date; that is all."""
    found = FOUND["blank"]
    assert found["psnr_16"] > found["copy_psnr_16"]
    assert found["delta_psnr_4"] == found["delta_psnr_moving_4"] == found["margin"] == 0
    assert found["obedience"] <= 0.25


def test_collapse_gains_nothing_though_unused_codes_break_the_picture():
    found = FOUND["collapsed"]
    assert found["delta_psnr_4"] == found["delta_psnr_moving_4"] == found["margin"] == 0
    assert found["obedience"] <= 0.25
    assert found["actions.control_score"] == 0
    broken = foretell(COLLAPSED, CLIPS, shares=EVENLY, seed=0)
    assert control_gain(broken)["delta_psnr_4"] > 3  # what drawing from all codes would have called control


def test_a_code_that_is_hardly_used_does_not_pass_for_a_wrong_action():
    """One transition in a thousand has a code of its own, under which the picture is noise."""
    used = np.flatnonzero(in_use(np.array([999, 1])))
    pairs = under_each_code(SquareWorld(says=[0] * 4, does=[None], n_actions=2), CLIPS[:, :3], used)
    rare = {"inferred": np.zeros(12, np.int64), "own": pairs[:, 0, 1], "true": CLIPS[:, 3]}
    assert action_margin(pairs[:, :, 1], used, **rare) == 0
    both = under_each_code(SquareWorld(says=[0] * 4, does=[None], n_actions=2), CLIPS[:, :3], np.arange(2))
    assert action_margin(both[:, :, 1], np.arange(2), **rare) > 0.1


class Stumbles(SquareWorld):
    """Obeys, but goes wrong in the fourth imagined frame and back in the fifth."""

    def reset(self, frames):
        self._k = 0
        return super().reset(frames)

    def step(self, action):
        self._k += 1
        frame = super().step(action)
        return 255 - frame if self._k == 4 else frame


def test_k_is_the_kth_imagined_frame_and_no_other():
    world = Stumbles(says=ORDER, does=[1, 3, 0, 2])
    found = scores(foretell(world, CLIPS, shares=EVENLY, seed=0))
    assert found["psnr_4"] < 5
    assert [found[f"psnr_{k}"] for k in (1, 8, 16)] == [pytest.approx(100)] * 3


@pytest.mark.parametrize("steps", [1, 3, 4, 9])
def test_steps_that_the_clips_are_too_short_for_are_left_out(steps):
    foretelling = foretell(OBEYS, CLIPS[:, : 3 + steps], shares=EVENLY, seed=0)
    assert {int(name.rpartition("_")[2]) for name in scores(foretelling)} == {k for k in (1, 4, 8, 16) if k <= steps}
    assert bool(control_gain(foretelling)) == (steps >= 4)


def test_errors_are_pooled_over_the_clips():
    """One clip of four wrong by a fifth of the range everywhere: the mean squared error is 0.16 / 4."""
    still = np.full((4, 4, 16, 24, 3), 100, np.uint8)
    still[:, :3, 0, 0] = 200
    foretelling = foretell(STAYS, CLIPS[:4, :4], shares=EVENLY, seed=0)
    film = still[:, 2:].copy()
    film[0, 1] = film[0, 1] + 51
    film[:, 1, 0, 0] = still[:, 3, 0, 0]
    quality = type(foretelling)(clips=still, prompt=3, actions=foretelling.actions, inferred=film, random=[]).quality(
        film
    )
    expected = 10 * np.log10(4 / (0.16 / 4 * (16 * 24 - 1) / (16 * 24)))
    assert quality[0]["psnr"] == pytest.approx(expected, abs=1e-3)
    assert quality[0]["psnr_moving"] == pytest.approx(100)


@given(batch=st.integers(1, 13))
def test_games_are_imagined_alike_in_any_batches(batch):
    actions = OBEYS.infer(CLIPS)[:, 2:6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "BATCH", batch)
        films = imagine(OBEYS, CLIPS[:, :3], actions, label="")
    assert np.array_equal(films, CLIPS[:, 2:7])


def test_random_actions_come_from_the_codes_by_their_use_and_from_the_seed():
    shares = np.array([0.7, 0.3, 0, 0])
    films = [foretell(OBEYS, CLIPS, shares=shares, seed=seed).random for seed in (0, 0, 1)]
    assert all(np.array_equal(ours, same) for ours, same in zip(films[0], films[1], strict=True))
    assert not np.array_equal(films[0][0], films[2][0])
    assert [film.shape[1] for film in films[0]] == [17, 5, 5]
    done = read(*(films[0][0][:, place].reshape(-1, 16, 24, 3) for place in (slice(0, -1), slice(1, None))))
    assert np.bincount(done, minlength=4)[[0, 2]].sum() == 0
    assert (done == 1).mean() == pytest.approx(0.7, abs=0.1)


def test_a_learned_world_is_measured_through_the_same_door(dynamics):
    world = World(dynamics, temperature=0.0)
    assert isinstance(world, prediction.Playable)
    clips = np.random.default_rng(0).integers(0, 256, (3, 6, 16, 24, 3), dtype=np.uint8)
    pairs = under_each_code(world, clips[:, :4], np.array([1, 3]))
    assert np.array_equal(pairs[2, 1, 0], world.reset(clips[2, :4]))
    assert np.array_equal(pairs[2, 1, 1], world.step(3))
