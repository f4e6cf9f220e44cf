"""The halves of an action tokenizer: encoders of what happened between frames, decoders that make it happen."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tinyworlds import parallel
from tinyworlds.nn.choices import build_choice
from tinyworlds.nn.motion import MotionDecoder, MotionEncoder
from tinyworlds.nn.norms import Condition
from tinyworlds.nn.patches import PatchEmbedding, PixelHead
from tinyworlds.nn.transformer import SpaceTimeTransformer


class MeanConcatEncoder(nn.Module):
    """The published encoder: space-time transformer, each frame's tokens averaged, neighbours concatenated."""

    temporal = True

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
    ) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(
            frame_size=frame_size, patch_size=patch_size, embed_dim=embed_dim, patches=patches
        )
        self.transformer = SpaceTimeTransformer(
            embed_dim=embed_dim, num_heads=num_heads, hidden_dim=hidden_dim, num_blocks=num_blocks, norm=norm
        )
        self.head = nn.Sequential(
            nn.LayerNorm(2 * embed_dim),
            nn.Linear(2 * embed_dim, 4 * latent_dim),
            nn.GELU(),
            nn.Linear(4 * latent_dim, latent_dim),
        )

    def forward(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T-1 A"]:
        """The continuous latent of each transition."""
        pooled = self.transformer(self.patch_embedding(frames)).mean(dim=2)
        return self.head(torch.cat([pooled[:, :-1], pooled[:, 1:]], dim=-1))


class MaskedDecoder(nn.Module):
    """The published decoder: a space-time transformer whose every norm the action of the frame modulates.

    In training each token after the first frame is hidden with probability `mask_ratio`, so that what
    happens can only be learned from the actions.
    """

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
        mask_ratio: float,
    ) -> None:
        super().__init__()
        if not 0 <= mask_ratio <= 1:
            raise ValueError(f"decoder.mask_ratio={mask_ratio} is a share, from 0 to 1")
        self.mask_ratio = mask_ratio
        self.patch_embedding = PatchEmbedding(
            frame_size=frame_size, patch_size=patch_size, embed_dim=embed_dim, patches=patches
        )
        self.mask_token = nn.Parameter(torch.zeros(embed_dim))
        self.transformer = SpaceTimeTransformer(
            embed_dim=embed_dim,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            num_blocks=num_blocks,
            norm=norm,
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


ENCODERS: dict[str, type[nn.Module]] = {"mean_concat": MeanConcatEncoder, "motion": MotionEncoder}
DECODERS: dict[str, type[nn.Module]] = {"masked": MaskedDecoder, "motion": MotionDecoder}


def build_encoder(options: Mapping[str, Any], *, frame_size: tuple[int, int], latent_dim: int) -> nn.Module:
    """The encoder that ``options["name"]`` names, with the other options as its arguments."""
    return build_choice(ENCODERS, "encoder", options, frame_size=frame_size, latent_dim=latent_dim)


def build_decoder(options: Mapping[str, Any], *, frame_size: tuple[int, int], latent_dim: int) -> nn.Module:
    """The decoder that ``options["name"]`` names, with the other options as its arguments."""
    return build_choice(DECODERS, "decoder", options, frame_size=frame_size, latent_dim=latent_dim)
