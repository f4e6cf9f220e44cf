"""Checks of values that a user gives, each refusing with a sentence that names the option."""

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

MAX_SEED = 2**32 - 1
"""The largest that all of torch, NumPy and Python take."""


def check_whole(name: str, value: Any, *, at_least: int, at_most: int | None = None) -> None:
    """
    Raises:
        ValueError: `value` is no whole number, or outside the closed interval.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < at_least or (at_most is not None and value > at_most):
        range = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
        raise ValueError(f"{name}={value}: must be a whole number {range}")


def check_flag(name: str, value: Any) -> None:
    """
    Raises:
        ValueError: `value` is neither true nor false.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value} must be true or false")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """
    Raises:
        ValueError: `value` is none of the `choices`.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}={value!r} is none of {', '.join(choices)}")


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
        ValueError: `value` is no finite number, or outside the closed interval.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not at_least <= value <= at_most:
        range = f"from {at_least} to {at_most}" if at_most < math.inf else f"of at least {at_least}"
        raise ValueError(f"{name}={value}: must be a number {range}")


MOST_LISTED = 20
"""As many options can be read in a sentence."""
TYPES: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    bool: ((bool,), "true or false"),
    str: ((str,), "text"),
    NoneType: ((NoneType,), "null"),
}


def check_arguments(
    target: Callable[..., Any], given: Collection[str], *, also: Collection[str], where: str, complete: bool
) -> None:
    """Refuse options that `target` does not take; and that it lacks some, where the `given` are to be `complete`.

    Raises:
        ValueError: names the first, with the place `where` it is in the config. Those that it takes `also` are ours.
    """
    parameters, takes_others = _parameters(target)
    prefix = where and f"{where}."
    free = sorted(parameters.keys() - set(also))
    for key in given:
        if key not in parameters and not takes_others:
            guess = get_close_matches(key, free, n=1, cutoff=0.7)
            there = ", ".join(free) if len(free) <= MOST_LISTED else f"what {_name(target)} does"
            hint = f"did you mean {prefix}{guess[0]}?" if guess else f"{where or 'it'} takes {there}"
            raise ValueError(f"{prefix}{key}: there is no such option, {hint}")
    for key, parameter in parameters.items():
        if complete and parameter.default is parameter.empty and key not in given and key not in also:
            raise ValueError(f"{prefix}{key} is missing: give it a value, as {prefix}{key}=…")


def _parameters(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """What can be given by name, and whether more can be. Our classes hand on to their base what they don't know."""
    found: dict[str, inspect.Parameter] = {}
    bases = [c for c in getattr(target, "__mro__", ()) if c.__module__.partition(".")[0] == "tinyworlds"]
    for call in [vars(c)["__init__"] for c in bases if "__init__" in vars(c)] or [target]:
        listed = list(inspect.signature(call).parameters.values())
        named = [p for p in listed if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
        found = {p.name: p for p in named if p.name != "self"} | found
        if all(p.kind is not p.VAR_KEYWORD for p in listed):
            return found, False
    return found, True


def check_types(target: Callable[..., Any], values: Mapping[str, Any], *, prefix: str = "") -> None:
    """Refuse values of a wrong type where the signature of `target` says that it takes plain ones.

    Raises:
        ValueError: names the first, after `prefix`.
    """
    parameters, _ = _parameters(target)
    for key in values.keys() & parameters.keys():
        if not _fits(values[key], parameters[key].annotation):
            shown = "null" if values[key] is None else values[key]
            raise ValueError(f"{prefix}{key}={shown} must be {_described(parameters[key].annotation)}")


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a value may be of the type that is asked for; any may be of one that is not known here."""
    if annotation in TYPES:
        accepted = TYPES[annotation][0]
        return isinstance(value, accepted) and (not isinstance(value, bool) or bool in accepted)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin in (list, Sequence):
        return isinstance(value, list | tuple) and all(_fits(item, parts[0]) for item in value)
    return isinstance(value, Mapping) if origin is Mapping else True


def _described(annotation: Any) -> str:
    """For people to read."""
    if annotation in TYPES:
        return TYPES[annotation][1]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        choices = [str(choice) for part in parts if get_origin(part) is Literal for choice in get_args(part)]
        others = [_described(part) for part in parts if get_origin(part) is not Literal]
        named = [f"one of {', '.join(dict.fromkeys(choices))}"] if choices else []
        kept = [other for other in others if other != TYPES[int][1] or TYPES[float][1] not in others]
        return " or ".join([*named, *dict.fromkeys(kept)])
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (list, Sequence):
        return f"a list, each of it {_described(parts[0])}"
    return "a group of options" if origin is Mapping else _name(annotation)


def _name(of: Any) -> str:
    return f"{of.__module__.partition('.')[0]}.{of.__name__}" if hasattr(of, "__name__") else str(of)


def frame_size(size: Any, *, name: str = "size") -> tuple[int, int]:
    """Height and width from one number (a square) or two; `name` is that of the option.

    Raises:
        ValueError: anything else.
    """
    sizes = [size, size] if isinstance(size, int) else size
    if not (isinstance(sizes, Sequence) and len(sizes) == 2 and all(isinstance(n, int) and n > 0 for n in sizes)):
        raise ValueError(f"{name}={size}: give one positive number, or [height, width]")
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


def filled(options: Mapping[str, Any], missing: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are and in their order, then what is `missing` of them."""
    return {**options, **{name: value for name, value in missing.items() if name not in options}}
