"""The space-time transformer: attention within a frame, causal attention over frames, feed-forward."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyworlds.nn.attention import KeysAndValues, SpatialAttention, TemporalAttention
from tinyworlds.nn.feed_forward import SWIGLU, MoE, SwiGLU, build_feed_forward
from tinyworlds.nn.inference import can_run_blocks, run_blocks
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

    @classmethod
    def clean_context(cls, frames: int, device: torch.device | None = None) -> Self:
        """Hidden frames 1 … T-1 after clean ones 0 … T-2: hidden frame t sees the clean ones before t and itself."""
        before = torch.ones(frames - 1, frames - 1, dtype=torch.bool, device=device).tril()
        itself = torch.eye(frames - 1, dtype=torch.bool, device=device)
        return cls(torch.arange(1, frames, device=device), torch.cat([before, itself], dim=1))


class Past(NamedTuple):
    """What is remembered of a number of `frames`, by each of the blocks."""

    frames: int
    blocks: tuple[KeysAndValues, ...]


class Residual(nn.Module):
    """One part of a block with its norm: ``norm(x + part(x))`` (post) or ``x + part(norm(x))`` (pre)."""

    def __init__(self, part: nn.Module, *, norm: str, embed_dim: int, condition_dim: int | None) -> None:
        super().__init__()
        self.part: Any = part
        self.norm_first = norm == "pre"
        self.norm = norm_for(embed_dim=embed_dim, condition_dim=condition_dim)

    def forward(
        self, x: Float[Tensor, "B T P E"], condition: Condition | None, *arguments: Any
    ) -> Float[Tensor, "B T P E"]:
        update = self.part(self.before(x, condition), *arguments)
        return x + update if self.norm_first else self.norm(x + update, condition)

    def before(self, x: Float[Tensor, "B T P E"], condition: Condition | None) -> Float[Tensor, "B T P E"]:
        """What the part is given of `x`."""
        return self.norm(x, condition) if self.norm_first else x


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
        feed_forward: Mapping[str, Any],
    ) -> None:
        super().__init__()

        def residual(part: nn.Module) -> Residual:
            return Residual(part, norm=norm, embed_dim=embed_dim, condition_dim=condition_dim)

        self.spatial = residual(SpatialAttention(embed_dim=embed_dim, num_heads=num_heads))
        self.temporal = residual(TemporalAttention(embed_dim=embed_dim, num_heads=num_heads)) if temporal else None
        self.feed_forward = residual(build_feed_forward(feed_forward, embed_dim=embed_dim, hidden_dim=hidden_dim))

    def forward(
        self,
        x: Float[Tensor, "B T P E"],
        condition: Condition | None,
        timeline: Timeline,
        past: KeysAndValues | None = None,
    ) -> tuple[Float[Tensor, "B T P E"], list[KeysAndValues]]:
        """Transformed tokens, and the keys and values of temporal attention, where there is one."""
        x = self.spatial(x, condition)
        kept: list[KeysAndValues] = []
        if self.temporal is not None:
            x = self.temporal(x, condition, timeline.visible, past, kept)
        return self.feed_forward(x, condition), kept

    def remember(self, x: Float[Tensor, "B T P E"], condition: Condition | None) -> KeysAndValues:
        """What later frames need of `x`: the keys and values of its temporal attention."""
        assert self.temporal is not None
        return self.temporal.part.remember(self.temporal.before(self.spatial(x, condition), condition))


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
        feed_forward: Mapping[str, Any] = SWIGLU,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is none of {', '.join(NORMS)}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks={num_blocks} must be at least 1")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.norm_first = norm == "pre"
        self.temporal = temporal
        self.condition_dim = condition_dim
        self.blocks = nn.ModuleList(
            Block(
                embed_dim=embed_dim,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                norm=norm,
                temporal=temporal,
                condition_dim=condition_dim,
                feed_forward=feed_forward,
            )
            for _ in range(num_blocks)
        )
        self.last_norm = RMSNorm(embed_dim=embed_dim) if norm == "pre" else None
        self.recompute = False  # what each block computes, for its gradient, instead of keeping it

    def forward(
        self,
        x: Float[Tensor, "B T P E"],
        condition: Condition | None = None,
        timeline: Timeline | None = None,
        past: Past | None = None,
    ) -> Float[Tensor, "B T P E"]:
        """Transform tokens that carry their positions in space already; those in time are added here.

        Without a `timeline` the frames follow those of `past` (see `remember`) and one another, and each sees
        itself and those before it.
        """
        if timeline is None:
            timeline = Timeline.causal(x.shape[1], x.device, past=0 if past is None else past.frames)
        x = self._at(x, timeline)
        if self._runs_natively(x, past):
            x, _ = self._run_natively(x, condition, timeline, past)
        else:
            for index, block in enumerate(self.blocks):
                x, _ = self._through(block, x, condition, timeline, None if past is None else past.blocks[index])
        return x if self.last_norm is None else self.last_norm(x)

    def remember(self, x: Float[Tensor, "B T P E"], condition: Condition | None = None) -> Past:
        """All that later frames need of these, which follow one another from time 0.

        A frame sees none after it, so features of later ones are the same whether they are computed together with
        these or from what is remembered of them. Needs ``temporal=True``.
        """
        timeline = Timeline.causal(x.shape[1], x.device)
        x = self._at(x, timeline)
        if self._runs_natively(x):
            return Past(x.shape[1], self._run_natively(x, condition, timeline, None, remember=True)[1])
        kept: list[KeysAndValues] = []
        *blocks, last = self.blocks
        for block in blocks:
            x, own = self._through(block, x, condition, timeline)
            kept += own
        assert isinstance(last, Block)
        return Past(x.shape[1], (*kept, last.remember(x, condition)))

    def _runs_natively(self, x: Float[Tensor, "B T P E"], past: Past | None = None) -> bool:
        """Whether blocks are run without torch, as `tinyworlds.nn.inference` does."""
        block = self.blocks[0]
        assert isinstance(block, Block)
        return (
            can_run_blocks(x, block.spatial.part.head_dim)
            and isinstance(block.feed_forward.part, SwiGLU)
            and type(block.spatial.part.out.weight) is nn.Parameter  # and not part of one, as under FSDP
            and not (past is not None and past.blocks[0].for_torch)
        )

    def _run_natively(
        self,
        x: Float[Tensor, "B T P E"],
        condition: Condition | None,
        timeline: Timeline,
        past: Past | None,
        *,
        remember: bool = False,
    ) -> tuple[Float[Tensor, "B T P E"], tuple[KeysAndValues, ...]]:
        if condition is None:
            latents = x.new_zeros(*x.shape[:2], self.condition_dim or 0)
            condition = Condition(latents, torch.zeros_like(timeline.times, dtype=torch.bool))
        x, kept = run_blocks(
            x,
            list(self.blocks.parameters()),
            [] if past is None else [tensor for block in past.blocks for tensor in block],
            timeline.visible,
            *condition,
            len(self.blocks),
            self.num_heads,
            self.norm_first,
            self.temporal,
            remember,
        )
        return x, tuple(map(KeysAndValues, kept[::2], kept[1::2]))

    def _through(
        self,
        block: nn.Module,
        x: Float[Tensor, "B T P E"],
        condition: Condition | None,
        timeline: Timeline,
        past: KeysAndValues | None = None,
    ) -> tuple[Float[Tensor, "B T P E"], list[KeysAndValues]]:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, x, condition, timeline, past, use_reentrant=False, preserve_rng_state=False)
        return block(x, condition, timeline, past)

    def _at(self, x: Float[Tensor, "B T P E"], timeline: Timeline) -> Float[Tensor, "B T P E"]:
        return x + temporal_positions(timeline.times, self.embed_dim).to(x.dtype) if self.temporal else x

    def balance_loss(self) -> Float[Tensor, ""]:
        """What the last forward pass in training adds to the loss, so that experts share the work (see `MoE`)."""
        return sum((part.balance_loss for part in self.modules() if isinstance(part, MoE)), torch.zeros(()))
