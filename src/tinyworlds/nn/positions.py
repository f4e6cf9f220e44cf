"""How tokens know where and when they are: by sinusoids added to them, or by what attention alone is told."""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

SINCOS = "sincos"
"""The published positions, and those of checkpoints from before there was a choice."""
ROPE_BASE = 100.0
"""Of the wavelengths by which RoPE turns; for pictures, as in Heo et al., arXiv 2403.13298: grids are small."""


class Timeline(NamedTuple):
    """When each of T frames is, `times` from 0, and which of K frames it sees: row sees column where `visible`.

    Of the K frames the first K - T are past ones, of which only keys and values are left.
    """

    times: Int64[Tensor, " T"]
    visible: Bool[Tensor, "T K"]

    @property
    def seen_times(self) -> Int64[Tensor, " K"]:
        """When each of the K frames is: past ones follow one another from time 0."""
        past = self.visible.shape[1] - len(self.times)
        return torch.cat([torch.arange(past, device=self.times.device), self.times])

    @classmethod
    def causal(cls, length: int, device: torch.device | None = None, *, past: int = 0) -> Self:
        """`length` frames one after the other, after `past` others; each sees itself and those before it."""
        total = past + length
        visible = torch.ones(total, total, dtype=torch.bool, device=device).tril()
        return cls(torch.arange(past, total, device=device), visible[past:])

    @classmethod
    def clean_context(cls, frames: int, device: torch.device | None = None) -> Self:
        """Hidden frames 1 … T-1 after clean ones 0 … T-2: hidden frame t sees the clean ones before t and itself."""
        before = torch.ones(frames - 1, frames - 1, dtype=torch.bool, device=device).tril()
        itself = torch.eye(frames - 1, dtype=torch.bool, device=device)
        return cls(torch.arange(1, frames, device=device), torch.cat([before, itself], dim=1))

    @classmethod
    def all_visible(cls, length: int, device: torch.device | None = None) -> Self:
        """`length` frames one after the other, each of which sees all."""
        visible = torch.ones(length, length, dtype=torch.bool, device=device)
        return cls(torch.arange(length, device=device), visible)


class Look(NamedTuple):
    """What attention is told of N tokens along its axis and of the K that they look at.

    `mask`: whom each sees, (N, K), or what is added to the scores of each head, (h, N, K); None: it sees all alike.
    `turns`: cosine and sine of the angles by which pairs of channels of queries and keys are turned, in a shape that
    fits tokens (B, T, P, h, D).
    """

    mask: Bool[Tensor, "N K"] | Float[Tensor, "h N K"] | None = None
    turns: Float[Tensor, "two ..."] | None = None


EVERYWHERE = Look()
"""To see all alike."""


class Looks(NamedTuple):
    """What both attentions of a block are told."""

    space: Look
    time: Look


class Positions(nn.Module):
    """Of tokens of a grid of patches, row by row, over time; the first `extra` tokens of a frame are nowhere in it."""

    def __init__(self, *, embed_dim: int, num_heads: int, grid: tuple[int, int], extra: int) -> None:
        super().__init__()

    def add(self, x: Float[Tensor, "B T P E"], times: Int64[Tensor, " T"]) -> Float[Tensor, "B T P E"]:
        """Tokens with what is added to them of their positions in time."""
        return x

    def looks(self, timeline: Timeline) -> Looks:
        """What attention is told."""
        return Looks(EVERYWHERE, Look(timeline.visible))


class SinCos(Positions):
    """Sinusoids added to tokens: in space where they are embedded (see `added_positions`), in time here."""

    def __init__(self, *, embed_dim: int, num_heads: int, grid: tuple[int, int], extra: int) -> None:
        super().__init__(embed_dim=embed_dim, num_heads=num_heads, grid=grid, extra=extra)
        self.embed_dim = embed_dim

    def add(self, x: Float[Tensor, "B T P E"], times: Int64[Tensor, " T"]) -> Float[Tensor, "B T P E"]:
        return x + temporal_positions(times, self.embed_dim).to(x.dtype)


