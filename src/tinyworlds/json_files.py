"""Reading JSON files that may come from strangers."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

LARGEST = 10**6
"""Bytes."""
MAX_DEPTH = 16


def read_object(path: Path, kind: str) -> dict[str, Any]:
    """The JSON object in a file, which in errors is called a `kind`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds no JSON object, or far too much.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    try:
        return parse_object(content)
    except ValueError as error:
        raise ValueError(f"{path} is no {kind}: {error}") from None


def parse_object(content: bytes | str) -> dict[str, Any]:
    """The object that JSON text writes.

    Raises:
        ValueError: it writes something else, or far too much; the sentence lacks its subject.
    """
    if len(content) > LARGEST:
        raise ValueError(f"it has over {LARGEST} bytes")
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is no text") from None
    if not isinstance(value, dict):
        raise ValueError("it is no object in braces")
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for part in level for inner in _inside(part)]
    if level:
        raise ValueError("it is nested too deeply")
    return value


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
