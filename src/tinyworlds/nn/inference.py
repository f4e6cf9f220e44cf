"""Transformer blocks of small models where no gradient is asked for, on a CPU: block.cpp computes a whole one at once.

Torch's operations take longer to be called than such a block to be computed.
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

SOURCE = Path(__file__).with_name("block.cpp")
WIDTHS = (2, 4, 8, 16, 32)
"""Channels of the heads that it is compiled for."""
LARGEST = 256
"""Of more channels products are best left to torch, which has more threads work on one frame."""


def can_run_blocks(x: Tensor, head_dim: int) -> bool:
    """Whether blocks can be run here, in heads of `head_dim` channels."""
    return (
        not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and head_dim in WIDTHS
        and x.shape[-1] <= LARGEST
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and native.has_library(SOURCE)
    )


@torch.library.custom_op(
    "tinyworlds::run_blocks",
    mutates_args=(),
    device_types="cpu",
    schema="(Tensor x, Tensor[] weights, Tensor[] past, Tensor visible, Tensor latents, Tensor given, Tensor[] turns, "
    "int blocks, int heads, bool norm_first, bool temporal, bool remember) -> (Tensor, Tensor)",
)
def run_blocks(
    x: Float[Tensor, "B T P E"],
    weights: Sequence[Tensor],
    past: Sequence[Float[Tensor, "B n h D P"]],
    visible: Bool[Tensor, "T K"],
    latents: Float[Tensor, "B T A"],
    given: Bool[Tensor, " T"],
    turns: Sequence[Float[Tensor, "two ..."]],
    blocks: int,
    heads: int,
    norm_first: bool,
    temporal: bool,
    remember: bool,
) -> tuple[Float[Tensor, "B T P E"], Float[Tensor, "N B T h D P"]]:
    """What so many `blocks` make of `x`; and, in turn, the keys and values of each of them if they are to `remember`.

    `weights` are the parameters of the blocks in their order, `past` keys and values for each of them, or none. `turns`
    are cosines and sines by which queries and keys are turned (rotary positions), (2, D/2, P) by place and (2, T, D/2)
    by time, or none. Without actions, ``A = 0``, norms are RMS norms. To remember, nothing of the last block is
    computed after its keys and values.
    """
    batch, frames, positions, embed = x.shape
    x = x.transpose(2, 3).clone(memory_format=torch.contiguous_format)  # it is worked on in place
    projected = x.new_empty(batch, frames, 3 * embed, positions)
    kept = x.new_empty(2 * (blocks if remember else 1), batch, frames, heads, embed // heads, positions)
    none = x.new_empty(batch, 0, heads, embed // heads, positions)
    own, rest = kept[:2], [tensor.contiguous() for tensor in (latents, given, visible, *turns)]
    each = len(weights) // blocks
    for index in range(blocks):
        if remember:
            own = kept[2 * index : 2 * index + 2]
        seen = past[2 * index : 2 * index + 2] or (none, none)
        of_block = weights[index * each : (index + 1) * each]
        units = of_block[-5 if latents.shape[-1] else -4].shape[0] // 2
        sizes = (batch, frames, positions, embed, heads, units, latents.shape[-1], seen[0].shape[1])
        last = remember and index == blocks - 1
        tensors = [x, projected, own[0], own[1], *seen, *rest, *of_block]
        native.call(SOURCE, f"block_{embed // heads}", tensors, (*sizes, norm_first, temporal, last, bool(turns)))
    return x.transpose(2, 3).contiguous(), kept if remember else kept[:0].clone()


@run_blocks.register_fake
def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *_, blocks, heads, _, _, remember = others
    batch, frames, positions, embed = x.shape
    kept = x.new_empty(2 * blocks if remember else 0, batch, frames, heads, embed // heads, positions)
    return x.new_empty(x.shape), kept


@register_flop_formula(torch.ops.tinyworlds.run_blocks)
def _flops(x: torch.Size, weights: Sequence[torch.Size], *others: Any, **_: Any) -> int:
    """Those of matrix products, attention's among them."""
    _, visible, latents, _, _, blocks, _, _, temporal, remember = others
    batch, frames, positions, embed = x
    of_norm = 2 if latents[-1] else 1
    # To remember, all of the last block is left out that comes after what makes its keys and values.
    done = weights[: len(weights) - (len(weights) // blocks - 6 - of_norm if remember else 0)]
    matrices = sum(math.prod(weight) for weight in done if len(weight) == 2)
    matrices -= embed**2 if remember else 0  # its queries
    modulations = 2 * embed * latents[-1] * ((3 if temporal else 2) * blocks - 2 * remember)
    attended = blocks * positions + (blocks - remember if temporal else 0) * visible[1]
    of_token = 2 * (matrices - modulations) + 4 * attended * embed
    return int(batch * frames * (positions * of_token + 2 * modulations))
