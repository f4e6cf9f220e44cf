"""A block of the space-time transformer: attention within a frame, attention over frames, feed-forward."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from tinyworlds.nn.attention import Attention, KeysAndValues, SpatialAttention, TemporalAttention
from tinyworlds.nn.feed_forward import MoE, Routing, build_feed_forward
from tinyworlds.nn.norms import AdaLNZero, Condition, norm_for
from tinyworlds.nn.positions import Looks

NORMS = ("pre", "post")


class Residual(nn.Module):
    """One part of a block with its norm: ``norm(x + part(x))`` (post) or ``x + part(norm(x))`` (pre).

    With `AdaLNZero`, ``x + gate * part(norm(x))`` (pre) or ``x + gate * norm(part(x))`` (post), so that either is the
    identity at the start.
    """

    def __init__(
        self, part: nn.Module, *, norm: str, embed_dim: int, condition_dim: int | None, conditioning: str
    ) -> None:
        super().__init__()
        self.part: Any = part
        self.norm_first = norm == "pre"
        self.norm = norm_for(embed_dim=embed_dim, condition_dim=condition_dim, conditioning=conditioning)

    def forward(
        self, x: Float[Tensor, "B T P E"], condition: Condition | None, *arguments: Any
    ) -> Float[Tensor, "B T P E"]:
        update = self.part(self.before(x, condition), *arguments)
        if isinstance(self.norm, AdaLNZero):
            return x + self.norm.gated(update if self.norm_first else self.norm(update, condition), condition)
        return x + update if self.norm_first else self.norm(x + update, condition)

    def before(self, x: Float[Tensor, "B T P E"], condition: Condition | None) -> Float[Tensor, "B T P E"]:
        """What the part is given of `x`."""
        return self.norm(x, condition) if self.norm_first else x


class Passed(NamedTuple):
    """What a block makes of tokens: transformed ones; keys and values of temporal attention, where there is one; and
    how tokens were sent to experts, where there are some and they learn."""

    x: Float[Tensor, "B T P E"]
    kept: list[KeysAndValues]
    routed: list[Routing]


class Block(nn.Module):
    """Spatial attention, temporal attention unless ``temporal=False``, feed-forward, each with its residual."""

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        norm: str,
        qk_norm: bool,
        temporal: bool,
        condition_dim: int | None,
        conditioning: str,
        feed_forward: Mapping[str, Any],
    ) -> None:
        super().__init__()

        def residual(part: nn.Module) -> Residual:
            return Residual(
                part, norm=norm, embed_dim=embed_dim, condition_dim=condition_dim, conditioning=conditioning
            )

        def attention(kind: type[Attention]) -> Residual:
            return residual(kind(embed_dim=embed_dim, num_heads=num_heads, qk_norm=qk_norm))

        self.spatial = attention(SpatialAttention)
        self.temporal = attention(TemporalAttention) if temporal else None
        self.feed_forward = residual(build_feed_forward(feed_forward, embed_dim=embed_dim, hidden_dim=hidden_dim))

    def forward(
        self,
        x: Float[Tensor, "B T P E"],
        condition: Condition | None,
        looks: Looks,
        past: KeysAndValues | None = None,
    ) -> Passed:
        x = self.spatial(x, condition, looks.space)
        kept: list[KeysAndValues] = []
        if self.temporal is not None:
            x = self.temporal(x, condition, looks.time, past, kept)
        routed: list[Routing] = []
        x = self.feed_forward(x, condition, *([routed] if isinstance(self.feed_forward.part, MoE) else []))
        return Passed(x, kept, routed)

    def remember(self, x: Float[Tensor, "B T P E"], condition: Condition | None, looks: Looks) -> KeysAndValues:
        """What later frames need of `x`: the keys and values of its temporal attention."""
        assert self.temporal is not None
        x = self.spatial(x, condition, looks.space)
        return self.temporal.part.remember(self.temporal.before(x, condition), looks.time)
