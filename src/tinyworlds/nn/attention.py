"""Multi-head self-attention over one axis of a space-time grid of tokens."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tinyworlds.nn.narrow import attention_over_frames, is_narrow, self_attention

FRAMES = 8
"""Where gradients are needed, more frames than this are left to the fused kernel, whatever the heads' width."""


class KeysAndValues(NamedTuple):
    """What temporal attention knows of frames already seen, as it is laid out for the heads."""

    keys: Tensor
    values: Tensor


class Attention(nn.Module):
    """Scaled dot-product self-attention (Vaswani et al., arXiv 1706.03762), along one axis.

    Raises `ValueError` where `embed_dim` does not divide into `num_heads`.
    """

    def __init__(self, *, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} does not divide into num_heads={num_heads} equal heads")
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)


class SpatialAttention(Attention):
    """Attention among the P tokens of one frame."""

    def forward(self, x: Float[Tensor, "B T P E"]) -> Float[Tensor, "B T P E"]:
        batch, frames = x.shape[:2]
        qkv = self.qkv(x)
        if is_narrow(qkv, self.head_dim):
            q, k, v = rearrange(qkv, "b t p (three h d) -> three (b t h) d p", three=3, h=self.num_heads).contiguous()
            attended = self_attention(q, k, v)
            return self.out(rearrange(attended, "(b t h) d p -> b t p (h d)", b=batch, t=frames))
        q, k, v = rearrange(qkv, "b t p (three h d) -> three (b t) h p d", three=3, h=self.num_heads)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "(b t) h p d -> b t p (h d)", b=batch))


class TemporalAttention(Attention):
    """Attention of one patch position over frames."""

    def forward(
        self,
        x: Float[Tensor, "B T P E"],
        visible: Bool[Tensor, "T K"],
        past: KeysAndValues | None = None,
        kept: list[KeysAndValues] | None = None,
    ) -> Float[Tensor, "B T P E"]:
        """Attend over K frames: those of `past`, then those of `x`; frame i of `x` to j where ``visible[i, j]``.

        The keys and values of all K are added to the list `kept`.
        """
        qkv = self.qkv(x)
        short = visible.shape[1] <= FRAMES or not torch.is_grad_enabled()
        narrow = short and is_narrow(qkv, self.head_dim)
        heads = "three b t h d p" if narrow else "three (b p) h t d"
        qkv = rearrange(qkv, f"b t p (three h d) -> {heads}", three=3, h=self.num_heads)
        q, k, v = qkv.contiguous() if narrow else qkv
        if past is not None:
            time = 1 if narrow else 2
            k, v = torch.cat([past.keys, k], dim=time), torch.cat([past.values, v], dim=time)
        if kept is not None:
            kept.append(KeysAndValues(k, v))
        if narrow:
            attended = attention_over_frames(q, k, v, visible)
            return self.out(rearrange(attended, "b t h d p -> b t p (h d)"))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        return self.out(rearrange(attended, "(b p) h t d -> b t p (h d)", b=x.shape[0]))
