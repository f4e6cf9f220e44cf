"""Reading files of torch that strangers wrote: no code is run, and nothing is allocated that the file does not hold.

A torch file is a zip of a pickle and of one record per storage of numbers. The pickle is first looked through
here: its few allowed instructions are carried out on plain values, with a description in the place of each tensor.
Only then does torch read the tensors, ``weights_only``. (`pickle.Unpickler` with a narrow ``find_class`` would run
no code either, but can be brought to exhaust memory or to overflow the stack, and torch's own reader to the latter.)
"""

import math
import pickletools
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tinyworlds.torch_archive import RefusedError, unpack

MOST_VALUES, MOST_DEPTH = 10**6, 32
"""Values and characters that a file may hold, each counted as often as it would be printed."""
MOST_VIEWS = 4
"""How often the tensors of a file may show its numbers."""
ORDERED_DICT, TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
STORAGES = {
    f"torch {kind}Storage": size
    for kinds, size in (("Bool Byte Char", 1), ("Half BFloat16 Short", 2), ("Float Int", 4), ("Double Long", 8))
    for kind in kinds.split()
}
"""Bytes that an element of each kind of storage takes."""
TORCH_NAMES = {ORDERED_DICT, TENSOR, *STORAGES}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def load(path: str | Path) -> Any:
    """What a torch file holds, on the CPU: tensors, plain values, and lists and dicts of them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no torch file, is damaged, or holds anything else; nothing of it was run.
    """
    _look_through(Path(path), names=TORCH_NAMES)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is damaged: {first_line(error)}") from None


def load_plain(path: str | Path, *, stand_ins: Collection[str]) -> Any:
    """The plain values of a torch file; an object of the classes `stand_ins` becomes a dict of its attributes.

    The classes are named as ``"module name"`` and need not exist; a member of an enum becomes its value.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no torch file, is damaged, or holds anything else; nothing of it was run.
    """
    return _look_through(Path(path), names=stand_ins)


def first_line(error: Exception) -> str:
    """What an exception says first, or its kind where it says nothing."""
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """Numbers that a pickle declares, and a record of the file holds."""

    elements: int
    size: int  # bytes of each


class _StandIn(dict[str, Any]):
    """In the place of an object of a foreign class: its attributes."""


@dataclass(frozen=True)
class _Tensor:
    """In the place of a tensor: its shape."""

    shape: tuple[int, ...]


def _look_through(path: Path, *, names: Collection[str]) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        data, records = unpack(path)
        return _Unpickler(data, records, names).run()
    except RefusedError as error:
        raise ValueError(f"{path} {first_line(error)}") from None
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is no file of torch, or is damaged") from None
    except Exception as error:
        raise ValueError(f"{path} is damaged: {first_line(error)}") from None