class RoPE(Positions):
    """Queries and keys turned by angles in proportion to where they are, so that scores depend on differences alone.

    Half of a head's channels turn by the row, half by the column; all by the time (RoFormer, arXiv 2104.09864).
    Tokens that are nowhere are not turned. Keys are remembered as they were turned.

    Raises `ValueError` where a head has no multiple of 4 channels.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, grid: tuple[int, int], extra: int) -> None:
        super().__init__(embed_dim=embed_dim, num_heads=num_heads, grid=grid, extra=extra)
        channels = embed_dim // num_heads
        if channels % 4:
            raise ValueError(
                f"positions=rope turns pairs of channels by row and by column: embed_dim={embed_dim} in "
                f"num_heads={num_heads} is {channels} channels a head, no multiple of 4"
            )
        self.pairs = channels // 2
        angles = torch.cat([_angles(along, self.pairs // 2) for along in _places(grid)], dim=-1)
        turns = rearrange(_turns(F.pad(angles, (0, 0, extra, 0))), "two p c -> two p 1 c")
        self.register_buffer("in_space", turns, persistent=False)
        self.in_space: Tensor

    def looks(self, timeline: Timeline) -> Looks:
        turns = rearrange(self.in_time(timeline), "two t c -> two t 1 1 c")
        return Looks(Look(turns=self.in_space), Look(timeline.visible, turns))

    def in_time(self, timeline: Timeline) -> Float[Tensor, "two T pairs"]:
        """Cosines and sines of the angles of frames."""
        return _turns(_angles(timeline.times, self.pairs))


class ALiBi(Positions):
    """Scores lowered in proportion to distance, of head i of h by ``2**(-8 i / h)`` (Press et al., arXiv 2108.12409).

    In time distance is that of frames; in space it is rows and columns apart, added up, and so tells no left from
    right. Tokens that are nowhere are near to all.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, grid: tuple[int, int], extra: int) -> None:
        super().__init__(embed_dim=embed_dim, num_heads=num_heads, grid=grid, extra=extra)
        slopes = 2.0 ** (-8 * torch.arange(1, num_heads + 1) / num_heads)
        self.register_buffer("slopes", rearrange(slopes, "h -> h 1 1"), persistent=False)
        self.slopes: Tensor
        rows, columns = (_distances(along, along) for along in _places(grid))
        bias = -self.slopes * F.pad(rows + columns, (extra, 0, extra, 0))
        self.register_buffer("in_space", bias, persistent=False)
        self.in_space: Tensor

    def looks(self, timeline: Timeline) -> Looks:
        bias = -self.slopes * _distances(timeline.times, timeline.seen_times)
        return Looks(Look(self.in_space), Look(bias.masked_fill(~timeline.visible, -torch.inf)))


POSITIONS: dict[str, type[Positions]] = {SINCOS: SinCos, "rope": RoPE, "alibi": ALiBi}


def turned(x: Float[Tensor, "*batch D"], turns: Float[Tensor, "two ..."]) -> Float[Tensor, "*batch D"]:
    """Each pair of channels i, i + D/2 turned by its angle, of which `turns` are cosine and sine."""
    cosine, sine = turns.to(x.dtype)
    other = x.roll(x.shape[-1] // 2, dims=-1)  # of the pair
    return torch.addcmul(x * torch.cat([cosine, cosine], dim=-1), other, torch.cat([-sine, sine], dim=-1))


def split_embedding(embed_dim: int) -> tuple[int, int, int]:
    """How many of the `embed_dim` channels carry x, y and time: about a third each, all even."""
    if embed_dim % 2 or embed_dim < 6:
        raise ValueError(f"embed_dim={embed_dim}: sinusoidal positions need an even number of at least 6 channels")
    time = embed_dim // 3 // 2 * 2
    x = (embed_dim - time) // 4 * 2
    return x, embed_dim - time - x, time


def sincos(positions: Int64[Tensor, " N"], channels: int) -> Float[Tensor, "N channels"]:
    """Sine and cosine of ``position / 10000**(2i/channels)``, in turn along the channels i.

    Vaswani et al., arXiv 1706.03762, section 3.5.
    """
    frequency = 10000.0 ** (-torch.arange(0, channels, 2, device=positions.device) / channels)
    angle = torch.outer(positions.float(), frequency)
    return rearrange([angle.sin(), angle.cos()], "two n c -> n (c two)")


def check_positions(kind: str) -> None:
    """
    Raises:
        ValueError: there is no such kind of positions.
    """
    if kind not in POSITIONS:
        raise ValueError(f"positions={kind!r} is none of {', '.join(POSITIONS)}")


def added_positions(kind: str, grid: tuple[int, int], embed_dim: int) -> Float[Tensor, "P E"]:
    """What is added to the Hp x Wp patches where they are embedded: nothing, unless positions are sinusoids.

    Raises:
        ValueError: there is no such kind of positions.
    """
    check_positions(kind)
    return spatial_positions(grid, embed_dim) if kind == SINCOS else torch.zeros(grid[0] * grid[1], embed_dim)


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


def _places(grid: tuple[int, int]) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
    """The row and the column of each patch."""
    rows, columns = torch.meshgrid(*map(torch.arange, grid), indexing="ij")
    return rows.flatten(), columns.flatten()


def _distances(here: Int64[Tensor, " N"], there: Int64[Tensor, " K"]) -> Float[Tensor, "N K"]:
    return (here.unsqueeze(1) - there).abs().float()


def _angles(positions: Int64[Tensor, " N"], pairs: int) -> Float[Tensor, "N pairs"]:
    """``position / ROPE_BASE**(i/pairs)`` for each pair of channels i."""
    return torch.outer(positions.float(), ROPE_BASE ** (-torch.arange(pairs, device=positions.device) / pairs))


def _turns(angles: Float[Tensor, "N pairs"]) -> Float[Tensor, "two N pairs"]:
    return torch.stack([angles.cos(), angles.sin()])
