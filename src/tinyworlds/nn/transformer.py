"""The space-time transformer: attention within a frame, causal attention over frames, feed-forward."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tinyworlds.nn.attention import KeysAndValues
from tinyworlds.nn.block import NORMS, Block, Passed
from tinyworlds.nn.feed_forward import SWIGLU, Routing, SwiGLU
from tinyworlds.nn.inference import can_run_blocks, run_blocks
from tinyworlds.nn.norms import FILM, MODULATED, Condition, RMSNorm
from tinyworlds.nn.positions import POSITIONS, ALiBi, Looks, RoPE, Timeline, check_positions

CONDITIONINGS = (*MODULATED, "add", "prepend")


class Past(NamedTuple):
    """What is remembered of a number of `frames`, by each of the blocks."""

    frames: int
    blocks: tuple[KeysAndValues, ...]

    def tiled(self, times: int) -> "Past":
        """That of all clips so many times, one after the other."""
        if times == 1:
            return self
        parts = [[part.repeat(times, *[1] * (part.ndim - 1)) for part in block] for block in self.blocks]
        return Past(self.frames, tuple(KeysAndValues(*block) for block in parts))


class SpaceTimeTransformer(nn.Module):
    """`num_blocks` times spatial and temporal attention and feed-forward (Genie, arXiv 2402.15391, section 2).

    `positions` tell tokens where they are in the `grid` of patches, and when. With `condition_dim`, a frame is told the
    latent of the action that led to it, as `conditioning` says: by every norm (see `MODULATED`); ``add``: an embedding
    of it is added to all its tokens; ``prepend``: such an embedding is a token of its own, before the others, and not
    among those that come out. ``temporal=False`` leaves time out: each frame is then treated by itself. ``norm=pre``
    adds a last norm at the end.

    Raises `ValueError` for an unknown `norm`, `positions` or `conditioning`, or less than one block.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_blocks: int,
        norm: str,
        qk_norm: bool,
        positions: str,
        grid: tuple[int, int],
        temporal: bool = True,
        condition_dim: int | None = None,
        conditioning: str = FILM,
        feed_forward: Mapping[str, Any] = SWIGLU,
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is none of {', '.join(NORMS)}")
        if conditioning not in CONDITIONINGS:
            raise ValueError(f"conditioning={conditioning!r} is none of {', '.join(CONDITIONINGS)}")
        if num_blocks < 1:
            raise ValueError(f"num_blocks={num_blocks} must be at least 1")
        check_positions(positions)
        self.num_heads = num_heads
        self.norm_first = norm == "pre"
        self.temporal = temporal
        self.embed_dim = embed_dim
        in_blocks = conditioning in MODULATED
        self.condition_dim = condition_dim if in_blocks else None  # of the blocks
        self.blocks = nn.ModuleList(
            Block(
                embed_dim=embed_dim,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                norm=norm,
                qk_norm=qk_norm,
                temporal=temporal,
                condition_dim=self.condition_dim,
                conditioning=conditioning,
                feed_forward=feed_forward,
            )
            for _ in range(num_blocks)
        )
        self.last_norm = RMSNorm(embed_dim=embed_dim) if norm == "pre" else None
        self.from_action = None if in_blocks or condition_dim is None else nn.Linear(condition_dim, embed_dim)
        self.extra = int(self.from_action is not None and conditioning == "prepend")  # tokens before those of a frame
        self.positions = POSITIONS[positions](embed_dim=embed_dim, num_heads=num_heads, grid=grid, extra=self.extra)
        self.native = not isinstance(self.positions, ALiBi) and not qk_norm and conditioning != "adaln_zero"
        self.recompute = False  # what each block computes, for its gradient, instead of keeping it
        self.routed: list[list[Routing]] = [[] for _ in self.blocks]  # by block, of the passes since `take_routing`

    def forward(
        self,
        x: Float[Tensor, "B T P E"],
        condition: Condition | None = None,
        timeline: Timeline | None = None,
        past: Past | None = None,
    ) -> Float[Tensor, "B T P E"]:
        """Transform tokens that carry what is added to them of their positions in space already (`added_positions`).

        Without a `timeline` the frames follow those of `past` (see `remember`) and one another, and each sees
        itself and those before it.
        """
        if timeline is None:
            timeline = Timeline.causal(x.shape[1], x.device, past=0 if past is None else past.frames)
        x, condition = self._told(x, condition, timeline)
        if self._runs_natively(x, past):
            x, _ = self._run_natively(x, condition, timeline, past)
        else:
            looks = self.positions.looks(timeline)
            for index, block in enumerate(self.blocks):
                seen = None if past is None else past.blocks[index]
                x, _, routed = self._through(block, x, condition, looks, seen)
                self.routed[index] += routed
        x = x[:, :, self.extra :]
        return x if self.last_norm is None else self.last_norm(x)

    def remember(self, x: Float[Tensor, "B T P E"], condition: Condition | None = None) -> Past:
        """All that later frames need of these, which follow one another from time 0.

        A frame sees none after it, so features of later ones are the same whether they are computed together with
        these or from what is remembered of them. Needs ``temporal=True``.
        """
        timeline = Timeline.causal(x.shape[1], x.device)
        x, condition = self._told(x, condition, timeline)
        if self._runs_natively(x):
            return Past(x.shape[1], self._run_natively(x, condition, timeline, None, remember=True)[1])
        looks = self.positions.looks(timeline)
        remembered: list[KeysAndValues] = []
        *blocks, last = self.blocks
        for index, block in enumerate(blocks):
            x, kept, routed = self._through(block, x, condition, looks)
            remembered += kept
            self.routed[index] += routed
        assert isinstance(last, Block)
        return Past(x.shape[1], (*remembered, last.remember(x, condition, looks)))

    def _told(
        self, x: Float[Tensor, "B T P E"], condition: Condition | None, timeline: Timeline
    ) -> tuple[Float[Tensor, "B T Q E"], Condition | None]:
        """Tokens that know when they are, and of the action where blocks are not told; what these are told."""
        if self.from_action is not None:
            action = torch.zeros_like(x[:, :, :1])
            if condition is not None:
                embedded = self.from_action(condition.latents) * rearrange(condition.given, "t -> t 1")
                action = rearrange(embedded, "b t e -> b t 1 e")
            x = torch.cat([action, x], dim=2) if self.extra else x + action
            condition = None
        return self.positions.add(x, timeline.times) if self.temporal else x, condition

    def _runs_natively(self, x: Float[Tensor, "B T P E"], past: Past | None = None) -> bool:
        """Whether blocks are run without torch, as `tinyworlds.nn.inference` does."""
        block = self.blocks[0]
        assert isinstance(block, Block)
        return (
            self.native
            and can_run_blocks(x, block.spatial.part.head_dim)
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
        turns = []
        if isinstance(self.positions, RoPE):
            turns = [rearrange(self.positions.in_space, "two p 1 c -> two c p"), self.positions.in_time(timeline)]
        x, kept = run_blocks(
            x,
            list(self.blocks.parameters()),
            [] if past is None else [tensor for block in past.blocks for tensor in block],
            timeline.visible,
            *condition,
            turns,
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
        looks: Looks,
        past: KeysAndValues | None = None,
    ) -> Passed:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, x, condition, looks, past, use_reentrant=False, preserve_rng_state=False)
        return block(x, condition, looks, past)

    def take_routing(self) -> tuple[Float[Tensor, ""], list[Routing]]:
        """What experts add to the loss, and how tokens were sent to them, in the passes in training since it was taken.

        Of each block the loss is the mean over these, and there is one of the routings for each. Without experts, 0
        and none.
        """
        loss, taken = torch.zeros(()), []
        for block, routed in zip(self.blocks, self.routed, strict=True):
            assert isinstance(block, Block)
            losses = [block.feed_forward.part.loss(routing) for routing in routed]
            loss = loss + sum(losses) / max(len(losses), 1)
            taken += routed
            routed.clear()
        return loss, taken
