"""Sinusoidal positions in space and time (Vaswani et al., arXiv 1706.03762, section 3.5)."""

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int64
from torch import Tensor


def split_embedding(embed_dim: int) -> tuple[int, int, int]:
    """How many of the `embed_dim` channels carry x, y and time: about a third each, all even."""
    if embed_dim % 2 or embed_dim < 6:
        raise ValueError(f"embed_dim={embed_dim}: sinusoidal positions need an even number of at least 6 channels")
    time = embed_dim // 3 // 2 * 2
    x = (embed_dim - time) // 4 * 2
    return x, embed_dim - time - x, time


def sincos(positions: Int64[Tensor, " N"], channels: int) -> Float[Tensor, "N channels"]:
    """Sine and cosine of ``position / 10000**(2i/channels)``, in turn along the channels i."""
    frequency = 10000.0 ** (-torch.arange(0, channels, 2, device=positions.device) / channels)
    angle = torch.outer(positions.float(), frequency)
    return rearrange([angle.sin(), angle.cos()], "two n c -> n (c two)")


def spatial_positions(grid: tuple[int, int], embed_dim: int) -> Float[Tensor, "P E"]:
    """Positions of the Hp x Wp patches, row by row: x, then y, then zeros where time goes."""
    rows, columns = grid
    x, y, time = split_embedding(embed_dim)
    along_x = repeat(sincos(torch.arange(columns), x), "w c -> (h w) c", h=rows)
    along_y = repeat(sincos(torch.arange(rows), y), "h c -> (h w) c", w=columns)
    return torch.cat([along_x, along_y, torch.zeros(rows * columns, time)], dim=-1)


def temporal_positions(times: Int64[Tensor, " T"], embed_dim: int) -> Float[Tensor, "T 1 E"]:
    """Positions of frames at `times`, counted from 0: zeros where x and y go, then time."""
    x, y, time = split_embedding(embed_dim)
    along_time = sincos(times, time)
    return rearrange(torch.cat([along_time.new_zeros(len(times), x + y), along_time], dim=-1), "t e -> t 1 e")
