"""Processes that train together compute what one process would on their batches put together.

Each rank has as many rows of the batch as the others, those of rank 0 first. What is taken over the batch, such as a
mean, is taken over the rows of all of them and is the same on each; gradients flow back to all. As DDP and FSDP average
gradients over the ranks, a loss that is the same on each gives the gradient of one process. In one process all of this
is what torch does alone, to the last bit.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, Num
from torch import Tensor


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        total = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Tensor:
        # Every rank goes on with the total, so what is wanted of a summand is wanted by all.
        return sum_over_ranks(gradients[0])


@torch.compiler.disable  # type: ignore[untyped-decorator]
def sum_over_ranks(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sum of what each rank has, elementwise."""
    return _SumOverRanks.apply(values) if world_size() > 1 else values  # type: ignore[no-untyped-call]


def mean(values: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Over all values of all ranks, which may have unequal numbers of them; NaN where there are none."""
    if world_size() == 1:
        return values.mean()
    count = values.new_tensor(values.numel())
    total, number = sum_over_ranks(torch.stack([values.sum(), count])).unbind()
    return total / number


def mean_of_rows(rows: Float[Tensor, "N ..."]) -> Float[Tensor, "..."]:
    """Over the first axis, on all ranks."""
    return rows.mean(0) if world_size() == 1 else sum_over_ranks(rows.sum(0)) / (world_size() * len(rows))


def moments_of_rows(rows: Float[Tensor, "N ..."]) -> tuple[Float[Tensor, "..."], Float[Tensor, "..."]]:
    """Mean and variance over the first axis, on all ranks; the variance is that of just these rows."""
    average = mean_of_rows(rows)
    alone = world_size() == 1
    return average, rows.var(0, unbiased=False) if alone else mean_of_rows((rows - average).square())


def rand(
    shape: tuple[int, ...], *, generator: torch.Generator | None = None, device: torch.device
) -> Float[Tensor, "*shape"]:
    """Uniform on [0, 1), for the own `shape[0]` rows of what one process would draw for all of them.

    All ranks must be seeded alike.
    """
    return _own(torch.rand(_whole(shape), generator=generator, device=device))


def randint(
    high: int, shape: tuple[int, ...], *, generator: torch.Generator | None = None, device: torch.device
) -> Int64[Tensor, "*shape"]:
    """Whole numbers from 0 to `high` - 1, drawn as by `rand`."""
    return _own(torch.randint(high, _whole(shape), generator=generator, device=device))


def spread(count: int, *, share: float, device: torch.device) -> Int64[Tensor, " n"]:
    """Which of the own `count` rows are in a share of those of all ranks, taken evenly and always the same.

    The first of all is in every share but 0.
    """
    first = rank() * count
    chosen = [i for i in range(count) if math.ceil((first + i + 1) * share) > math.ceil((first + i) * share)]
    return torch.tensor(chosen, dtype=torch.long, device=device)


def all_rows(rows: Num[Tensor, "N ..."]) -> Num[Tensor, "RN ..."]:
    """The rows of all ranks, those of rank 0 first; no gradients flow back."""
    if world_size() == 1:
        return rows.detach()
    whole = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(whole, rows.detach().contiguous())
    return torch.cat(whole)


def rolled(rows: Num[Tensor, "N ..."]) -> Num[Tensor, "N ..."]:
    """Each row the one before it in the whole batch, and the first the last; no gradients flow back."""
    moved = rows.detach().roll(1, dims=0)
    if world_size() > 1:
        lasts = [torch.empty_like(moved[0]) for _ in range(world_size())]
        dist.all_gather(lasts, moved[0].contiguous())
        moved[0] = lasts[rank() - 1]
    return moved


def _whole(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (world_size() * shape[0], *shape[1:])


def _own(rows: Tensor) -> Tensor:
    return rows.chunk(world_size())[rank()]
