"""Who plays while a game is recorded."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import UInt8

Policy = Callable[[UInt8[np.ndarray, "height width 3"]], int]


class HeldActions:
    """Draws an action at random and holds it for a random time, `hold` = fewest and most steps.

    `weights` say how often each is drawn, against the others; None: all alike.
    """

    def __init__(
        self,
        *,
        num_actions: int,
        weights: Sequence[float] | None,
        hold: tuple[int, int],
        generator: np.random.Generator,
    ) -> None:
        self._num_actions = num_actions
        self._shares = None if weights is None else np.array(weights) / sum(weights)
        self._hold = hold
        self._generator = generator
        self._steps_left = 0
        self._action = 0

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> int:
        if self._steps_left == 0:
            self._action = self._draw()
            self._steps_left = int(self._generator.integers(self._hold[0], self._hold[1] + 1))
        self._steps_left -= 1
        return self._action

    def _draw(self) -> int:
        if self._shares is None:
            return int(self._generator.integers(self._num_actions))
        return int(self._generator.choice(self._num_actions, p=self._shares))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BallGame:
    """Where an Atari game, of 210 x 160 pixels, shows the ball and the paddle, and what moves the paddle.

    Both are told by their red. The paddle moves along `axis` of the picture, 0 down and 1 to the right, and the ball
    comes to it along the other.
    """

    field: tuple[slice, slice]
    ball: int
    line: tuple[slice, slice]
    """One pixel wide, along which the paddle moves."""
    paddle: int
    axis: int
    none: int
    less: int
    """The emulator's action by which the paddle's place along `axis` becomes less."""
    more: int


BALL_GAMES = {
    # The emulator calls up "right" and down "left".
    "ALE/Pong": BallGame(
        field=np.s_[34:194, 20:140],
        ball=236,
        line=np.s_[34:194, 140:141],
        paddle=92,
        axis=0,
        none=0,
        less=2,
        more=3,
    ),
    # Below the bricks, some of which have the colour of the ball.
    "ALE/Breakout": BallGame(
        field=np.s_[93:189, 8:152],
        ball=200,
        line=np.s_[190:191, 8:152],
        paddle=200,
        axis=1,
        none=0,
        less=3,
        more=2,
    ),
}


class BallPlayer:
    """Goes after a share of the balls that come towards the paddle, else plays as `random`.

    Random play alone misses nearly every ball, and a recording of it has no rallies. `codes` are the emulator's
    actions of which the player gives the index.
    """

    HALF_PADDLE = 8

    def __init__(
        self, game: BallGame, *, share: float, codes: Sequence[int], random: Policy, generator: np.random.Generator
    ) -> None:
        self._game = game
        self._share = share
        self._none, self._less, self._more = (codes.index(code) for code in (game.none, game.less, game.more))
        self._random = random
        self._generator = generator
        self._distance = 0.0
        self._approaching = False
        self._follows = False
        self._aim = 0

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> int:
        places = np.nonzero(frame[self._game.field][..., 0] == self._game.ball)
        if not len(places[0]):
            return self._random(frame)
        distance = float(places[1 - self._game.axis].mean())
        approaching = distance > self._distance
        if approaching and not self._approaching:
            self._follows = bool(self._generator.random() < self._share)
            # Where on the paddle the ball is met decides its angle: without this all rallies are alike.
            self._aim = int(self._generator.integers(-self.HALF_PADDLE, self.HALF_PADDLE + 1))
        self._distance, self._approaching = distance, approaching
        if not approaching or not self._follows:
            return self._random(frame)
        return self._towards(float(places[self._game.axis].mean()), frame)

    def _towards(self, place: float, frame: UInt8[np.ndarray, "height width 3"]) -> int:
        paddle = np.flatnonzero(frame[self._game.line][..., 0] == self._game.paddle)
        away = place + self._aim - paddle.mean() if len(paddle) else 0.0
        if abs(away) < self.HALF_PADDLE / 2:
            return self._none
        return self._less if away < 0 else self._more
