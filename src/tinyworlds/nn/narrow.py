"""Attention with heads of few channels on a CPU, where the fused kernel spends its time on odd shapes.

Products and sums run along the tokens here: a matrix product whose result has only 4 columns is several times slower
than the same one with 4 rows. narrow.cpp has attention within a frame, over_frames.cpp that of a position over frames.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from tinyworlds.nn import native

WITHIN_FRAMES = Path(__file__).with_suffix(".cpp")
OVER_FRAMES = Path(__file__).with_name("over_frames.cpp")
WIDTHS = (2, 4, 8)
"""Channels of the heads that they are compiled for; others are left to the fused kernel."""


def is_narrow(x: Tensor, head_dim: int) -> bool:
    """Whether `x` can be attended to here, in heads of `head_dim` channels."""
    return (
        head_dim in WIDTHS
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and native.has_library(WITHIN_FRAMES)
        and native.has_library(OVER_FRAMES)
    )


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
    frames, tokens, width = tensors[0].shape
    native.call(WITHIN_FRAMES, f"{name}_{width // (3 * heads)}", tensors, (frames, tokens, heads))


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


Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op(
    "tinyworlds::attend_over_frames",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor past_keys, Tensor past_values, Tensor keys, Tensor values, Tensor q, Tensor visible) -> Tensor",
)
def attend_over_frames(
    past_keys: Float[Tensor, "B n h D P"],
    past_values: Float[Tensor, "B n h D P"],
    keys: Float[Tensor, "B K h D P"],
    values: Float[Tensor, "B K h D P"],
    q: Float[Tensor, "B T h D P"],
    visible: Bool[Tensor, "T n+K"],
) -> Float[Tensor, "B T h D P"]:
    """Scaled dot-product attention of each position to itself in frames, i to j where ``visible[i, j]``.

    Keys and values come in two parts, so that remembered ones need no copying. Every frame sees some.
    """
    tensors = [x.contiguous() for x in (past_keys, past_values, keys, values, q, visible)]
    out = torch.empty_like(tensors[4])
    _call_over_frames("forward", [*tensors, out])
    return out


@torch.library.custom_op(
    "tinyworlds::attend_over_frames_backward",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor past_keys, Tensor past_values, Tensor keys, Tensor values, Tensor q, Tensor visible, "
    "Tensor gradient) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def attend_over_frames_backward(
    past_keys: Tensor, past_values: Tensor, keys: Tensor, values: Tensor, q: Tensor, visible: Tensor, gradient: Tensor
) -> Five:
    """The gradients of `attend_over_frames` with respect to its floating-point inputs, in their order."""
    tensors = [x.contiguous() for x in (past_keys, past_values, keys, values, q, visible, gradient)]
    gradients = [torch.zeros_like(x) for x in tensors[:5]]
    _call_over_frames("backward", [*tensors, *gradients])
    return gradients[0], gradients[1], gradients[2], gradients[3], gradients[4]


def _call_over_frames(name: str, tensors: Sequence[Tensor]) -> None:
    past_keys, _, keys, _, q, *_ = tensors
    batch, frames, heads, head_dim, positions = q.shape
    sizes = (past_keys.shape[1], keys.shape[1], batch, frames, heads, positions)
    native.call(OVER_FRAMES, f"{name}_{head_dim}", tensors, sizes)


attend_over_frames.register_fake(lambda *inputs: torch.empty_like(inputs[4], memory_format=torch.contiguous_format))
attend_over_frames_backward.register_fake(
    lambda *inputs: tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in inputs[:5])
)


def _keep_over_frames(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001  # named by torch
    ctx.save_for_backward(*inputs)


def _differentiate_over_frames(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return (*attend_over_frames_backward(*ctx.saved_tensors, gradient), None)


attend_over_frames.register_autograd(_differentiate_over_frames, setup_context=_keep_over_frames)


# Each of the operations counts what its matrix products would: two forward, five backward.
@register_flop_formula([torch.ops.tinyworlds.attend, torch.ops.tinyworlds.attend_backward])
def _flops(qkv: torch.Size, *others: Any, **_: Any) -> int:
    frames, tokens, width = qkv
    return (10 if len(others) > 1 else 4) * frames * tokens**2 * (width // 3)


@register_flop_formula([torch.ops.tinyworlds.attend_over_frames, torch.ops.tinyworlds.attend_over_frames_backward])
def _flops_over_frames(*shapes: torch.Size, **_: Any) -> int:
    query, visible = shapes[4:6]
    return (10 if len(shapes) > 6 else 4) * math.prod(query) * visible[1]
