"""Multi-head self-attention over one axis of a space-time grid of tokens."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tinyworlds.nn.narrow import attend, attend_over_frames, is_narrow


class KeysAndValues(NamedTuple):
    """What temporal attention needs of n frames already seen: both (B, n, h, D, P), or both ((B P), h, n, D).

    The former where C++ made it, for narrow heads or without a gradient; the latter is what torch's kernel wants.
    """

    keys: Tensor
    values: Tensor

    @property
    def for_torch(self) -> bool:
        """Which of the two it is."""
        return self.keys.ndim == 4


class Attention(nn.Module):
    """Scaled dot-product self-attention (Vaswani et al., arXiv 1706.03762), along one axis.

    Raises `ValueError` where `embed_dim` does not divide into `num_heads`.
    """

    def __init__(self, *, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} does not divide into num_heads={num_heads} equal heads")
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)


class SpatialAttention(Attention):
    """Attention among the P tokens of one frame."""

    def forward(self, x: Float[Tensor, "B T P E"]) -> Float[Tensor, "B T P E"]:
        qkv = self.qkv(x)
        if is_narrow(qkv, self.head_dim):
            return self.out(attend(qkv.flatten(0, 1), self.num_heads)[0].view(x.shape))
        q, k, v = rearrange(qkv, "b t p (three h d) -> three (b t) h p d", three=3, h=self.num_heads)
        return self.out(rearrange(F.scaled_dot_product_attention(q, k, v), "(b t) h p d -> b t p (h d)", b=len(x)))


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

        The keys and values of `x` are added to `kept`.
        """
        qkv = self.qkv(x)
        q, keys, values = self._heads(qkv, parts=3)
        if kept is not None:
            kept.append(KeysAndValues(keys, values))
        if is_narrow(qkv, self.head_dim):
            past_keys, past_values = (q[:, :0], q[:, :0]) if past is None else past
            attended = attend_over_frames(past_keys, past_values, keys, values, q, visible)
            return self.out(rearrange(attended, "b t h d p -> b t p (h d)"))
        if past is not None:
            if not past.for_torch:
                past = KeysAndValues(*(rearrange(part, "b n h d p -> (b p) h n d") for part in past))
            keys, values = torch.cat([past.keys, keys], dim=2), torch.cat([past.values, values], dim=2)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=visible)
        return self.out(rearrange(attended, "(b p) h t d -> b t p (h d)", b=x.shape[0]))

    def remember(self, x: Float[Tensor, "B T P E"]) -> KeysAndValues:
        """The keys and values of `x` alone, where nothing of it is to be computed further."""
        width = x.shape[-1]
        projected = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        return KeysAndValues(*self._heads(projected, parts=2))

    def _heads(self, projected: Float[Tensor, "B T P F"], *, parts: int) -> Tensor:
        """Queries, keys, values: `parts` of them, (B, T, h, D, P) where heads are narrow, else ((B P), h, T, D)."""
        if is_narrow(projected, self.head_dim):
            return rearrange(
                projected, "b t p (parts h d) -> parts b t h d p", parts=parts, h=self.num_heads
            ).contiguous()
        return rearrange(projected, "b t p (parts h d) -> parts (b p) h t d", parts=parts, h=self.num_heads)
