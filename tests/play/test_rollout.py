import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds import World
from tinyworlds.play import rollout


@pytest.fixture
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 16, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_a_rollout_is_what_the_world_steps_to(dynamics, clip, horizon):
    world = World(dynamics, horizon=horizon, temperature=0.0)
    actions = np.array([0, 1, 2, 3, 0])
    film = rollout.imagine(world, clip, actions, prompt=4)
    assert film.shape == clip.shape
    world.reset(clip[:4])
    first = world.step(actions[0] if horizon == 1 else actions[:horizon])
    assert np.array_equal(film[4], first if horizon == 1 else first[0])
    if horizon == 1:
        assert np.array_equal(film[5], world.step(1))


def test_each_action_is_held_from_the_same_prompt(dynamics, clip):
    world = World(dynamics, temperature=0.0)
    films = rollout.each_action(world, clip[:4], steps=3)
    assert films.shape == (4, 4, 16, 24, 3)
    prompt = world.reset(clip[:4])
    assert all(np.array_equal(film[0], prompt) for film in films)
    for step in range(1, 4):
        assert np.array_equal(films[2, step], world.step(2))


def test_actions_are_inferred_drawn_or_repeated(dynamics, clip):
    world = World(dynamics)

    def choose(wanted, seed=0):
        return rollout.choose_actions(world, clip, prompt=4, wanted=wanted, seed=seed)

    assert np.array_equal(choose("inferred"), world.infer(clip)[3:])
    assert choose([0, 1, 2]).tolist() == [0, 1, 2, 0, 1]
    assert choose(3).tolist() == [3] * 5
    assert np.array_equal(choose("random"), choose("random"))
    assert any(not np.array_equal(choose("random"), choose("random", seed)) for seed in (1, 2, 3))


@pytest.mark.parametrize("wanted", ["up", [0, 9], [-1], [], [0.5]])
def test_actions_that_there_are_not_are_refused(dynamics, clip, wanted):
    with pytest.raises(ValueError, match="actions="):
        rollout.choose_actions(World(dynamics), clip, prompt=4, wanted=wanted, seed=0)


def test_repeating_the_last_frame_is_scored_as_what_it_is(dynamics, clip):
    still = np.repeat(clip[None, :1], 4, axis=1).repeat(3, axis=0)
    quality = rollout.next_frame_quality(World(dynamics), still)
    assert quality["copy_psnr"] == pytest.approx(100.0)
    assert quality["psnr"] < 40
    assert quality["psnr_moving"] is None


def test_an_action_is_called_by_its_number_and_by_its_meaning_where_it_has_one():
    assert rollout.action_labels(["up", None]) == ["action 0: up", "action 1"]


@given(frames=st.integers(1, 40), prompt=st.integers(1, 4))
def test_a_strip_fits_on_a_page(frames, prompt):
    clip = np.zeros((prompt + frames, 4, 4, 3), np.uint8)
    page = rollout.strip(clip, clip, prompt=prompt)
    assert page.shape[1] < 80 + rollout.SHOWN * 12
