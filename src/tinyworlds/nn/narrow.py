"""Attention with heads of few channels on a CPU, where the fused kernel spends its time on odd shapes.

Tokens come last here, so that every product and sum runs along them: a matrix product whose result has
only 4 columns is several times slower than the same one with 4 rows. Attention within a frame is in narrow.cpp.
"""

import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tinyworlds.nn import native

WIDTH = 16
"""Heads of so many channels and more are left to the fused kernel."""
SOURCE = Path(__file__).with_suffix(".cpp")
WIDTHS = (2, 4, 8)
"""Channels of the heads that it is compiled for."""


def is_narrow(x: Tensor, head_dim: int) -> bool:
    """Whether `x` is to be attended to over frames here, in heads of `head_dim` channels."""
    return head_dim < WIDTH and _is_plain(x) and not torch.compiler.is_compiling()


def is_native(x: Tensor, head_dim: int) -> bool:
    """Whether `attend` can do the attention of `x` to itself, in heads of `head_dim` channels."""
    return head_dim in WIDTHS and _is_plain(x) and has_library()


def _is_plain(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32


def has_library() -> bool:
    """Whether narrow.cpp is compiled; the first call does that, in a few seconds, where there is a compiler."""
    return native.library(SOURCE) is not None


torch.compiler.assume_constant_result(has_library)  # type: ignore[no-untyped-call]  # it marks the function


@torch.library.custom_op(
    "tinyworlds::attend", mutates_args=(), device_types="cpu", schema="(Tensor qkv, int heads) -> (Tensor, Tensor)"
)
def attend(qkv: Float[Tensor, "N P F"], heads: int) -> tuple[Float[Tensor, "N P E"], Float[Tensor, "N h P"]]:
    """Scaled dot-product attention of each frame's P tokens to each other, ``F = 3 E``: queries, keys, values.

    Also gives the logarithm, base 2, of what each query's weights add up to before they are divided by it: the
    backward pass computes them again.
    """
    frames, tokens, width = qkv.shape
    out, log_sums = qkv.new_empty(frames, tokens, width // 3), qkv.new_empty(frames, heads, tokens)
    _call("forward", (qkv.contiguous(), out, log_sums), heads)
    return out, log_sums


@torch.library.custom_op(
    "tinyworlds::attend_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor qkv, Tensor out, Tensor log_sums, Tensor gradient, int heads) -> Tensor",
)
def attend_backward(
    qkv: Float[Tensor, "N P F"],
    out: Float[Tensor, "N P E"],
    log_sums: Float[Tensor, "N h P"],
    gradient: Float[Tensor, "N P E"],
    heads: int,
) -> Float[Tensor, "N P F"]:
    """The gradient of `attend` with respect to `qkv`."""
    qkv_gradient = torch.empty_like(qkv, memory_format=torch.contiguous_format)
    _call("backward", (qkv.contiguous(), out, log_sums, gradient.contiguous(), qkv_gradient), heads)
    return qkv_gradient


def _call(name: str, tensors: Sequence[Tensor], heads: int) -> None:
    """Call a function of narrow.cpp, which takes contiguous tensors, the first of them `qkv`, and their sizes."""
    library = native.library(SOURCE)
    assert library is not None
    frames, tokens, width = tensors[0].shape
    sizes = [ctypes.c_int64(size) for size in (frames, tokens, heads)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    library[f"{name}_{width // (3 * heads)}"](*pointers, *sizes, ctypes.c_int(torch.get_num_threads()))


@attend.register_fake
def _(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    frames, tokens, width = qkv.shape
    return qkv.new_empty(frames, tokens, width // 3), qkv.new_empty(frames, heads, tokens)


attend_backward.register_fake(lambda qkv, *_: torch.empty_like(qkv, memory_format=torch.contiguous_format))


def _keep(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *output)
    ctx.heads = inputs[1]


def _differentiate(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None]:
    return attend_backward(*ctx.saved_tensors, gradient, ctx.heads), None


attend.register_autograd(_differentiate, setup_context=_keep)


def attention_over_frames(
    q: Float[Tensor, "B Tq h D P"],
    parts: Sequence[tuple[Float[Tensor, "B _ h D P"], Float[Tensor, "B _ h D P"]]],
    visible: Bool[Tensor, "Tq Tk"],
) -> Float[Tensor, "B Tq h D P"]:
    """Scaled dot-product attention of each position to itself in other frames: i to j where ``visible[i, j]``.

    Keys and values of the Tk frames come in `parts`, one after the other, so that remembered ones need no copying.
    Written out frame by frame: for a few frames it is sums of products, and unseen frames cost nothing.
    """
    q = q * q.shape[3] ** -0.5
    frames = []
    for now, row in enumerate(visible.tolist()):
        seen = list(_seen(row, parts))
        scores = torch.cat([(q[:, now : now + 1] * keys).sum(3) for keys, _ in seen], dim=1)
        weights = torch.split(scores.softmax(dim=1).unsqueeze(3), [keys.shape[1] for keys, _ in seen], dim=1)
        update = [(weight * values).sum(1) for weight, (_, values) in zip(weights, seen, strict=True)]
        frames.append(torch.stack(update).sum(0) if len(update) > 1 else update[0])
    return torch.stack(frames, dim=1)


def _seen(row: list[bool], parts: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The keys and values of the frames that are seen, of each of the `parts` that has any."""
    first = 0
    for keys, values in parts:
        frames = [frame for frame, sees in enumerate(row[first : first + keys.shape[1]]) if sees]
        first += keys.shape[1]
        if len(frames) == keys.shape[1]:
            yield keys, values
        elif frames and frames[-1] - frames[0] == len(frames) - 1:
            yield keys[:, frames[0] : frames[-1] + 1], values[:, frames[0] : frames[-1] + 1]
        elif frames:
            yield keys[:, frames], values[:, frames]
