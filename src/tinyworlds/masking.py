"""Which tokens training hides, and which it replaces (MaskGIT, Chang et al., arXiv 2202.04200)."""

import math

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tinyworlds import parallel


def anchored_mask(
    shape: tuple[int, int, int], *, min_ratio: float, generator: torch.Generator | None, device: torch.device
) -> Bool[Tensor, "B T P"]:
    """Hide a share of a clip's tokens, drawn from [`min_ratio`, 1), but leave each position seen in one frame."""
    batch, frames, patches = shape
    ratio = min_ratio + (1 - min_ratio) * parallel.rand((batch, 1, 1), generator=generator, device=device)
    hidden = parallel.rand(shape, generator=generator, device=device) < ratio
    anchor = parallel.randint(frames, (batch, 1, patches), generator=generator, device=device)
    return hidden.scatter(1, anchor, False)


def frame_mask(
    shape: tuple[int, int, int], *, full: float, generator: torch.Generator | None, device: torch.device
) -> Bool[Tensor, "B T P"]:
    """Hide tokens frame by frame, as decoding does: all with probability `full`, else a share ``cos(π/2 u)``.

    `u` is uniform on [0, 1) (MaskGIT, section 3.3); every frame has a hidden token.
    """
    batch, frames, patches = shape
    ratio = torch.cos(math.pi / 2 * parallel.rand((batch, frames), generator=generator, device=device))
    whole = parallel.rand((batch, frames), generator=generator, device=device) < full
    count = torch.where(whole, patches, (ratio * patches).ceil().clamp(1, patches))
    rank = parallel.rand(shape, generator=generator, device=device).argsort(-1).argsort(-1)
    return rank < count.unsqueeze(-1)


def replace_some(
    tokens: Int64[Tensor, "B T P"], *, share: float, generator: torch.Generator | None
) -> Int64[Tensor, "B T P"]:
    """Tokens, of which in each frame a share drawn from [0, `share`) is another clip's at the same place and time."""
    if not share or parallel.world_size() * len(tokens) < 2:
        return tokens
    batch, frames, patches = tokens.shape
    level = share * parallel.rand((batch, frames, 1), generator=generator, device=tokens.device)
    replaced = parallel.rand((batch, frames, patches), generator=generator, device=tokens.device) < level
    return torch.where(replaced, parallel.rolled(tokens), tokens)
