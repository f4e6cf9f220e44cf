import numpy as np
import pytest
import torch

from tinyworlds import World
from tinyworlds.maskgit import reveal_counts
from tinyworlds.play.engine import Engine
from tinyworlds.play.session import Session


@pytest.fixture
def engine(dynamics) -> Engine:
    return Engine(dynamics)


@pytest.fixture
def games(engine, opening) -> list[Session]:
    """Three games with seeds of their own."""
    return [
        Session(engine.tokenize(scene), opening.settings.changed({"seed": seed}))
        for seed, scene in enumerate(opening.scenes)
    ]


def requests(games, engine, *, watched=False, actions=(0, 1, 2)):
    context = engine.dynamics.context_length
    return [game.request(action, context=context, watched=watched) for game, action in zip(games, actions, strict=True)]


def test_a_game_is_the_same_in_a_batch_and_alone(engine, games):
    together = engine.run(requests(games, engine))
    for row, (request, result) in enumerate(zip(requests(games, engine), together, strict=True)):
        (alone,) = engine.run([request])
        assert torch.equal(alone.tokens, result.tokens)
        assert np.abs(alone.frames.astype(int) - result.frames).max() <= 1
        assert (alone.place, result.place) == ((1, 0), (3, row))


def test_a_place_in_a_batch_gives_the_same_bits_whoever_else_is_in_it(engine, games):
    first, *_ = asked = requests(games, engine)
    assert np.array_equal(engine.run(asked)[0].frames, engine.run([first] * 3)[0].frames)


def test_a_step_is_what_the_world_steps_to(engine, games, opening, dynamics):
    world = World(dynamics, temperature=0.0)
    world.reset(opening.scenes[0])
    game = games[0]
    game.settings = game.settings.changed({"temperature": 0.0})
    for action in (1, 3, 0, 2, 2):
        (result,) = engine.run([game.request(action, context=4, watched=False)])
        game.extend(result.tokens, action)
        assert np.array_equal(result.frames[0], world.step(action))


@pytest.mark.parametrize("horizon", [1, 2])
def test_the_inside_of_a_frame_leads_to_it(engine, games, horizon):
    for game in games:
        game.settings = game.settings.changed({"horizon": horizon})
    plain = engine.run(requests(games, engine))
    watched = engine.run(requests(games, engine, watched=True))
    counts = reveal_counts(6 * horizon, steps=4, schedule="exponential")
    for result, unseen in zip(watched, plain, strict=True):
        assert np.array_equal(result.frames, unseen.frames), "watching changes nothing"
        assert len(result.inside) == horizon
        kept = sum((~part.hidden).sum(1) for part in result.inside)
        assert kept.tolist() == np.cumsum(counts).tolist()
        for part, frame, tokens in zip(result.inside, result.frames, result.tokens, strict=True):
            assert np.array_equal(part.final, tokens)
            assert np.array_equal(part.tokens[-1], tokens)
            assert np.array_equal(part.pictures[-1], frame)
            assert ((part.confidence >= 0) & (part.confidence <= 1)).all()
            settled = ~part.hidden[:-1]
            assert (part.tokens[1:] == part.tokens[:-1])[settled].all(), "what was kept stays"
            assert (part.confidence[1:] == part.confidence[:-1])[settled].all()


def test_a_look_shows_what_is(engine, games, dynamics, opening):
    result = engine.run(requests(games, engine, actions=(None,) * 3, watched=True))[1]
    assert np.array_equal(result.tokens, games[1].seen(1).tokens[0])
    assert len(result.inside[0].tokens) == 0
    assert np.abs(result.frames[0].astype(int) - World(dynamics).reset(opening.scenes[1])).max() <= 1
