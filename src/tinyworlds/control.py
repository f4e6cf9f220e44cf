"""Whether codes are controls: what a code says of the true action, and whether a world does what a code means.

Codes and true actions are whole numbers from 0. Functions of arrays alone, so that each can be tried on cases
with a known answer; docs/world-quality.md says what they mean and how each can deceive.
"""

import warnings

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torchmetrics.functional.clustering import normalized_mutual_info_score

RARE = 0.1
"""A code that is used less often than this share of an equal share counts as unused."""


def count_pairs(
    codes: Int64[np.ndarray, " n"], true: Int64[np.ndarray, " n"], *, n_codes: int, n_actions: int
) -> Int64[np.ndarray, "{n_codes} {n_actions}"]:
    """How often each code went with each true action."""
    table = np.zeros((n_codes, n_actions), np.int64)
    np.add.at(table, (codes, true), 1)
    return table


def best_map(table: Int64[np.ndarray, "codes actions"]) -> Int64[np.ndarray, " codes"]:
    """The true action that each code went with most often; for a code that never came, the commonest of all."""
    return np.where(table.any(1), table.argmax(1), table.sum(0).argmax())


def clear(table: Int64[np.ndarray, "codes actions"]) -> Bool[np.ndarray, " codes"]:
    """Which codes went with one true action in at least half of the cases: those that it can be a name for."""
    return 2 * table.max(1) >= table.sum(1)


def split_halves(episodes: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Every other episode; of a single one, the second half of it."""
    order = np.unique(episodes, return_inverse=True)[1]
    return order % 2 == 1 if order.any() else np.arange(len(episodes)) >= len(episodes) / 2


def mapped_accuracy(
    codes: Int64[np.ndarray, " n"], true: Int64[np.ndarray, " n"], halves: Bool[np.ndarray, " n"]
) -> float:
    """Share of the true actions that the best map from codes names, in 0 … 1.

    Fitted on one half, scored on the other, both ways, averaged; so chance agreement is not rewarded.

    Raises:
        ValueError: a half is empty.
    """
    if halves.all() or not halves.any():
        raise ValueError("too few held-out transitions to fit a map on one half and score it on the other")
    sizes = {"n_codes": int(codes.max()) + 1, "n_actions": int(true.max()) + 1}
    scores = []
    for scored in (halves, ~halves):
        fitted = best_map(count_pairs(codes[~scored], true[~scored], **sizes))
        scores.append(float((fitted[codes[scored]] == true[scored]).mean()))
    return float(np.mean(scores))


def control_score(*, accuracy: float, majority: float, supervised: float) -> float:
    """How far codes come from always naming the commonest action (0) to a probe told the truth (1).

    Raises:
        ValueError: the probe itself comes no further, so that there is nothing to compare with.
    """
    if supervised <= majority:
        raise ValueError(
            f"told the true actions, the probe names {supervised:.3f} of them, the commonest action is {majority:.3f}: "
            "they can't be read off these frames"
        )
    return (accuracy - majority) / (supervised - majority)


def mutual_information(codes: Int64[np.ndarray, " n"], true: Int64[np.ndarray, " n"]) -> float:
    """Mutual information of codes and true actions over the mean of their entropies (NMI), in 0 … 1."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse invariant checks")
        return float(normalized_mutual_info_score(torch.from_numpy(codes), torch.from_numpy(true)))


def action_scores(
    codes: Int64[np.ndarray, " n"],
    true: Int64[np.ndarray, " n"],
    *,
    read: Int64[np.ndarray, " n"],
    episodes: Int64[np.ndarray, " n"],
) -> dict[str, float]:
    """What codes say of the true actions, beside what always naming the commonest and a supervised probe reach.

    ``nmi``, and ``accuracy``, ``majority`` and ``supervised``, all three by `mapped_accuracy` on the same halves of
    the `episodes`. `read`: what the probe names.
    """
    halves = split_halves(episodes)
    return {
        "nmi": mutual_information(codes, true),
        "accuracy": mapped_accuracy(codes, true, halves),
        "majority": mapped_accuracy(np.zeros_like(codes), true, halves),
        "supervised": mapped_accuracy(read, true, halves),
    }


def in_use(counts: Int64[np.ndarray, " codes"]) -> Bool[np.ndarray, " codes"]:
    """Which codes are used at least `RARE` times as often as if all were used alike.

    What a world imagines under a code that it has hardly seen is broken, and must not pass for control.
    """
    return counts * len(counts) >= RARE * max(int(counts.sum()), 1)


def readings(
    meant: Int64[np.ndarray, " n"],
    read: Int64[np.ndarray, " n"],
    *,
    n_actions: int,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, "{n_actions} {n_actions}"]:
    """For each action that was meant (row), the share of each that was read; zeros where none was meant."""
    table = np.zeros((n_actions, n_actions))
    np.add.at(table, (meant, read), 1.0 if weights is None else weights)
    total = table.sum(1, keepdims=True)
    return np.divide(table, total, out=np.zeros_like(table), where=total > 0)


def obeyed(table: Float[np.ndarray, "actions actions"], present: Bool[np.ndarray, " actions"]) -> float:
    """Of `readings`, the share that was read as meant, each of the actions `present` in the game counting alike.

    An action that no code stands for is never obeyed. So a world that does the same whatever it is told gets
    at most one in as many as there are actions, which is chance, and codes that all mean one thing as well.
    """
    return float(table.diagonal()[present].mean())
