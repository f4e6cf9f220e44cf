"""Who plays while a game is recorded."""

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

Policy = Callable[[UInt8[np.ndarray, "height width 3"]], int]


class HeldActions:
    """Draws an action at random and holds it for a random time, `hold` = fewest and most steps."""

    def __init__(self, *, num_actions: int, hold: tuple[int, int], generator: np.random.Generator) -> None:
        self._num_actions = num_actions
        self._hold = hold
        self._generator = generator
        self._steps_left = 0
        self._action = 0

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> int:
        if self._steps_left == 0:
            self._action = int(self._generator.integers(self._num_actions))
            self._steps_left = int(self._generator.integers(self._hold[0], self._hold[1] + 1))
        self._steps_left -= 1
        return self._action


class PongPlayer:
    """Goes after a share of the balls that come towards Atari Pong's right paddle, else plays as `random`.

    Random play alone misses nearly every ball, and a recording of it has no rallies. Expects frames of
    210 x 160 pixels, as the Atari emulator renders them.
    """

    FIELD = np.s_[34:194, 20:140, 0]
    PADDLE = np.s_[34:194, 140, 0]
    BALL_RED = 236
    PADDLE_RED = 92
    HALF_PADDLE = 8

    def __init__(
        self, *, share: float, none: int, up: int, down: int, random: Policy, generator: np.random.Generator
    ) -> None:
        self._share = share
        self._none, self._up, self._down = none, up, down
        self._random = random
        self._generator = generator
        self._column = 0.0
        self._approaching = False
        self._follows = False
        self._aim = 0

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> int:
        rows, columns = np.nonzero(frame[self.FIELD] == self.BALL_RED)
        if not len(rows):
            return self._random(frame)
        column = float(columns.mean())
        approaching = column > self._column
        if approaching and not self._approaching:
            self._follows = bool(self._generator.random() < self._share)
            # Where on the paddle the ball is met decides its angle: without this all rallies are alike.
            self._aim = int(self._generator.integers(-self.HALF_PADDLE, self.HALF_PADDLE + 1))
        self._column, self._approaching = column, approaching
        return self._towards(float(rows.mean()), frame) if approaching and self._follows else self._random(frame)

    def _towards(self, row: float, frame: UInt8[np.ndarray, "height width 3"]) -> int:
        paddle = np.nonzero(frame[self.PADDLE] == self.PADDLE_RED)[0]
        distance = row + self._aim - paddle.mean() if len(paddle) else 0.0
        if abs(distance) < self.HALF_PADDLE / 2:
            return self._none
        return self._up if distance < 0 else self._down
