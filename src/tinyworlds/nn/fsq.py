"""Finite scalar quantization (Mentzer et al., arXiv 2309.15505)."""

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tinyworlds import parallel

UNUSED = 1e-3
"""Share of the tokens that every code is given besides, where the entropy of codes is learned."""


class FSQ(nn.Module):
    """Round each of L latent dimensions to one of D levels evenly spaced on [-1, 1].

    A code is the L levels as numbers in [-1, 1]; its index in 0 … D**L - 1 writes their level numbers in
    base D, the first dimension being the lowest digit.

    Raises `ValueError` for fewer than 1 dimension or 2 bins, or a vocabulary that a token cannot number.
    """

    def __init__(self, *, latent_dim: int, num_bins: int) -> None:
        super().__init__()
        if latent_dim < 1 or num_bins < 2:
            raise ValueError(f"latent_dim={latent_dim}, num_bins={num_bins}: FSQ needs at least 1 dimension and 2 bins")
        if num_bins**latent_dim > 2**31:
            raise ValueError(f"latent_dim={latent_dim}, num_bins={num_bins}: a vocabulary of over 2**31 codes")
        self.latent_dim = latent_dim
        self.num_bins = num_bins
        self.vocabulary = num_bins**latent_dim
        self.register_buffer("place", num_bins ** torch.arange(latent_dim), persistent=False)
        self.place: Tensor

    def forward(self, z: Float[Tensor, "*batch L"]) -> Float[Tensor, "*batch L"]:
        """The code nearest to ``tanh(z)``, in [-1, 1]; gradients pass straight through the rounding."""
        bounded = torch.tanh(z)
        level = torch.round((bounded + 1) / 2 * (self.num_bins - 1))
        return bounded + (self._code(level) - bounded).detach()

    def indices(self, codes: Float[Tensor, "*batch L"]) -> Int64[Tensor, "*batch"]:
        """Index of each code, in 0 … D**L - 1."""
        level = torch.round((codes + 1) / 2 * (self.num_bins - 1)).long()
        return (level * self.place).sum(-1)

    def codes(self, indices: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch L"]:
        """The code of each index: levels in [-1, 1]."""
        return self._code((indices.unsqueeze(-1) // self.place % self.num_bins).to(torch.get_default_dtype()))

    def _code(self, level: Float[Tensor, "*batch L"]) -> Float[Tensor, "*batch L"]:
        return level / (self.num_bins - 1) * 2 - 1


def counted(indices: Int64[Tensor, "*batch"], vocabulary: int) -> Float[Tensor, " V"]:
    """How often each of 0 … V-1 occurs; an index beyond them, that of a latent which is no number, as the nearest.

    A loss that is no number is told of when the next step has been computed, which must get there.
    """
    known = indices.flatten().clamp(0, vocabulary - 1)
    ones = torch.ones(len(known), device=known.device)
    return torch.zeros(vocabulary, device=known.device).index_add_(0, known, ones)


def code_entropy(latents: Float[Tensor, "B T A"], quantizer: FSQ) -> Float[Tensor, ""]:
    """Entropy, in nats, of the distribution of the codes that `latents` of all ranks round to, in 0 … log V.

    Its gradient is that of latents counted in part for each of the levels they lie between.
    """
    vocabulary = quantizer.codes(torch.arange(quantizer.vocabulary, device=latents.device))
    flat = rearrange(latents, "b t a -> (b t) a")
    counts = counted(quantizer.indices(quantizer(flat)), quantizer.vocabulary) / len(flat)
    counts = parallel.mean_of_rows(counts.unsqueeze(0))
    distance = (torch.tanh(flat).unsqueeze(1) - vocabulary).abs() * (quantizer.num_bins - 1) / 2
    partly = parallel.mean_of_rows((1 - distance).clamp_min(0).prod(-1))
    # A code that is not used at all has no entropy, and without this no gradient towards it.
    counts = (counts + UNUSED) / (1 + UNUSED * quantizer.vocabulary)
    return torch.special.entr(counts + partly - partly.detach()).sum()
