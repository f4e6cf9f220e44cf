"""True actions of a recording: for evaluation alone, nothing that trains may import this module."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tinyworlds.data.frames import Frames
from tinyworlds.data.hdf5 import HDF5Error, dataset, open_hdf5, reporting, texts


def actions_of(frames: Frames, start: int, stop: int) -> Int64[np.ndarray, " n"]:
    """The actions taken after frames `start` to `stop` (exclusive) of a store or of a collection of them.

    Raises:
        FileNotFoundError: a file is gone.
        ValueError: a file holds no actions, or its actions have other names than those of the other files.
    """
    pieces = list(frames.pieces(start, stop))
    taken = [true_actions(path, begin, end) for path, begin, end in pieces]
    named = {path: _names(path) for path, _, _ in pieces}
    for path, names in named.items():
        if names != named[pieces[0][0]]:
            raise HDF5Error(f"{path} has other action_names than {pieces[0][0]}: what the actions mean is not known")
    return np.concatenate([np.zeros(0, np.int64), *taken])


def _names(path: Path) -> tuple[str, ...] | None:
    with open_hdf5(path) as file, reporting(path):
        return texts(file, "action_names")


def true_actions(path: str | Path, start: int, stop: int) -> Int64[np.ndarray, " n"]:
    """The actions taken after frames `start` to `stop` (exclusive): indices into the store's `action_names`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no actions, or fewer frames.
    """
    with open_hdf5(Path(path)) as file, reporting(Path(path)):
        actions = dataset(file, "actions")
        if actions is None:
            raise HDF5Error(f"{path} holds no true actions: only recorded games do")
        if actions.ndim != 1 or actions.dtype.kind not in "iu":
            raise HDF5Error(f"{path}: `actions` must be one whole number a frame")
        if not 0 <= start <= stop <= len(actions):
            raise HDF5Error(f"{path} has {len(actions)} actions; actions {start} to {stop} were asked for")
        taken = actions[start:stop].astype(np.int64)
        names = texts(file, "action_names")
        if len(taken) and (taken.min() < 0 or taken.max() >= (256 if names is None else len(names))):
            raise HDF5Error(f"{path}: `actions` has numbers that stand for none of the action_names")
        return taken
