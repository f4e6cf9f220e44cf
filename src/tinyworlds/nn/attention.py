"""Multi-head self-attention over one axis of a space-time grid of tokens."""

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Scaled dot-product self-attention (Vaswani et al., arXiv 1706.03762), fused, along one axis.

    Raises `ValueError` where `embed_dim` does not divide into `num_heads`.
    """

    def __init__(self, *, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} does not divide into num_heads={num_heads} equal heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)

    def attend(self, x: Float[Tensor, "N K E"], visible: Bool[Tensor, "K K"] | None = None) -> Float[Tensor, "N K E"]:
        """Let the K tokens of each row attend to each other; token i to j only where ``visible[i, j]``."""
        q, k, v = rearrange(self.qkv(x), "n k (three h d) -> three n h k d", three=3, h=self.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out(rearrange(attended, "n h k d -> n k (h d)"))


class SpatialAttention(Attention):
    """Attention among the P tokens of one frame."""

    def forward(self, x: Float[Tensor, "B T P E"]) -> Float[Tensor, "B T P E"]:
        attended = self.attend(rearrange(x, "b t p e -> (b t) p e"))
        return rearrange(attended, "(b t) p e -> b t p e", b=x.shape[0])


class TemporalAttention(Attention):
    """Attention of one patch position over the T frames: frame i sees frame j where ``visible[i, j]``."""

    def forward(self, x: Float[Tensor, "B T P E"], visible: Bool[Tensor, "T T"]) -> Float[Tensor, "B T P E"]:
        attended = self.attend(rearrange(x, "b t p e -> (b p) t e"), visible)
        return rearrange(attended, "(b p) t e -> b t p e", b=x.shape[0])
