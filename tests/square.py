"""A game with known answers: a square that each action moves one way, on a floor without edges."""

from pathlib import Path

import numpy as np

from tinyworlds.data.store import StoreWriter

HEIGHT, WIDTH, SIDE, PACE = 16, 24, 4, 2
MOVES = np.array([(0, -PACE), (0, PACE), (-PACE, 0), (PACE, 0)])
NAMES = ["left", "right", "up", "down"]


def drawn(places: np.ndarray) -> np.ndarray:
    """Frames with the square's upper left corner at `places`, int (..., 2)."""
    rows, columns = np.arange(HEIGHT)[:, None], np.arange(WIDTH)
    row, column = places[..., 0, None, None], places[..., 1, None, None]
    inside = ((rows - row) % HEIGHT < SIDE) & ((columns - column) % WIDTH < SIDE)
    return np.where(inside[..., None], np.uint8([250, 200, 60]), np.uint8(40))


def places(frames: np.ndarray) -> np.ndarray:
    """Where the square is, (..., 2); the inverse of `drawn`."""
    inside = frames[..., 0] > 128
    rows, columns = inside.any(-1), inside.any(-2)
    return np.stack([(x & ~np.roll(x, 1, -1)).argmax(-1) for x in (rows, columns)], axis=-1)


def moved(place: np.ndarray, action: np.ndarray) -> np.ndarray:
    return (place + MOVES[action]) % (HEIGHT, WIDTH)


def play(actions: np.ndarray, seed: int = 0) -> np.ndarray:
    """Frames (N, T+1, H, W, 3) of games in which `actions` (N, T) are taken."""
    path = [np.random.default_rng(seed).integers(0, HEIGHT, (len(actions), 2))]
    for action in actions.T:
        path.append(moved(path[-1], action))
    return drawn(np.stack(path, axis=1))


def record(path: Path, *, episodes: int = 6, length: int = 40, truth: bool = True) -> Path:
    """A store of random play."""
    actions = np.random.default_rng(0).integers(0, 4, (episodes, length))
    names = NAMES if truth else None
    with StoreWriter(path, height=HEIGHT, width=WIDTH, source="a moving square", fps=5.0, action_names=names) as writer:
        for game, taken in zip(play(actions[:, :-1]), actions, strict=True):
            writer.start_episode()
            writer.append(game, taken if truth else None)
    return path


class SquareWorld:
    """A world of that game: reads a move as the code ``says[action]``, and moves as ``does[code]`` says.

    A code whose move is None leaves the square where it is; under one beyond the list the picture is noise.
    """

    context_length = 3

    def __init__(self, *, says: list[int], does: list[int | None], n_actions: int = 4) -> None:
        self.says, self.does, self.n_actions = np.array(says), does, n_actions

    def infer(self, frames: np.ndarray) -> np.ndarray:
        where = places(frames)
        step = np.diff(where, axis=1)[:, :, None]
        same = ((step - MOVES) % (HEIGHT, WIDTH) == 0).all(-1)
        return self.says[same.argmax(-1)]

    def reset(self, frames: np.ndarray) -> np.ndarray:
        self._place = places(frames[:, -1])
        return drawn(self._place)

    def step(self, action: np.ndarray) -> np.ndarray:
        codes = np.broadcast_to(action, len(self._place))
        does = np.array([-1 if move is None else move for move in self.does])
        broken = codes >= len(does)
        moves = np.where(broken, -1, does[np.where(broken, 0, codes)])
        self._place = np.where(moves[:, None] < 0, self._place, moved(self._place, moves))
        noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        return np.where(broken[:, None, None, None], noise, drawn(self._place))


def read(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The probe that knows: the action between frames (N, H, W, 3)."""
    return SquareWorld(says=[0, 1, 2, 3], does=[]).infer(np.stack([before, after], axis=1))[:, 0]
