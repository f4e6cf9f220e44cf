"""Multi-head self-attention over one axis of a space-time grid of tokens."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tinyworlds.nn.narrow import attend, attend_over_frames, is_narrow
from tinyworlds.nn.norms import EPS
from tinyworlds.nn.positions import EVERYWHERE, Look, turned


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

    With `qk_norm` the queries and the keys of each head are normalized, and so their scores bounded whatever the
    weights grow to (Henry et al., arXiv 2010.04245; RMS norms with a gain for each channel, as in Qwen3, 2505.09388).

    Raises `ValueError` where `embed_dim` does not divide into `num_heads`.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} does not divide into num_heads={num_heads} equal heads")
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.query_norm, self.key_norm = (nn.RMSNorm(self.head_dim, eps=EPS) if qk_norm else None for _ in range(2))

    def _prepared(self, projected: Float[Tensor, "B T P F"], look: Look, *, parts: int) -> Float[Tensor, "B T P F"]:
        """Queries, keys and values, or the last two alone: the former normalized and turned if they are to be."""
        if self.query_norm is None and look.turns is None:
            return projected
        heads = rearrange(projected, "b t p (h d) -> b t p h d", h=parts * self.num_heads)
        scored, values = heads.tensor_split([(parts - 1) * self.num_heads], dim=-2)
        if self.query_norm is not None and self.key_norm is not None:
            norms = (self.query_norm, self.key_norm)[3 - parts :]
            each = zip(norms, scored.chunk(parts - 1, dim=-2), strict=True)
            scored = torch.cat([norm(part) for norm, part in each], dim=-2).to(values.dtype)
        if look.turns is not None:
            scored = turned(scored, look.turns)
        return torch.cat([scored, values], dim=-2).flatten(-2)


class SpatialAttention(Attention):
    """Attention among the P tokens of one frame."""

    def forward(self, x: Float[Tensor, "B T P E"], look: Look = EVERYWHERE) -> Float[Tensor, "B T P E"]:
        qkv = self._prepared(self.qkv(x), look, parts=3)
        if look.mask is None and is_narrow(qkv, self.head_dim):
            return self.out(attend(qkv.flatten(0, 1), self.num_heads)[0].view(x.shape))
        q, k, v = rearrange(qkv, "b t p (three h d) -> three (b t) h p d", three=3, h=self.num_heads)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=_mask_for(q, look))
        return self.out(rearrange(attended, "(b t) h p d -> b t p (h d)", b=len(x)))


class TemporalAttention(Attention):
    """Attention of one patch position over frames."""

    def forward(
        self,
        x: Float[Tensor, "B T P E"],
        look: Look,
        past: KeysAndValues | None = None,
        kept: list[KeysAndValues] | None = None,
    ) -> Float[Tensor, "B T P E"]:
        """Attend over K frames: those of `past`, then those of `x`, as `look` says.

        The keys and values of `x` are added to `kept`.
        """
        qkv = self._prepared(self.qkv(x), look, parts=3)
        q, keys, values = self._heads(qkv, look, parts=3)
        if kept is not None:
            kept.append(KeysAndValues(keys, values))
        if self._is_narrow(qkv, look):
            past_keys, past_values = (q[:, :0], q[:, :0]) if past is None else past
            attended = attend_over_frames(past_keys, past_values, keys, values, q, look.mask)
            return self.out(rearrange(attended, "b t h d p -> b t p (h d)"))
        if past is not None:
            if not past.for_torch:
                past = KeysAndValues(*(rearrange(part, "b n h d p -> (b p) h n d") for part in past))
            keys, values = torch.cat([past.keys, keys], dim=2), torch.cat([past.values, values], dim=2)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=_mask_for(q, look))
        return self.out(rearrange(attended, "(b p) h t d -> b t p (h d)", b=x.shape[0]))

    def remember(self, x: Float[Tensor, "B T P E"], look: Look) -> KeysAndValues:
        """The keys and values of `x` alone, where nothing of it is to be computed further."""
        width = x.shape[-1]
        projected = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        return KeysAndValues(*self._heads(self._prepared(projected, look, parts=2), look, parts=2))

    def _heads(self, projected: Float[Tensor, "B T P F"], look: Look, *, parts: int) -> Tensor:
        """Queries, keys, values: `parts` of them, (B, T, h, D, P) where heads are narrow, else ((B P), h, T, D)."""
        if self._is_narrow(projected, look):
            return rearrange(
                projected, "b t p (parts h d) -> parts b t h d p", parts=parts, h=self.num_heads
            ).contiguous()
        return rearrange(projected, "b t p (parts h d) -> parts (b p) h t d", parts=parts, h=self.num_heads)

    def _is_narrow(self, projected: Float[Tensor, "B T P F"], look: Look) -> bool:
        """Whether C++ attends: it takes no mask that is added to scores."""
        return look.mask is not None and look.mask.dtype == torch.bool and is_narrow(projected, self.head_dim)


def _mask_for(queries: Tensor, look: Look) -> Tensor | None:
    """The mask in a type that goes with that of the queries."""
    mask = look.mask
    return mask if mask is None or mask.dtype == torch.bool else mask.to(queries.dtype)
