"""Optimizers and learning-rate schedules."""

import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

from tinyworlds.data.settings import check_number


class OptimizerFactory(Protocol):
    """Parameters to optimizer; what conf/optimizer/ builds."""

    def __call__(self, parameters: Iterable[nn.Parameter], /) -> optim.Optimizer: ...


class ScheduleFactory(Protocol):
    """Optimizer and number of steps to learning-rate schedule; what conf/lr_schedule/ builds."""

    def __call__(self, optimizer: optim.Optimizer, /, *, total_steps: int) -> LambdaLR: ...


class Optimization(NamedTuple):
    """How a stage is optimized; `seed` is that of what is random in a step: masks and noise."""

    optimizer: OptimizerFactory
    lr_schedule: ScheduleFactory
    seed: int


def adamw(parameters: Iterable[nn.Parameter], /, *, lr: float, betas: list[float], weight_decay: float) -> optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) that decays matrices only: no gain, bias or mask token."""
    if not 0 < lr < math.inf:
        raise ValueError(f"optimizer.lr={lr} must be a finite number above 0")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optimizer.betas={betas} must be two numbers from 0 to below 1, as [0.9, 0.999]")
    check_number("optimizer.weight_decay", weight_decay, at_least=0)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if _is_matrix(p)], "weight_decay": weight_decay},
        {"params": [p for p in trained if not _is_matrix(p)], "weight_decay": 0.0},
    ]
    optimizer = optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    # It could undo the scaling of mixed precision by itself; but Lightning does, to clip gradients before the step.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def cosine(optimizer: optim.Optimizer, /, *, total_steps: int, warmup: float, final: float) -> LambdaLR:
    """Linear warm-up over the share `warmup` of the steps, then half a cosine down to `final` of the peak."""
    if not 0 <= warmup < 1:
        raise ValueError(f"lr_schedule.warmup={warmup} must be a share of the steps, from 0 to below 1")
    check_number("lr_schedule.final", final, at_least=0, at_most=1)
    warmup_steps = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
        return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, factor)


def _is_matrix(parameter: nn.Parameter) -> bool:
    return sum(size > 1 for size in parameter.shape) >= 2
