"""Optimizers that treat a weight as a matrix: Muon and SOAP.

Under FSDP each process keeps its rows of the weights and of all that is remembered of them. A step gathers what it has
to see whole, and all processes compute what one would.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn, optim

QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
RMS_OF_ADAM = 0.2
"""Of the entries of an update by AdamW, about; Muon's are scaled to it."""
EPS = 1e-8

Loss = Callable[[], float] | None


class Together(optim.Optimizer):
    """Several optimizers of different parameters as one, which has all of their groups and their state."""

    def __init__(self, parts: Sequence[optim.Optimizer]) -> None:
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})

    def step(self, closure: Loss = None) -> float | Tensor | None:  # type: ignore[override]  # torch overloads it
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = iter(self.param_groups)
        for part in self.parts:
            # Loading a state puts others in their place.
            part.state, part.param_groups = self.state, list(islice(groups, len(part.param_groups)))
            part.step()
        return loss


class Muon(optim.Optimizer):
    """Steps whose singular values are all about one, times the learning rate (Jordan et al., 2024).

    The gradient is averaged by `momentum`, with Nesterov's look ahead, and made orthogonal. The step is scaled such
    that its entries are as large as those of AdamW, whose learning rate it can share (Moonlight, arXiv 2502.16982).
    A parameter of three dimensions is a stack of matrices.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # it is called by `Together`
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, **group)

    def _update(self, matrix: nn.Parameter, *, lr: float, momentum: float, weight_decay: float, **_: Any) -> None:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        assert matrix.grad is not None
        step = orthogonalized(whole(matrix.grad.lerp(average, momentum)))
        matrix.mul_(1 - lr * weight_decay)
        matrix.add_(share(step, matrix), alpha=-lr * RMS_OF_ADAM * math.sqrt(max(step.shape[-2:])))


def orthogonalized(matrices: Float[Tensor, "*stack m n"]) -> Float[Tensor, "*stack m n"]:
    """The same singular vectors, and singular values near one: about 0.7 to 1.2, but smaller where they nearly vanish.

    By five iterations of the quintic polynomial that Muon's authors chose (after Newton and Schulz); on GPUs in
    bfloat16, which CPUs can be slow at.
    """
    a, b, c = QUINTIC
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        squared = x @ x.mT
        x = a * x + (b * squared + c * squared @ squared) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Basis(NamedTuple):
    """Orthogonal matrices in whose basis another is looked at; None leaves its rows, or columns, as they are."""

    left: Float[Tensor, "*stack m m"] | None
    right: Float[Tensor, "*stack n n"] | None

    def into(self, matrix: Float[Tensor, "*stack m n"]) -> Float[Tensor, "*stack m n"]:
        """As it is in this basis."""
        turned = matrix if self.left is None else self.left.mT @ matrix
        return turned if self.right is None else turned @ self.right

    def out_of(self, turned: Float[Tensor, "*stack m n"]) -> Float[Tensor, "*stack m n"]:
        """What is `turned` in this basis."""
        matrix = turned if self.left is None else self.left @ turned
        return matrix if self.right is None else matrix @ self.right.mT


class Soap(optim.Optimizer):
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv 2409.11321).

    Of each matrix G of gradients, running means of ``G Gᵀ`` and ``Gᵀ G`` are kept, and every `frequency` steps their
    eigenvectors brought up to date by an iteration of the power method. Sides longer than `max_side` have neither and
    are not turned. The first gradient only gives the first basis. A parameter of three dimensions is a stack of
    matrices, a convolution one of a row an output channel.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        frequency: int,
        max_side: int,
    ) -> None:
        options = {"betas": betas, "weight_decay": weight_decay, "frequency": frequency, "max_side": max_side}
        super().__init__(matrices, {"lr": lr, **options, "step": 0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # it is called by `Together`
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    gradient = _as_matrices(whole(weight.grad))
                    if self.state[weight]:
                        self._update(weight, gradient, **group)
                    else:
                        self._begin(weight, gradient, max_side=group["max_side"])
            group["step"] += 1

    def _begin(self, weight: nn.Parameter, gradient: Float[Tensor, "*stack m n"], *, max_side: int) -> None:
        state = self.state[weight]
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        for side, length in zip(Basis._fields, gradient.shape[-2:], strict=True):
            if length <= max_side:
                product = _product(gradient, side)
                basis = torch.linalg.eigh(_at_least_float32(product)).eigenvectors.flip(-1)
                state[f"{side}_mean"] = share(product, weight)
                state[f"{side}_basis"] = share(basis.to(product.dtype).contiguous(), weight)

    def _update(
        self,
        weight: nn.Parameter,
        gradient: Float[Tensor, "*stack m n"],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        frequency: int,
        step: int,
        **_: Any,
    ) -> None:
        state = self.state[weight]
        basis = Basis(*(whole(state[f"{side}_basis"]) if f"{side}_basis" in state else None for side in Basis._fields))
        squares = basis.into(gradient).square().view(weight.shape)
        state["exp_avg"].lerp_(weight.grad, 1 - betas[0])
        state["exp_avg_sq"].lerp_(share(squares, weight), 1 - betas[1])
        average, square = (_as_matrices(whole(state[name])) for name in ("exp_avg", "exp_avg_sq"))
        scale = (square / (1 - betas[1] ** step)).sqrt() + EPS
        adam = basis.out_of(basis.into(average) / scale).view(weight.shape)
        weight.mul_(1 - lr * weight_decay)
        weight.add_(share(adam, weight), alpha=-lr / (1 - betas[0] ** step))
        for side, old in basis._asdict().items():
            if old is not None:
                state[f"{side}_mean"].lerp_(share(_product(gradient, side), weight), 1 - betas[1])
        if step % frequency == 0:
            self._turn(weight, basis, square)

    def _turn(self, weight: nn.Parameter, basis: Basis, square: Float[Tensor, "*stack m n"]) -> None:
        """Bring the basis up to date; what is known of the directions that it had stays with them."""
        state = self.state[weight]
        for side, old in basis._asdict().items():
            if old is not None:
                power = _at_least_float32(whole(state[f"{side}_mean"]) @ old)
                order = (old * power).sum(-2).argsort(descending=True, stable=True)
                turned = torch.linalg.qr(power.take_along_dim(order.unsqueeze(-2), dim=-1)).Q
                state[f"{side}_basis"].copy_(share(turned.to(old.dtype), weight))
                square = (
                    square.take_along_dim(order.unsqueeze(-1), dim=-2)
                    if side == "left"
                    else square.take_along_dim(order.unsqueeze(-2), dim=-1)
                )
        state["exp_avg_sq"].copy_(share(square.view(weight.shape), weight))


def _product(gradient: Float[Tensor, "*stack m n"], side: str) -> Float[Tensor, "*stack k k"]:
    return gradient @ gradient.mT if side == "left" else gradient.mT @ gradient


def _as_matrices(weight: Tensor) -> Float[Tensor, "*stack m n"]:
    return weight.flatten(1) if weight.ndim > 3 else weight


def _at_least_float32(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def whole(tensor: Any) -> Tensor:
    """All of a tensor of which each process may have a share."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """Of a tensor that all processes have, the share of each where `like` is shared; no message is sent."""
    if not hasattr(like, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor  # half a second to import

    placements: Any = like
    return distribute_tensor(tensor, placements.device_mesh, placements.placements, src_data_rank=None)
