"""The space-time transformer: attention within a frame, causal attention over frames, feed-forward."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tinyworlds.nn.attention import KeysAndValues, SpatialAttention, TemporalAttention
from tinyworlds.nn.feed_forward import SwiGLU
from tinyworlds.nn.norms import Condition, RMSNorm, norm_for
from tinyworlds.nn.positions import temporal_positions

NORMS = ("pre", "post")


class Timeline(NamedTuple):
    """When each of T frames is, `times` from 0, and which of K frames it sees: row sees column where `visible`.

    Of the K frames the first K - T are past ones, of which only keys and values are left.
    """

    times: Int64[Tensor, " T"]
    visible: Bool[Tensor, "T K"]

    @classmethod
    def causal(cls, length: int, device: torch.device | None = None, *, past: int = 0) -> Self:
        """`length` frames one after the other, after `past` others; each sees itself and those before it."""
        total = past + length
        visible = torch.ones(total, total, dtype=torch.bool, device=device).tril()
        return cls(torch.arange(past, total, device=device), visible[past:])


class Residual(nn.Module):
    """One part of a block with its norm: ``norm(x + part(x))`` (post) or ``x + part(norm(x))`` (pre)."""

    def __init__(self, part: nn.Module, *, norm: str, embed_dim: int, condition_dim: int | None) -> None:
        super().__init__()
        self.part = part
        self.norm_first = norm == "pre"
        self.norm = norm_for(embed_dim=embed_dim, condition_dim=condition_dim)

    def forward(
        self, x: Float[Tensor, "B T P E"], condition: Condition | None, *arguments: Any
    ) -> Float[Tensor, "B T P E"]:
        if self.norm_first:
            return x + self.part(self.norm(x, condition), *arguments)
        return self.norm(x + self.part(x, *arguments), condition)


class Block(nn.Module):
    """Spatial attention, temporal attention unless ``temporal=False``, feed-forward, each with its residual."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        norm: str,
        temporal: bool,
        condition_dim: int | None,
    ) -> None:
        super().__init__()

        def residual(part: nn.Module) -> Residual:
            return Residual(part, norm=norm, embed_dim=embed_dim, condition_dim=condition_dim)

        self.spatial = residual(SpatialAttention(embed_dim=embed_dim, num_heads=num_heads))
        self.temporal = residual(TemporalAttention(embed_dim=embed_dim, num_heads=num_heads)) if temporal else None
        self.feed_forward = residual(SwiGLU(embed_dim=embed_dim, hidden_dim=hidden_dim))

    def forward(
        self,
        x: Float[Tensor, "B T P E"],
        condition: Condition | None,
        timeline: Timeline,
        past: KeysAndValues | None,
        kept: list[KeysAndValues] | None,
    ) -> Float[Tensor, "B T P E"]:
        x = self.spatial(x, condition)
        if self.temporal is not None:
            x = self.temporal(x, condition, timeline.visible, past, kept)
        return self.feed_forward(x, condition)


class SpaceTimeTransformer(nn.Module):
    """`num_blocks` times spatial and temporal attention and feed-forward (Genie, arXiv 2402.15391, section 2).

    With `condition_dim`, every norm is modulated by the action latent of its frame. ``temporal=False``
    leaves time out: each frame is then treated by itself. ``norm=pre`` adds a last norm at the end.

    Raises `ValueError` for an unknown `norm` or less than one block.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_blocks: int,
        norm: str,
        temporal: bool = True,
        condition_dim: int | None = None,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is none of {', '.join(NORMS)}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks={num_blocks} must be at least 1")
        self.embed_dim = embed_dim
        self.temporal = temporal
        self.blocks = nn.ModuleList(
            Block(
                embed_dim=embed_dim,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                norm=norm,
                temporal=temporal,
                condition_dim=condition_dim,
            )
            for _ in range(num_blocks)
        )
        self.last_norm = RMSNorm(embed_dim=embed_dim) if norm == "pre" else None

    def forward(
        self,
        x: Float[Tensor, "B T P E"],
        condition: Condition | None = None,
        timeline: Timeline | None = None,
        past: Sequence[KeysAndValues] | None = None,
        kept: list[KeysAndValues] | None = None,
    ) -> Float[Tensor, "B T P E"]:
        """Transform tokens that carry their positions in space already; those in time are added here.

        Without a `timeline` the frames follow one another and each sees itself and those before it. What each
        block knows of the frames is added to `kept`, and may be given as the `past` of later ones: the features
        of frames that see nothing after them don't depend on whether they are computed with those or before.
        """
        timeline = timeline or Timeline.causal(x.shape[1], x.device)
        if self.temporal:
            x = x + temporal_positions(timeline.times, self.embed_dim).to(x.dtype)
        for index, block in enumerate(self.blocks):
            x = block(x, condition, timeline, None if past is None else past[index], kept)
        return x if self.last_norm is None else self.last_norm(x)
