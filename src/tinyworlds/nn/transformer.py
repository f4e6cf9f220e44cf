"""The space-time transformer: attention within a frame, causal attention over frames, feed-forward."""

from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tinyworlds.nn.attention import SpatialAttention, TemporalAttention
from tinyworlds.nn.feed_forward import SwiGLU
from tinyworlds.nn.norms import Condition, RMSNorm, norm_for
from tinyworlds.nn.positions import temporal_positions

NORMS = ("pre", "post")


class Timeline(NamedTuple):
    """When each frame is, `times` (T,) from 0, and which frames it sees, `visible` (T, T): row sees column."""

    times: Int64[Tensor, " T"]
    visible: Bool[Tensor, "T T"]

    @classmethod
    def causal(cls, length: int, device: torch.device | None = None) -> Self:
        """Frames one after the other, each of which sees itself and those before it."""
        return cls(
            torch.arange(length, device=device),
            torch.ones(length, length, dtype=torch.bool, device=device).tril(),
        )


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
        self, x: Float[Tensor, "B T P E"], condition: Condition | None, timeline: Timeline
    ) -> Float[Tensor, "B T P E"]:
        x = self.spatial(x, condition)
        if self.temporal is not None:
            x = self.temporal(x, condition, timeline.visible)
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
    ) -> Float[Tensor, "B T P E"]:
        """Transform tokens that carry their positions in space already; those in time are added here.

        Without a `timeline` the frames follow one another and each sees itself and those before it.
        """
        timeline = timeline or Timeline.causal(x.shape[1], x.device)
        if self.temporal:
            x = x + temporal_positions(timeline.times, self.embed_dim).to(x.dtype)
        for block in self.blocks:
            x = block(x, condition, timeline)
        return x if self.last_norm is None else self.last_norm(x)
