"""What hyperparameters describe, found out before memory is taken for it: they may come from strangers."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch

from tinyworlds.data.settings import check_number, check_whole
from tinyworlds.data.store import MAX_SIDE
from tinyworlds.models.dynamics import Dynamics
from tinyworlds.models.stage import Stage
from tinyworlds.models.video_tokenizer import VideoTokenizer
from tinyworlds.torch_files import first_line

MAX_DEPTH = 8
MAX_NUMBER = {
    "num_blocks": 256, "num_experts": 64, "frame_size": MAX_SIDE, "clip_length": 1024, "latent_dim": 64,
}  # fmt: skip
"""The largest numbers among hyperparameters; `MAX_OTHER_NUMBER` for those that are not listed."""
MAX_OTHER_NUMBER = 2**16
MAX_WINDOW_TOKENS = 2**18
MAX_VOCABULARY = 2**20
MAX_BUFFER_BYTES = 2**28
"""Of what is computed from hyperparameters before weights are read: positions, and what training remembers."""

AnyStage = TypeVar("AnyStage", bound=Stage)
Tensors = Mapping[str, tuple[tuple[int, ...], torch.dtype | None]]
"""Shapes and types, by name."""


def describe(kind: type[AnyStage], hyperparameters: Mapping[str, Any]) -> AnyStage:
    """The untrained stage that hyperparameters describe, without memory (on torch's device ``meta``).

    Raises:
        ValueError: they describe none, or one larger than can be of use.
    """
    check_values(hyperparameters)
    try:
        with torch.device("meta"):
            described = kind.from_hyperparameters(hyperparameters)
        for stage in described.modules():
            if isinstance(stage, Stage):
                _check_dataset(stage.dataset)
        check_size(described)
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from None
    except Exception as error:
        raise ValueError(first_line(error)) from None
    return described


def _check_dataset(dataset: Mapping[str, Any]) -> None:
    for key in ("name", "path"):
        if not isinstance(dataset.get(key), str):
            raise ValueError(f"dataset.{key}={dataset.get(key)}: must be text")
    check_whole("dataset.clip_length", dataset.get("clip_length"), at_least=1)
    check_number("dataset.val_fraction", dataset.get("val_fraction"), at_least=0.001, at_most=0.999)


def check_limits(stage: Stage) -> None:
    """Refuse to train what could not be opened again.

    Raises:
        ValueError: says what there is too much of.
    """
    try:
        check_values(stage.hparams)
        check_size(stage)
    except ValueError as error:
        raise ValueError(f"stage={stage.name} could not be opened again: {error}") from None


def check_values(hyperparameters: Mapping[str, Any]) -> None:
    """Refuse all but plain values, and numbers so large, or nesting so deep, that a description would take too much.

    Raises:
        ValueError: names the value.
    """
    for key, value, depth in walk(hyperparameters):
        limit = MAX_NUMBER.get(key, MAX_OTHER_NUMBER)
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        if not isinstance(key, str) or not isinstance(value, Mapping | list | tuple | str | int | float | None):
            raise ValueError(f"{str(key)[:100]} is no plain value")
        if isinstance(value, int | float) and not -limit <= value <= limit:
            raise ValueError(f"{key[:100]}={value} is more than {limit}")


def check_size(described: Stage) -> None:
    """Refuse what would take more memory to play than a world of this size can need; `described` may take none.

    Raises:
        ValueError: says what there is too much of.
    """
    tokenizer = described.video_tokenizer if isinstance(described, Dynamics) else described
    if isinstance(tokenizer, VideoTokenizer):
        tokens = described.dataset["clip_length"] * tokenizer.num_patches
        if tokens > MAX_WINDOW_TOKENS:
            raise ValueError(f"its window has {tokens} tokens, more than {MAX_WINDOW_TOKENS}")
        if tokenizer.vocabulary > MAX_VOCABULARY:
            raise ValueError(f"its vocabulary is larger than {MAX_VOCABULARY}")
    if sum(buffer.nbytes for buffer in described.buffers()) > MAX_BUFFER_BYTES:
        raise ValueError(f"its buffers take more than {MAX_BUFFER_BYTES} bytes")


def check_tensors(described: Stage, given: Tensors) -> None:
    """Refuse weights whose names, shapes or types are not those of `described`; floats may be of any precision.

    Raises:
        ValueError: names the first that does not fit.
    """
    needed = {name: (tuple(value.shape), value.dtype) for name, value in described.state_dict().items()}
    for name in sorted(needed.keys() | given.keys()):
        if not _fits(needed.get(name), given.get(name)):
            has, wants = (f"{d[name][0]} {d[name][1]}" if name in d else "nothing" for d in (given, needed))
            raise ValueError(f"{name} is {has}, where {wants} is needed")


def _fits(needed: Any, given: Any) -> bool:
    if needed is None or given is None or needed[0] != given[0] or given[1] is None:
        return False
    return bool(needed[1] == given[1] or (needed[1].is_floating_point and given[1].is_floating_point))


def walk(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, Any, int]]:
    """Every value inside, with the key that it stands under and its depth."""
    yield key, value, depth
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from walk(inner, name, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from walk(inner, key, depth + 1)
