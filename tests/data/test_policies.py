import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.data.policies import HeldActions, PongPlayer

FRAME = np.zeros((210, 160, 3), np.uint8)


def pong_frame(*, ball: tuple[int, int] | None, paddle: int) -> np.ndarray:
    """Pong as the emulator renders it: `ball` row and column, `paddle` the middle row of the right one."""
    frame = np.full((210, 160, 3), (144, 72, 17), np.uint8)
    frame[24:34] = frame[194:] = 236
    frame[paddle - 8 : paddle + 8, 140:144] = (92, 186, 92)
    if ball:
        frame[ball[0] - 2 : ball[0] + 2, ball[1] : ball[1] + 2] = 236
    return frame


@given(fewest=st.integers(1, 6), more=st.integers(0, 6), seed=st.integers(0, 99))
def test_actions_are_held_no_shorter_than_said(fewest: int, more: int, seed: int) -> None:
    policy = HeldActions(num_actions=1000, hold=(fewest, fewest + more), generator=np.random.default_rng(seed))
    actions = [policy(FRAME) for _ in range(200)]
    changes = [0, *[i for i in range(1, 200) if actions[i] != actions[i - 1]]]
    held = np.diff(changes)
    assert held.min(initial=fewest) >= fewest
    assert set(actions) <= set(range(1000))


def test_all_actions_are_drawn_about_equally_often() -> None:
    policy = HeldActions(num_actions=4, hold=(1, 2), generator=np.random.default_rng(0))
    counts = np.bincount([policy(FRAME) for _ in range(4000)])
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.05)


def player(share: float, random_action: int = 9) -> PongPlayer:
    return PongPlayer(
        share=share,
        none=0,
        up=1,
        down=2,
        random=lambda frame: random_action,
        generator=np.random.default_rng(0),
    )


@pytest.mark.parametrize(("row", "action"), [(60, 1), (160, 2)])
def test_the_paddle_goes_after_an_approaching_ball(row: int, action: int) -> None:
    policy = player(1.0)
    assert {policy(pong_frame(ball=(row, column), paddle=110)) for column in (60, 70, 80)} == {action}


def test_nobody_follows_a_ball_that_leaves_or_is_out_of_play() -> None:
    policy = player(1.0)
    policy(pong_frame(ball=(100, 100), paddle=100))
    assert policy(pong_frame(ball=(60, 90), paddle=110)) == 9
    assert policy(pong_frame(ball=None, paddle=110)) == 9


def test_a_share_of_zero_leaves_it_to_chance() -> None:
    policy = player(0.0)
    assert {policy(pong_frame(ball=(60, column), paddle=110)) for column in range(30, 120, 10)} == {9}
