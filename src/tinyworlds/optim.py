"""Optimizers and learning-rate schedules."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

from tinyworlds.data.settings import check_number, check_whole
from tinyworlds.matrix_optimizers import Muon, Soap, Together
from tinyworlds.nn.attention import Attention
from tinyworlds.nn.feed_forward import SwiGLU

HIDDEN = (Attention, SwiGLU)
"""Parts of a model that lead from features to features."""


class OptimizerFactory(Protocol):
    """Model to optimizer of what is trained in it; what conf/optimizer/ builds."""

    def __call__(self, model: nn.Module, /) -> optim.Optimizer: ...


class ScheduleFactory(Protocol):
    """Optimizer and number of steps to learning-rate schedule; what conf/lr_schedule/ builds."""

    def __call__(self, optimizer: optim.Optimizer, /, *, total_steps: int) -> LambdaLR: ...


class Optimization(NamedTuple):
    """How a stage is optimized; `seed` is that of what is random in a step: masks and noise."""

    optimizer: OptimizerFactory
    lr_schedule: ScheduleFactory
    seed: int


def adamw(model: nn.Module, /, *, lr: float, betas: list[float], weight_decay: float) -> optim.AdamW:
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101) that decays matrices only: no gain, bias or mask token."""
    return _adamw(_trained(model), lr=lr, betas=betas, weight_decay=weight_decay)


def muon(
    model: nn.Module,
    /,
    *,
    lr: float,
    betas: list[float],
    weight_decay: float,
    matrix_factor: float,
    momentum: float,
) -> optim.Optimizer:
    """Muon for the `hidden_matrices`, at `matrix_factor` times the learning rate, and `adamw` for all the rest.

    Where there are none, as in a model of convolutions, it is `adamw` alone, and says so.
    """
    _check_rate("lr", lr)
    _check_rate("matrix_factor", matrix_factor)
    if not 0 <= momentum < 1:
        raise ValueError(f"optimizer.momentum={momentum} must be a number from 0 to below 1")
    hidden = hidden_matrices(model)
    own = {id(matrix) for matrix in hidden}
    rest = _adamw([p for p in _trained(model) if id(p) not in own], lr=lr, betas=betas, weight_decay=weight_decay)
    if not hidden:
        rank_zero_warn(f"{type(model).__name__} has no attention or feed-forward, so optimizer=muon is adamw for it")
        return rest
    return Together([Muon(hidden, lr=matrix_factor * lr, momentum=momentum, weight_decay=weight_decay), rest])


def soap(
    model: nn.Module, /, *, lr: float, betas: list[float], weight_decay: float, frequency: int, max_side: int
) -> Together:
    """SOAP for all matrices and convolutions, which decay, and AdamW for the rest, which don't."""
    check_whole("optimizer.frequency", frequency, at_least=1)
    check_whole("optimizer.max_side", max_side, at_least=1)
    trained = _trained(model)
    rest = _adamw([p for p in trained if not is_matrix(p)], lr=lr, betas=betas, weight_decay=weight_decay)
    matrices = Soap(
        [p for p in trained if is_matrix(p)],
        lr=lr,
        betas=(betas[0], betas[1]),
        weight_decay=weight_decay,
        frequency=frequency,
        max_side=max_side,
    )
    return Together([matrices, rest])


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained matrices from features to features: those of attention and feed-forward.

    Not what embeds pixels, tokens or actions, modulates norms, or leads to pixels, latents or a vocabulary.
    """
    inside = {id(p) for part in model.modules() if isinstance(part, HIDDEN) for p in part.parameters()}
    return [p for p in _trained(model) if id(p) in inside and is_matrix(p)]


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether it has rows and columns: neither a gain, a bias nor a token."""
    return sum(size > 1 for size in parameter.shape) >= 2


def cosine(optimizer: optim.Optimizer, /, *, total_steps: int, warmup: float, final: float) -> LambdaLR:
    """Warm-up, then half a cosine down to `final` of the peak."""
    check_number("lr_schedule.final", final, at_least=0, at_most=1)
    return _warmed_up(
        optimizer, total_steps, warmup, lambda progress: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2
    )


def wsd(optimizer: optim.Optimizer, /, *, total_steps: int, warmup: float, decay: float, final: float) -> LambdaLR:
    """Warm-up, stable, decay (MiniCPM, arXiv 2404.06395): at the peak until the last share `decay` of all the steps.

    Then down to `final` of the peak, as one less a square root (Hägele et al., arXiv 2405.18392, section 3).
    """
    _check_warmup(warmup)
    check_number("lr_schedule.decay", decay, at_least=0, at_most=1 - warmup)
    check_number("lr_schedule.final", final, at_least=0, at_most=1)
    falling = decay / (1 - warmup)  # share of the steps after the warm-up

    def factor(progress: float) -> float:
        fallen = max(1 - (1 - progress) / falling, 0) if falling else 0.0
        return final + (1 - final) * (1 - math.sqrt(fallen))

    return _warmed_up(optimizer, total_steps, warmup, factor)


def constant(optimizer: optim.Optimizer, /, *, total_steps: int, warmup: float) -> LambdaLR:
    """Warm-up, then the peak."""
    return _warmed_up(optimizer, total_steps, warmup, lambda _: 1.0)


def _warmed_up(optimizer: optim.Optimizer, total_steps: int, warmup: float, then: Callable[[float], float]) -> LambdaLR:
    """A linear rise to the peak over the share `warmup` of the steps, then the factor by the share of the others."""
    _check_warmup(warmup)
    warmup_steps = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        return then(min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0))

    return LambdaLR(optimizer, factor)


def _check_warmup(warmup: float) -> None:
    if not 0 <= warmup < 1:
        raise ValueError(f"lr_schedule.warmup={warmup} must be a share of the steps, from 0 to below 1")


def _adamw(parameters: Sequence[nn.Parameter], *, lr: float, betas: list[float], weight_decay: float) -> optim.AdamW:
    _check_rate("lr", lr)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"optimizer.betas={betas} must be two numbers from 0 to below 1, as [0.9, 0.999]")
    check_number("optimizer.weight_decay", weight_decay, at_least=0)
    groups = [
        {"params": [p for p in parameters if is_matrix(p)], "weight_decay": weight_decay},
        {"params": [p for p in parameters if not is_matrix(p)], "weight_decay": 0.0},
    ]
    optimizer = optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), fused=True)
    # It could undo the scaling of mixed precision by itself; but Lightning does, to clip gradients before the step.
    optimizer._step_supports_amp_scaling = False
    return optimizer


def _check_rate(option: str, rate: float) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(f"optimizer.{option}={rate} must be a finite number above 0")


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]
