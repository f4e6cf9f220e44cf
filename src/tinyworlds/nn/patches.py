"""From pixels to patch tokens and back."""

import math
from itertools import pairwise

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tinyworlds.nn.positions import added_positions

PATCHES = ("linear", "conv")
CHANNELS = 3


def patch_grid(frame_size: tuple[int, int], patch_size: int, *, option: str = "patch_size") -> tuple[int, int]:
    """Hp, Wp: patches along the height and width of a frame; `ValueError` about `option` where they don't divide it."""
    height, width = frame_size
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(f"{option}={patch_size} does not divide the frame size {height}x{width}")
    return height // patch_size, width // patch_size


def _stages(patches: str, patch_size: int) -> int:
    """How often a convolutional stem halves the frame to come to one token a patch; `ValueError` if it can't."""
    if patches not in PATCHES:
        raise ValueError(f"patches={patches!r} is none of {', '.join(PATCHES)}")
    stages = round(math.log2(patch_size))
    if patches == "conv" and (patch_size < 2 or 2**stages != patch_size):
        raise ValueError(f"patches=conv halves the frame step by step: patch_size={patch_size} is no power of 2")
    return stages


class PatchEmbedding(nn.Module):
    """Frames to one token a patch, with its 2-D position added if `positions` are to be added (None: never).

    ``linear``: one linear map of the S x S pixels, as in ViT. ``conv``: overlapping 3x3 convolutions of
    stride 2, so that neighbouring tokens see the same edge (Xiao et al., arXiv 2106.14881).
    """

    def __init__(
        self, *, frame_size: tuple[int, int], patch_size: int, embed_dim: int, patches: str, positions: str | None
    ) -> None:
        super().__init__()
        self.embed: nn.Module
        self.grid = patch_grid(frame_size, patch_size)
        added = torch.zeros(1) if positions is None else added_positions(positions, self.grid, embed_dim)
        stages = _stages(patches, patch_size)
        if patches == "linear":
            self.embed = nn.Conv2d(CHANNELS, embed_dim, kernel_size=patch_size, stride=patch_size)
        else:
            widths = [
                CHANNELS,
                *(max(embed_dim >> (stages - 1 - i), 16) for i in range(stages - 1)),
                embed_dim,
            ]
            layers: list[nn.Module] = []
            for before, after in pairwise(widths):
                layers += [nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1), nn.SiLU()]
            self.embed = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, kernel_size=1))
        # A stem of convolutions begins with outputs far smaller than the positions that are added to them.
        self.norm = nn.LayerNorm(embed_dim) if patches == "conv" else nn.Identity()
        self.register_buffer("positions", added, persistent=False)
        self.positions: Tensor

    def forward(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T P E"]:
        embedded = self.embed(rearrange(frames, "b t c h w -> (b t) c h w"))
        tokens: Tensor = self.norm(rearrange(embedded, "(b t) e h w -> b t (h w) e", b=frames.shape[0]))
        return tokens + self.positions


class PixelHead(nn.Module):
    """Tokens to pixels, unbounded: ``linear`` one linear map a patch, ``conv`` convolutions that double the size."""

    def __init__(self, *, frame_size: tuple[int, int], patch_size: int, embed_dim: int, patches: str) -> None:
        super().__init__()
        self.grid = patch_grid(frame_size, patch_size)
        stages = _stages(patches, patch_size)
        layers: list[nn.Module] = []
        if patches == "linear":
            layers = [
                nn.Conv2d(embed_dim, CHANNELS * patch_size**2, kernel_size=1),
                nn.PixelShuffle(patch_size),
            ]
        else:
            width = embed_dim
            for _ in range(stages - 1):
                narrower = max(width // 2, 16)
                layers += [
                    nn.Conv2d(width, 4 * narrower, kernel_size=3, padding=1),
                    nn.PixelShuffle(2),
                    nn.SiLU(),
                ]
                width = narrower
            layers += [nn.Conv2d(width, 4 * CHANNELS, kernel_size=3, padding=1), nn.PixelShuffle(2)]
        self.pixels = nn.Sequential(*layers)

    def forward(self, tokens: Float[Tensor, "B T P E"]) -> Float[Tensor, "B T C H W"]:
        rows, columns = self.grid
        pixels = self.pixels(rearrange(tokens, "b t (h w) e -> (b t) e h w", h=rows, w=columns))
        return rearrange(pixels, "(b t) c h w -> b t c h w", b=tokens.shape[0])
