"""The last actions, as what frames are conditioned on."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

MAX_TOLD = 2**12
"""Runs of actions that are told apart."""


def told_together(actions: Int64[Tensor, "B N"], *, last: int, number: int) -> Float[Tensor, "B N F"]:
    """Which of K actions each is, which pair it makes with the one before, and so on up to the `last` ones.

    A one for what is the case, so that F = K + K² + …; all zeros of runs that reach back before the first action.
    """
    one = F.one_hot(actions, number).float()
    told = [one]
    for back in range(1, last):
        before = F.pad(one, (0, 0, back, 0))[:, : actions.shape[1]]
        told.append(torch.einsum("bnx,bny->bnxy", told[-1], before).flatten(2))
    return torch.cat(told, dim=-1)


def told_size(*, last: int, number: int) -> int:
    """F of `told_together`.

    Raises:
        ValueError: there are too many runs of so many actions.
    """
    if last * number > MAX_TOLD or number**last > MAX_TOLD:
        raise ValueError(
            f"stage.last_actions={last} of n_actions={number} make more than {MAX_TOLD} runs that a frame would be "
            "told: give fewer"
        )
    return sum(number**length for length in range(1, last + 1))
