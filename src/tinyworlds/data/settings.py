"""Checks of values that a user gives, each refusing with a sentence that names the option."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def check_whole(name: str, value: Any, *, at_least: int) -> None:
    """
    Raises:
        ValueError: `value` is no whole number, or less than `at_least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name}={value}: must be a whole number of at least {at_least}")


def check_device(device: Any) -> None:
    """
    Raises:
        ValueError: torch has no such device here.
    """
    import torch  # commands that compute nothing have no need of it

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={device} cannot be used: {str(error).splitlines()[0]}") from None


def check_number(name: str, value: Any, *, at_least: float = float("-inf"), at_most: float = float("inf")) -> None:
    """
    Raises:
        ValueError: `value` is no number, or outside the closed interval.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not at_least <= value <= at_most:
        raise ValueError(f"{name}={value}: must be a number from {at_least} to {at_most}")


TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str,), "text"),
}


def check_imagining(*, clips: Any, seed: Any, steps: Any, temperature: Any) -> None:
    """What playing and evaluation have in common; None stands for the world's own decoding.

    Raises:
        ValueError: one of them is impossible.
    """
    check_whole("clips", clips, at_least=1)
    check_whole("seed", seed, at_least=0)
    if steps is not None:
        check_whole("steps", steps, at_least=1)
    if temperature is not None:
        check_number("temperature", temperature, at_least=0)


def check_types(target: Callable[..., Any], values: Mapping[str, Any], *, prefix: str = "") -> None:
    """Refuse values of a wrong type where the signature of `target` says that it takes a plain one.

    Raises:
        ValueError: names the first, after `prefix`.
    """
    parameters = inspect.signature(target).parameters
    for key in values.keys() & parameters.keys():
        if parameters[key].annotation in TYPES:
            accepted, name = TYPES[parameters[key].annotation]
            value = values[key]
            if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
                raise ValueError(f"{prefix}{key}={value} must be {name}")


def frame_size(size: Any) -> tuple[int, int]:
    """Height and width from one number (a square) or two.

    Raises:
        ValueError: anything else.
    """
    sizes = [size, size] if isinstance(size, int) else size
    if not (isinstance(sizes, Sequence) and len(sizes) == 2 and all(isinstance(n, int) and n > 0 for n in sizes)):
        raise ValueError(f"size={size}: give one positive number, or [height, width]")
    return sizes[0], sizes[1]


def crop_box(crop: Mapping[str, Any], *, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of a picture that `crop` keeps: top, bottom, left, right in pixels, null for all.

    Raises:
        ValueError: an unknown side, or nothing of the picture is kept.
    """
    if unknown := set(crop) - {"top", "bottom", "left", "right"}:
        raise ValueError(f"crop has no side {min(unknown)}: give top, bottom, left and right")
    top, left = crop.get("top") or 0, crop.get("left") or 0
    bottom, right = crop.get("bottom"), crop.get("right")
    bottom = height if bottom is None else bottom
    right = width if right is None else right
    for name, value in (("top", top), ("bottom", bottom), ("left", left), ("right", right)):
        check_whole(f"crop.{name}", value, at_least=0)
    if not (top < bottom <= height and left < right <= width):
        raise ValueError(
            f"crop to rows {top} to {bottom} and columns {left} to {right} does not fit "
            f"the picture of {height} rows and {width} columns"
        )
    return slice(top, bottom), slice(left, right)
