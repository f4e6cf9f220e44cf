"""Plainly written parts of the models in `benchmarks.plain`: norms, attention, space-time transformer, patches, FSQ."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

EPS = 1e-5


def sincos(length: int, channels: int, device: torch.device | None = None) -> Tensor:
    """(length, channels): sine and cosine of each position, in turn."""
    frequency = 1 / 10000 ** (torch.arange(0, channels, 2, device=device) / channels)
    angle = torch.arange(length, device=device).unsqueeze(1) * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def thirds(embed_dim: int) -> tuple[int, int, int]:
    """Channels that carry x, y and time."""
    time = embed_dim // 3 // 2 * 2
    x = (embed_dim - time) // 4 * 2
    return x, embed_dim - time - x, time


def positions_in_space(rows: int, columns: int, embed_dim: int) -> Tensor:
    """(P, E), row by row."""
    x, y, time = thirds(embed_dim)
    along_x = sincos(columns, x).repeat(rows, 1)
    along_y = sincos(rows, y).repeat_interleave(columns, dim=0)
    return torch.cat([along_x, along_y, torch.zeros(rows * columns, time)], dim=1)


def positions_in_time(frames: int, embed_dim: int, device: torch.device) -> Tensor:
    """(T, 1, E)."""
    x, y, time = thirds(embed_dim)
    empty = torch.zeros(frames, x + y, device=device)
    return torch.cat([empty, sincos(frames, time, device)], dim=1).unsqueeze(1)


class RMSNorm(nn.Module):
    """Scale to a mean square of one."""

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(embed_dim))

    def forward(self, x: Tensor, actions: Tensor | None) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.gain


class FiLM(nn.Module):
    """Normalize, then scale and shift by the action that led to the frame."""

    def __init__(self, embed_dim: int, action_dim: int) -> None:
        super().__init__()
        self.scale_and_shift = nn.Linear(action_dim, 2 * embed_dim)

    def forward(self, x: Tensor, actions: Tensor | None) -> Tensor:
        """`actions` (B, T, A), or (B, T-1, A) where none led to the first frame, which is then not modulated."""
        assert actions is not None
        mean = x.mean(-1, keepdim=True)
        variance = (x - mean).pow(2).mean(-1, keepdim=True)
        normed = (x - mean) / torch.sqrt(variance + EPS)
        modulation = self.scale_and_shift(F.silu(actions))
        modulation = F.pad(modulation, (0, 0, x.shape[1] - actions.shape[1], 0))
        scale, shift = modulation.unsqueeze(2).chunk(2, dim=-1)
        return normed * (1 + scale) + shift


def norm(embed_dim: int, action_dim: int | None) -> nn.Module:
    """Modulated by actions where there are any."""
    return RMSNorm(embed_dim) if action_dim is None else FiLM(embed_dim, action_dim)


class Attention(nn.Module):
    """Self-attention along one axis of the tokens, with its residual and norm."""

    def __init__(self, embed_dim: int, num_heads: int, action_dim: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dim, embed_dim)
        self.k = nn.Linear(embed_dim, embed_dim)
        self.v = nn.Linear(embed_dim, embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)
        self.norm = norm(embed_dim, action_dim)

    def attend(self, x: Tensor, split: str, merge: str, *, causal: bool) -> Tensor:
        sizes = {"b": x.shape[0], "h": self.num_heads}
        q, k, v = (rearrange(part(x), split, h=self.num_heads) for part in (self.q, self.k, self.v))
        scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
        if causal:
            length = x.shape[1]
            later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(diagonal=1)
            scores = scores.masked_fill(later, -torch.inf)
        return self.out(rearrange(torch.matmul(F.softmax(scores, dim=-1), v), merge, **sizes))


class SpatialAttention(Attention):
    """Among the tokens of one frame."""

    def forward(self, x: Tensor, actions: Tensor | None) -> Tensor:
        attended = self.attend(x, "b t p (h d) -> (b t) h p d", "(b t) h p d -> b t p (h d)", causal=False)
        return self.norm(x + attended, actions)


class TemporalAttention(Attention):
    """Of one position over the frames up to its own."""

    def forward(self, x: Tensor, actions: Tensor | None) -> Tensor:
        attended = self.attend(x, "b t p (h d) -> (b p) h t d", "(b p) h t d -> b t p (h d)", causal=True)
        return self.norm(x + attended, actions)


class SwiGLU(nn.Module):
    """Feed-forward with a gate, its residual and norm."""

    def __init__(self, embed_dim: int, hidden_dim: int, action_dim: int | None) -> None:
        super().__init__()
        units = 2 * hidden_dim // 3
        self.gate = nn.Linear(embed_dim, units)
        self.value = nn.Linear(embed_dim, units)
        self.out = nn.Linear(units, embed_dim)
        self.norm = norm(embed_dim, action_dim)

    def forward(self, x: Tensor, actions: Tensor | None) -> Tensor:
        return self.norm(x + self.out(F.silu(self.gate(x)) * self.value(x)), actions)


class Block(nn.Module):
    """Space, time, feed-forward."""

    def __init__(self, embed_dim: int, num_heads: int, hidden_dim: int, action_dim: int | None) -> None:
        super().__init__()
        self.spatial = SpatialAttention(embed_dim, num_heads, action_dim)
        self.temporal = TemporalAttention(embed_dim, num_heads, action_dim)
        self.feed_forward = SwiGLU(embed_dim, hidden_dim, action_dim)

    def forward(self, x: Tensor, actions: Tensor | None) -> Tensor:
        return self.feed_forward(self.temporal(self.spatial(x, actions), actions), actions)


class Transformer(nn.Module):
    """Space-time transformer, norms after the residual sums."""

    def __init__(self, sizes: dict[str, Any], action_dim: int | None = None) -> None:
        super().__init__()
        embed_dim, num_heads, hidden_dim = sizes["embed_dim"], sizes["num_heads"], sizes["hidden_dim"]
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, hidden_dim, action_dim) for _ in range(sizes["num_blocks"])
        )

    def forward(self, x: Tensor, actions: Tensor | None = None) -> Tensor:
        x = x + positions_in_time(x.shape[1], x.shape[3], x.device)
        for block in self.blocks:
            x = block(x, actions)
        return x


class PatchEmbedding(nn.Module):
    """(B, T, 3, H, W) to (B, T, P, E)."""

    def __init__(self, frame_size: tuple[int, int], patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, embed_dim, kernel_size=patch_size, stride=patch_size)
        rows, columns = frame_size[0] // patch_size, frame_size[1] // patch_size
        self.register_buffer("positions", positions_in_space(rows, columns, embed_dim), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        embedded = self.embed(rearrange(frames, "b t c h w -> (b t) c h w"))
        return rearrange(embedded, "(b t) e h w -> b t (h w) e", b=frames.shape[0]) + self.positions


class PixelHead(nn.Module):
    """(B, T, P, E) to (B, T, 3, H, W)."""

    def __init__(self, frame_size: tuple[int, int], patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size, self.rows = patch_size, frame_size[0] // patch_size
        self.pixels = nn.Conv2d(embed_dim, 3 * patch_size**2, kernel_size=1)

    def forward(self, tokens: Tensor) -> Tensor:
        pixels = self.pixels(rearrange(tokens, "b t (h w) e -> (b t) e h w", h=self.rows))
        size = {"i": self.patch_size, "j": self.patch_size, "b": tokens.shape[0]}
        return rearrange(pixels, "(b t) (c i j) h w -> b t c (h i) (w j)", **size)


class FSQ:
    """Finite scalar quantization to `num_bins` levels in each dimension."""

    def __init__(self, latent_dim: int, num_bins: int) -> None:
        self.latent_dim, self.num_bins = latent_dim, num_bins

    def quantize(self, z: Tensor) -> Tensor:
        bounded = torch.tanh(z)
        rounded = torch.round((bounded + 1) / 2 * (self.num_bins - 1)) / (self.num_bins - 1) * 2 - 1
        return bounded + (rounded - bounded).detach()

    def indices(self, codes: Tensor) -> Tensor:
        levels = torch.round((codes + 1) / 2 * (self.num_bins - 1)).long()
        return sum((levels[..., i] * self.num_bins**i for i in range(self.latent_dim)), start=torch.tensor(0))

    def codes(self, indices: Tensor) -> Tensor:
        levels = [indices // self.num_bins**i % self.num_bins for i in range(self.latent_dim)]
        return torch.stack(levels, dim=-1) / (self.num_bins - 1) * 2 - 1
