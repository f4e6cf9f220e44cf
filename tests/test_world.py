import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tinyworlds import World
from tinyworlds.maskgit import Decoding


@pytest.fixture
def prompts() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 5, 16, 24, 3), dtype=np.uint8)


def play(world: World, prompt: np.ndarray, actions) -> np.ndarray:
    return np.stack([world.reset(prompt), *(world.step(action) for action in actions)])


def test_same_seed_same_frames_and_another_seed_others(dynamics, prompts):
    films = [play(World(dynamics, seed=seed), prompts[0], [0, 1, 2, 3, 3, 3]) for seed in (0, 0, 1)]
    assert np.array_equal(films[0], films[1])
    assert not np.array_equal(films[0], films[2])


def test_frames_are_pictures_of_the_worlds_size(dynamics, prompts):
    world = World(dynamics)
    assert world.frame_size == (16, 24)
    film = play(world, prompts[0], [0, 1])
    assert film.shape == (3, 16, 24, 3)
    assert film.dtype == np.uint8
    assert play(world, prompts, [0, [1, 2]]).shape == (3, 2, 16, 24, 3)


def test_an_action_changes_the_picture(dynamics, prompts):
    world = World(dynamics, temperature=0.0)
    films = [play(world, prompts[0], [action] * 4)[1:] for action in range(world.n_actions)]
    assert any(not np.array_equal(films[0], film) for film in films[1:])


def test_games_in_a_batch_are_the_games_alone(dynamics, prompts):
    world = World(dynamics, temperature=0.0)
    together = play(world, prompts, [[0, 1], [2, 3], [1, 1], [3, 0]])
    for game, actions in enumerate(([0, 2, 1, 3], [1, 3, 1, 0])):
        # Sums of floats may be taken in another order for another batch.
        assert np.abs(together[:, game].astype(int) - play(world, prompts[game], actions)).max() <= 1


def test_only_the_window_is_seen_and_tokens_are_kept(dynamics, prompts):
    """The tokens of a long game are those of one that begins from its last imagined tokens."""
    world = World(dynamics, temperature=0.0)
    play(world, prompts[0], [0, 1, 2, 3])
    tokens, actions = world._seen
    assert tokens.shape[1] == world.context_length
    following = dynamics.predict(
        tokens[:, -3:],
        torch.cat([actions[:, -2:], torch.tensor([[1]])], dim=1),
        horizon=1,
        decoding=world.decoding,
    )
    world.step(1)
    assert torch.equal(world._seen.tokens[:, -1:], following)
    assert torch.equal(world._seen.tokens[:, :-1], tokens[:, 1:])


@pytest.mark.parametrize("horizon", [2, 3])
def test_a_horizon_imagines_frames_together(dynamics, prompts, horizon):
    world = World(dynamics, horizon=horizon, temperature=0.0)
    world.reset(prompts)
    frames = world.step([0, 1])
    assert frames.shape == (2, horizon, 16, 24, 3)
    world.reset(prompts)
    assert np.array_equal(world.step([[0] * horizon, [1] * horizon]), frames)


def test_a_prompt_of_one_frame_is_enough(dynamics, prompts):
    world = World(dynamics)
    film = play(world, prompts[0, :1], [0] * 6)
    assert len(film) == 7


def test_decoding_is_the_worlds_own_unless_given(dynamics):
    assert World(dynamics).decoding == dynamics.decoding
    assert World(dynamics, steps=None, order="halton").decoding == dynamics.decoding.changed(order="halton")
    given = World(dynamics, steps=2, temperature=0.5).decoding
    assert given == Decoding(steps=2, schedule="exponential", temperature=0.5, **Decoding.earlier)
    with pytest.raises(ValueError, match=r"decoding\.top_k=-1"):
        World(dynamics, top_k=-1)


def test_inferred_actions_are_those_between_neighbours(dynamics, prompts):
    world = World(dynamics)
    inferred = world.infer(prompts[0])
    assert [int(world.infer(prompts[0, t : t + 2])[0]) for t in range(4)] == inferred.tolist()
    assert np.array_equal(world.infer(prompts), [inferred, world.infer(prompts[1])])


@pytest.mark.parametrize("action", [-1, 4, 1.5, [0, 1], "up"])
def test_an_action_that_there_is_not_is_refused(dynamics, prompts, action):
    world = World(dynamics)
    world.reset(prompts[0])
    with pytest.raises(ValueError, match="action="):
        world.step(action)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # nothing changes the dynamics
@given(height=st.integers(1, 40), width=st.integers(1, 40), length=st.integers(0, 3))
def test_a_prompt_of_another_size_is_refused(dynamics, height, width, length):
    assume((height, width) != (16, 24) or length == 0)
    with pytest.raises(ValueError, match="this world needs"):
        World(dynamics).reset(np.zeros((length, height, width, 3), np.uint8))


def test_stepping_needs_a_reset(dynamics):
    with pytest.raises(ValueError, match="reset"):
        World(dynamics).step(0)


def test_a_horizon_as_long_as_the_window_is_refused(dynamics):
    with pytest.raises(ValueError, match="horizon=4"):
        World(dynamics, horizon=4)


def test_what_is_shown_does_not_change_the_game(dynamics, prompts):
    """And where there is only one thing to be expected, it is what is taken."""
    for temperature, alike in ((1.0, False), (1e-6, True)):
        films, tokens = [], []
        for show in ("taken", "expected"):
            world = World(dynamics, temperature=temperature, show=show)
            films.append(play(world, prompts[0], [0, 1, 2, 3]))
            tokens.append(world._seen.tokens)
        assert torch.equal(*tokens)
        assert (np.abs(np.subtract(*films, dtype=np.int16)).max() <= 1) == alike
