import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.data.policies import BALL_GAMES, BallPlayer, HeldActions

FRAME = np.zeros((210, 160, 3), np.uint8)


def pong_frame(*, ball: tuple[int, int] | None, paddle: int) -> np.ndarray:
    """Pong as the emulator renders it: `ball` row and column, `paddle` the middle row of the right one."""
    frame = np.full((210, 160, 3), (144, 72, 17), np.uint8)
    frame[24:34] = frame[194:] = 236
    frame[paddle - 8 : paddle + 8, 140:144] = (92, 186, 92)
    if ball:
        frame[ball[0] - 2 : ball[0] + 2, ball[1] : ball[1] + 2] = 236
    return frame


def held_actions(
    num_actions: int, *, weights: list[float] | None = None, hold: tuple[int, int] = (1, 2), seed: int = 0
) -> HeldActions:
    return HeldActions(num_actions=num_actions, weights=weights, hold=hold, generator=np.random.default_rng(seed))


@given(fewest=st.integers(1, 6), more=st.integers(0, 6), seed=st.integers(0, 99))
def test_actions_are_held_no_shorter_than_said(fewest: int, more: int, seed: int) -> None:
    policy = held_actions(1000, hold=(fewest, fewest + more), seed=seed)
    actions = [policy(FRAME) for _ in range(200)]
    changes = [0, *[i for i in range(1, 200) if actions[i] != actions[i - 1]]]
    held = np.diff(changes)
    assert held.min(initial=fewest) >= fewest
    assert set(actions) <= set(range(1000))


def test_all_actions_are_drawn_about_equally_often() -> None:
    policy = held_actions(4)
    counts = np.bincount([policy(FRAME) for _ in range(4000)])
    np.testing.assert_allclose(counts / 4000, 0.25, atol=0.05)


def test_actions_are_drawn_as_often_as_their_weights_say() -> None:
    policy = held_actions(3, weights=[1, 6, 0])
    counts = np.bincount([policy(FRAME) for _ in range(4000)], minlength=3)
    np.testing.assert_allclose(counts / 4000, [1 / 7, 6 / 7, 0], atol=0.03)


def breakout_frame(*, ball: tuple[int, int] | None, paddle: int) -> np.ndarray:
    """Breakout as the emulator renders it: `paddle` is the middle column of the paddle, which has the ball's colour."""
    frame = np.zeros((210, 160, 3), np.uint8)
    frame[57:63, 8:152] = frame[189:193, paddle - 8 : paddle + 8] = (200, 72, 72)
    if ball:
        frame[ball[0] - 2 : ball[0] + 2, ball[1] : ball[1] + 2] = (200, 72, 72)
    return frame


def player(share: float, *, game: str = "ALE/Pong") -> BallPlayer:
    """Gives 1 to make the paddle's place less, 2 to make it more, 9 where it plays at random."""
    ball = BALL_GAMES[game]
    return BallPlayer(
        ball,
        share=share,
        codes=[ball.none, ball.less, ball.more],
        random=lambda frame: 9,
        generator=np.random.default_rng(0),
    )


@pytest.mark.parametrize(("row", "action"), [(60, 1), (160, 2)])
def test_the_paddle_goes_after_an_approaching_ball(row: int, action: int) -> None:
    policy = player(1.0)
    assert {policy(pong_frame(ball=(row, column), paddle=110)) for column in (60, 70, 80)} == {action}


@pytest.mark.parametrize(("column", "action"), [(30, 1), (130, 2)])
def test_breakouts_paddle_goes_after_a_falling_ball_alone(column: int, action: int) -> None:
    policy = player(1.0, game="ALE/Breakout")
    assert {policy(breakout_frame(ball=(row, column), paddle=80)) for row in (110, 140, 170)} == {action}
    assert policy(breakout_frame(ball=(130, column), paddle=80)) == 9
    assert policy(breakout_frame(ball=(60, column), paddle=80)) == 9, "the ball among the bricks"


def test_nobody_follows_a_ball_that_leaves_or_is_out_of_play() -> None:
    policy = player(1.0)
    policy(pong_frame(ball=(100, 100), paddle=100))
    assert policy(pong_frame(ball=(60, 90), paddle=110)) == 9
    assert policy(pong_frame(ball=None, paddle=110)) == 9


def test_a_share_of_zero_leaves_it_to_chance() -> None:
    policy = player(0.0)
    assert {policy(pong_frame(ball=(60, column), paddle=110)) for column in range(30, 120, 10)} == {9}
