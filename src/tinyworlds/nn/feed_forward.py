"""The feed-forward part of a transformer block, plain or as a mixture of experts."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tinyworlds import parallel
from tinyworlds.nn.choices import build_choice


class SwiGLU(nn.Module):
    """``W3[silu(W1 x + b1) * (W2 x + b2)] + b3`` (Shazeer, arXiv 2002.05202).

    `hidden_dim` counts the units of a plain two-matrix feed-forward of equal cost: the three matrices
    here have ``floor(2/3 * hidden_dim)`` units.
    """

    def __init__(self, *, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        units = 2 * hidden_dim // 3
        if units < 1:
            raise ValueError(f"hidden_dim={hidden_dim} leaves no unit: SwiGLU has floor(2/3 * hidden_dim) of them")
        self.gate_and_value = nn.Linear(embed_dim, 2 * units)
        self.out = nn.Linear(units, embed_dim)

    def forward(self, x: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch E"]:
        gate, value = self.gate_and_value(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class Routing(NamedTuple):
    """How a router sent the tokens of one pass, of all ranks, to N experts.

    `share`: of all that was sent, by expert. `balance`: N times the sum over experts of that share times the mean
    probability that the router gives the expert: 1 where both are even, more where the same experts lead in both
    (Switch Transformer, arXiv 2101.03961, equation 4). `z`: mean square of the logarithm of the sum of the exponentials
    of a token's scores, small while scores are (ST-MoE, arXiv 2202.08906, equation 5).
    """

    share: Float[Tensor, " N"]
    balance: Float[Tensor, ""]
    z: Float[Tensor, ""]

    @property
    def evenness(self) -> Float[Tensor, ""]:
        """Exponential of the entropy of the shares, of N: 1 where all experts do as much, 1/N where one does all."""
        return torch.special.entr(self.share).sum().exp() / len(self.share)


class MoE(nn.Module):
    """A mixture of `num_experts` SwiGLUs, of which each token is sent to the `top_k` that a router scores highest.

    Their outputs are summed, weighted by the softmax of those `top_k` scores (Shazeer et al., arXiv 1701.06538).
    `balance_weight` and `z_weight` are those of `Routing.balance`, so that every expert gets work, and of `Routing.z`
    in the loss.

    Raises `ValueError` where there are no experts, `top_k` is not from 1 to `num_experts`, or a weight is negative.
    """

    earlier: ClassVar[Mapping[str, Any]] = {"z_weight": 0}

    def __init__(
        self,
        *,
        embed_dim: int,
        hidden_dim: int,
        num_experts: int,
        top_k: int,
        balance_weight: float,
        z_weight: float,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"stage.feed_forward.top_k={top_k} must be from 1 to num_experts={num_experts}")
        for name, weight in (("balance_weight", balance_weight), ("z_weight", z_weight)):
            if weight < 0:
                raise ValueError(f"stage.feed_forward.{name}={weight} must not be negative")
        self.top_k = top_k
        self.balance_weight = balance_weight
        self.z_weight = z_weight
        self.router = nn.Linear(embed_dim, num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(embed_dim=embed_dim, hidden_dim=hidden_dim) for _ in range(num_experts))

    def forward(self, x: Float[Tensor, "*batch E"], routed: list[Routing] | None = None) -> Float[Tensor, "*batch E"]:
        """What the experts make of tokens; where they learn, how these were sent to them is added to `routed`."""
        tokens = x.flatten(0, -2)
        scores = self.router(tokens)
        best, chosen = scores.topk(self.top_k, dim=-1)
        sent = torch.zeros_like(scores[0], dtype=torch.int64)
        sent = sent.scatter_add(0, chosen.flatten(), torch.ones_like(chosen.flatten()))
        if self.training and torch.is_grad_enabled() and routed is not None:
            routed.append(_routing(scores, sent))
        # Sorted by expert, the tokens of each lie together, and each expert is called once.
        order = chosen.flatten().argsort(stable=True)
        parts = torch.tensor_split(tokens.index_select(0, order // self.top_k), sent.cumsum(0)[:-1].cpu())
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        outputs = rearrange(outputs.index_select(0, order.argsort()), "(n k) e -> n k e", k=self.top_k)
        return (outputs * best.softmax(-1).unsqueeze(-1)).sum(1).view_as(x)

    def loss(self, routing: Routing) -> Float[Tensor, ""]:
        """What a pass adds to the loss."""
        return self.balance_weight * routing.balance + self.z_weight * routing.z


def summary(routings: Sequence[Routing]) -> dict[str, Float[Tensor, ""]]:
    """What to watch of some routings: means of their `balance`, `z` and `evenness`, the largest and smallest share."""
    shares = torch.stack([routing.share for routing in routings])
    means = {
        name: torch.stack([getattr(routing, name) for routing in routings]).mean().detach()
        for name in ("balance", "z", "evenness")
    }
    return {**means, "busiest": shares.max(), "idlest": shares.min()}


def _routing(scores: Float[Tensor, "n N"], sent: Int64[Tensor, " N"]) -> Routing:
    scores = scores.float()
    share = parallel.mean_of_rows((sent / sent.sum()).unsqueeze(0))
    probability = parallel.mean_of_rows(scores.softmax(-1))
    return Routing(share, len(sent) * (share * probability).sum(), parallel.mean_of_rows(scores.logsumexp(-1).square()))


FEED_FORWARDS: dict[str, type[nn.Module]] = {"swiglu": SwiGLU, "moe": MoE}
SWIGLU: Mapping[str, Any] = {"name": "swiglu"}
"""Options that choose the plain feed-forward."""


def build_feed_forward(options: Mapping[str, Any], *, embed_dim: int, hidden_dim: int) -> nn.Module:
    """The feed-forward that ``options["name"]`` names, with the other options as its arguments."""
    return build_choice(FEED_FORWARDS, "feed_forward", options, embed_dim=embed_dim, hidden_dim=hidden_dim)
