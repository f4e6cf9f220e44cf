"""The feed-forward part of a transformer block, plain or as a mixture of experts."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
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


class MoE(nn.Module):
    """A mixture of `num_experts` SwiGLUs, of which each token is sent to the `top_k` that a router scores highest.

    Their outputs are summed, weighted by the softmax of those `top_k` scores (Shazeer et al., arXiv 1701.06538).
    `balance_loss` is what to add to the loss so that every expert gets work: `balance_weight` times the number
    of experts times the sum over experts of the share of tokens sent to it times the mean probability that the
    router gives it: `balance_weight` where both are spread evenly, and more where the same experts lead in both
    (Switch Transformer, arXiv 2101.03961, equation 4). It is that of the last forward pass in training.

    Raises `ValueError` where there are no experts or `top_k` is not from 1 to `num_experts`.
    """

    def __init__(self, *, embed_dim: int, hidden_dim: int, num_experts: int, top_k: int, balance_weight: float) -> None:
        super().__init__()
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"stage.feed_forward.top_k={top_k} must be from 1 to num_experts={num_experts}")
        if balance_weight < 0:
            raise ValueError(f"stage.feed_forward.balance_weight={balance_weight} must not be negative")
        self.top_k = top_k
        self.balance_weight = balance_weight
        self.balance_loss = torch.zeros(())
        self.router = nn.Linear(embed_dim, num_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(embed_dim=embed_dim, hidden_dim=hidden_dim) for _ in range(num_experts))

    def forward(self, x: Float[Tensor, "*batch E"]) -> Float[Tensor, "*batch E"]:
        tokens = x.flatten(0, -2)
        scores = self.router(tokens)
        best, chosen = scores.topk(self.top_k, dim=-1)
        sent = chosen.flatten().bincount(minlength=len(self.experts))
        if self.training:
            share = parallel.mean_of_rows((sent / sent.sum()).unsqueeze(0))
            probability = parallel.mean_of_rows(scores.softmax(-1))
            self.balance_loss = self.balance_weight * len(sent) * (share * probability).sum()
        # Sorted by expert, the tokens of each lie together, and each expert is called once.
        order = chosen.flatten().argsort(stable=True)
        parts = torch.split(tokens.index_select(0, order // self.top_k), sent.tolist())
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        outputs = rearrange(outputs.index_select(0, order.argsort()), "(n k) e -> n k e", k=self.top_k)
        return (outputs * best.softmax(-1).unsqueeze(-1)).sum(1).view_as(x)


FEED_FORWARDS: dict[str, type[nn.Module]] = {"swiglu": SwiGLU, "moe": MoE}
SWIGLU: Mapping[str, Any] = {"name": "swiglu"}
"""Options that choose the plain feed-forward."""


def build_feed_forward(options: Mapping[str, Any], *, embed_dim: int, hidden_dim: int) -> nn.Module:
    """The feed-forward that ``options["name"]`` names, with the other options as its arguments."""
    return build_choice(FEED_FORWARDS, "feed_forward", options, embed_dim=embed_dim, hidden_dim=hidden_dim)
