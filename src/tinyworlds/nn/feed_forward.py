"""The feed-forward part of a transformer block."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


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
