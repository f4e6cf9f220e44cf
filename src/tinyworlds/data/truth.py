"""True actions of a recording: for evaluation alone, nothing that trains may import this module."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from tinyworlds.data.hdf5 import open_hdf5


def true_actions(path: str | Path, start: int, stop: int) -> Int64[np.ndarray, " n"]:
    """The actions taken after frames `start` to `stop` (exclusive): indices into the store's `action_names`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no actions, or fewer frames.
    """
    with open_hdf5(Path(path)) as file:
        if "actions" not in file:
            raise ValueError(f"{path} holds no true actions: only recorded games do")
        actions = file["actions"]
        if not 0 <= start <= stop <= len(actions):
            raise ValueError(f"{path} has {len(actions)} actions; actions {start} to {stop} were asked for")
        return np.asarray(actions[start:stop], np.int64)