class _Unpickler:
    """Carries out a pickle on a stack of plain values; ``on_`` and the name of an instruction is what it does."""

    def __init__(self, data: bytes, records: dict[str, int], names: Collection[str]) -> None:
        self.data = data
        self.records = records
        self.names = names
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}
        self.declared = 0  # bytes, of all tensors

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self.data):
            if opcode.name in VALUES:
                self.stack.append(argument)
            elif opcode.name in CONSTANTS:
                self.stack.append(CONSTANTS[opcode.name])
            elif opcode.name not in ("PROTO", "STOP"):
                instruction = getattr(self, f"on_{opcode.name.lower()}", None)
                if instruction is None:
                    raise RefusedError(f"has the instruction {opcode.name}, which torch does not write")
                instruction(argument)
        (value,) = self.stack
        _check_amount(value)
        return value

    def on_mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        above, self.stack = self.stack, self.below.pop()
        return above

    def on_empty_dict(self, _: None) -> None:
        self.stack.append({})

    def on_empty_list(self, _: None) -> None:
        self.stack.append([])

    def on_setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.put_items([key, value])

    def on_setitems(self, _: None) -> None:
        self.put_items(self.since_mark())

    def put_items(self, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            # The hash of anything deeper may overflow the stack.
            if not isinstance(key, str | int | float | None):
                raise RefusedError("has a dict whose keys are not plain")
            _of(dict, self.stack[-1])[key] = value

    def on_append(self, _: None) -> None:
        value = self.stack.pop()
        _of(list, self.stack[-1]).append(value)

    def on_appends(self, _: None) -> None:
        values = self.since_mark()
        _of(list, self.stack[-1]).extend(values)

    def on_tuple(self, _: None) -> None:
        values = (*self.since_mark(),)
        self.stack.append(values)

    def on_tuple1(self, _: None, count: int = 1) -> None:
        values = (*(self.stack.pop() for _ in range(count)),)
        self.stack.append(values[::-1])

    def on_tuple2(self, _: None) -> None:
        self.on_tuple1(None, 2)

    def on_tuple3(self, _: None) -> None:
        self.on_tuple1(None, 3)

    def on_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    on_long_binput = on_binput

    def on_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    on_long_binget = on_binget

    def on_global(self, name: str) -> None:
        if name not in self.names:
            raise RefusedError(f"names {_dotted(name)}, which is not among what it may hold; nothing of it was run")
        self.stack.append(_Name(name))

    def on_newobj(self, _: None) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if _of(_Name, name).text in TORCH_NAMES or arguments != ():
            raise RefusedError(f"makes an object of {_dotted(name.text)} in a way that torch does not")
        self.stack.append(_StandIn())

    def on_build(self, _: None) -> None:
        attributes = _of(dict, self.stack.pop())
        # The attributes of an OrderedDict, as the version numbers of a state dict, are of no use.
        if isinstance(_of(dict, self.stack[-1]), _StandIn):
            self.stack[-1].update(attributes)

    def on_binpersid(self, _: None) -> None:
        kind, name, key, _device, elements = _of(tuple, self.stack.pop())
        if kind != "storage" or _of(int, elements) < 0:
            raise RefusedError("declares numbers in a way that torch does not")
        size = STORAGES[_of(_Name, name).text]
        held = self.records.get(f"data/{_of(str, key)}")
        if held != elements * size:
            raise RefusedError(f"declares {elements * size} bytes for the record {key!r}, which has {held or 0}")
        self.stack.append(_Storage(elements, size))

    def on_reduce(self, _: None) -> None:
        arguments, name = _of(tuple, self.stack.pop()), _of(_Name, self.stack.pop()).text
        if name == ORDERED_DICT and not arguments:
            self.stack.append({})
        elif name == TENSOR:
            self.stack.append(_tensor(*arguments))
            self.declared += arguments[0].size * math.prod(arguments[2])
            if self.declared > MOST_VIEWS * sum(self.records.values()):
                raise RefusedError("declares far more numbers than it has")
        elif name not in TORCH_NAMES and len(arguments) == 1:
            self.stack.append(_of(str, arguments[0]))
        else:
            raise RefusedError(f"calls {_dotted(name)} in a way that torch does not")


def _check_amount(value: Any) -> None:
    """Refuse what holds itself, or shares its parts such that to walk through it or to print it would never end."""
    left = [(value, 0)]
    counted = 0
    while left:
        part, depth = left.pop()
        inner = [*part, *part.values()] if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
        counted += len(part) if isinstance(part, str) else 1 + len(inner)
        if depth > MOST_DEPTH or counted > MOST_VALUES:
            raise RefusedError("holds lists in lists without end")
        left.extend((each, depth + 1) for each in inner)


def _dotted(name: str) -> str:
    return name.replace(" ", ".")


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise RefusedError(f"has {type(value).__name__} where {kind.__name__.strip('_')} must be")
    return value


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _requires_grad: Any, hooks: Any, *metadata: Any
) -> _Tensor:
    numbers = (offset, *_of(tuple, size), *_of(tuple, stride))
    if not all(isinstance(n, int) and n >= 0 for n in numbers) or len(size) != len(stride) or hooks or metadata:
        raise RefusedError("describes a tensor in a way that torch does not")
    elements = _of(_Storage, storage).elements
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) > elements or (math.prod(size) and last >= elements):
        raise RefusedError(f"declares a tensor of shape {size} with {elements} numbers")
    return _Tensor(size)
