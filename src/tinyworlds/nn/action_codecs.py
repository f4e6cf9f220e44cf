"""The halves of an action tokenizer: encoders of what happened between frames, decoders that make it happen."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tinyworlds import parallel
from tinyworlds.nn.choices import build_choice
from tinyworlds.nn.motion import MotionDecoder, MotionEncoder
from tinyworlds.nn.norms import Condition
from tinyworlds.nn.patches import PatchEmbedding, PixelHead
from tinyworlds.nn.positions import SINCOS, Timeline
from tinyworlds.nn.transformer import SpaceTimeTransformer

EARLIER: Mapping[str, Any] = {"qk_norm": False, "positions": SINCOS}
"""Of transformers in checkpoints from before there was a choice."""


class MeanConcatEncoder(nn.Module):
    """The published encoder: space-time transformer, each frame's tokens averaged, neighbours concatenated."""

    temporal = True
    earlier: ClassVar[Mapping[str, Any]] = EARLIER

    def __init__(
        self,
        *,
        frame_size: tuple[int, int],
        latent_dim: int,
        patch_size: int,
        patches: str,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_blocks: int,
        norm: str,
        qk_norm: bool,
        positions: str,
    ) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(
            frame_size=frame_size, patch_size=patch_size, embed_dim=embed_dim, patches=patches, positions=positions
        )
        self.transformer = SpaceTimeTransformer(
            embed_dim=embed_dim,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            num_blocks=num_blocks,
            norm=norm,
            qk_norm=qk_norm,
            positions=positions,
            grid=self.patch_embedding.grid,
        )
        self.head = nn.Sequential(
            nn.LayerNorm(2 * embed_dim),
            nn.Linear(2 * embed_dim, 4 * latent_dim),
            nn.GELU(),
            nn.Linear(4 * latent_dim, latent_dim),
        )

    def forward(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T-1 A"]:
        """The continuous latent of each transition."""
        return self.head(self.pooled(frames))

    def pooled(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T-1 F"]:
        """What the head reads of each transition: the mean token of the frame before, and that of the frame after."""
        means = self.transformer(self.patch_embedding(frames)).mean(dim=2)
        return torch.cat([means[:, :-1], means[:, 1:]], dim=-1)


class WindowAttentionEncoder(MeanConcatEncoder):
    """The same for windows of two frames, each of which sees the other at its place before they are averaged.

    So a transition depends on its two frames alone, and tokens are compared where they are.
    """

    temporal = False

    def pooled(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T-1 F"]:
        tokens = self.patch_embedding(frames)
        windows = rearrange([tokens[:, :-1], tokens[:, 1:]], "two b t p e -> (b t) two p e")
        attended = self.transformer(windows, timeline=Timeline.all_visible(2, frames.device))
        return rearrange(attended.mean(dim=2), "(b t) two e -> b t (two e)", b=len(frames))


class MaskedDecoder(nn.Module):
    """The published decoder: a space-time transformer whose every norm the action of the frame modulates.

    In training each token after the first frame is hidden with probability `mask_ratio`, so that what
    happens can only be learned from the actions.
    """

    earlier: ClassVar[Mapping[str, Any]] = EARLIER

    def __init__(
        self,
        *,
        frame_size: tuple[int, int],
        latent_dim: int,
        patch_size: int,
        patches: str,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_blocks: int,
        norm: str,
        qk_norm: bool,
        positions: str,
        mask_ratio: float,
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio <= 1:
            raise ValueError(f"decoder.mask_ratio={mask_ratio} is a share, from 0 to 1")
        self.mask_ratio = mask_ratio
        self.patch_embedding = PatchEmbedding(
            frame_size=frame_size, patch_size=patch_size, embed_dim=embed_dim, patches=patches, positions=positions
        )
        self.mask_token = nn.Parameter(torch.zeros(embed_dim))
        self.transformer = SpaceTimeTransformer(
            embed_dim=embed_dim,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            num_blocks=num_blocks,
            norm=norm,
            qk_norm=qk_norm,
            positions=positions,
            grid=self.patch_embedding.grid,
            condition_dim=latent_dim,
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.pixel_head = PixelHead(frame_size=frame_size, patch_size=patch_size, embed_dim=embed_dim, patches=patches)

    def forward(self, frames: Float[Tensor, "B T C H W"], codes: Float[Tensor, "B T A"]) -> Float[Tensor, "B T C H W"]:
        """For each of `frames`, the frame that follows it under the action `codes`."""
        tokens = self.patch_embedding(frames)
        if self.training:
            hidden = parallel.rand(tokens.shape[:3], device=tokens.device) < self.mask_ratio
            hidden[:, 0] = False
            tokens = torch.where(hidden.unsqueeze(-1), self.mask_token, tokens)
        every = torch.ones(frames.shape[1], dtype=torch.bool, device=frames.device)
        return self.pixel_head(self.norm(self.transformer(tokens, Condition(codes, every)))).tanh()


ENCODERS: dict[str, type[nn.Module]] = {
    "mean_concat": MeanConcatEncoder,
    "window_attention": WindowAttentionEncoder,
    "motion": MotionEncoder,
}
DECODERS: dict[str, type[nn.Module]] = {"masked": MaskedDecoder, "motion": MotionDecoder}


def build_encoder(options: Mapping[str, Any], *, frame_size: tuple[int, int], latent_dim: int) -> nn.Module:
    """The encoder that ``options["name"]`` names, with the other options as its arguments."""
    return build_choice(ENCODERS, "encoder", options, frame_size=frame_size, latent_dim=latent_dim)


def build_decoder(options: Mapping[str, Any], *, frame_size: tuple[int, int], latent_dim: int) -> nn.Module:
    """The decoder that ``options["name"]`` names, with the other options as its arguments."""
    return build_choice(DECODERS, "decoder", options, frame_size=frame_size, latent_dim=latent_dim)
