import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.nn.fsq import FSQ, code_entropy


@given(latent_dim=st.integers(1, 5), num_bins=st.integers(2, 5))
def test_indices_and_codes_round_trip_over_the_whole_vocabulary(latent_dim, num_bins):
    fsq = FSQ(latent_dim=latent_dim, num_bins=num_bins)
    every = torch.arange(num_bins**latent_dim)
    codes = fsq.codes(every)
    assert torch.equal(fsq.indices(codes), every)
    assert len(codes.unique(dim=0)) == fsq.vocabulary
    assert codes.min() == -1
    assert codes.max() == 1


@given(z=st.lists(st.floats(-50, 50), min_size=3, max_size=3), num_bins=st.integers(2, 6))
def test_the_code_is_the_level_nearest_to_tanh(z, num_bins):
    fsq = FSQ(latent_dim=3, num_bins=num_bins)
    z = torch.tensor(z)
    levels = torch.linspace(-1, 1, num_bins)
    distance = (torch.tanh(z).unsqueeze(-1) - levels).abs()
    chosen = (fsq(z).unsqueeze(-1) - torch.tanh(z).unsqueeze(-1)).abs().squeeze(-1)
    torch.testing.assert_close(chosen, distance.min(-1).values, atol=1e-5, rtol=0)


def test_gradients_pass_straight_through_the_rounding():
    fsq = FSQ(latent_dim=2, num_bins=4)
    z = torch.randn(7, 2, requires_grad=True)
    fsq(z).sum().backward()
    torch.testing.assert_close(z.grad, 1 - torch.tanh(z.detach()).square())


@pytest.mark.parametrize(("latent_dim", "num_bins"), [(0, 4), (5, 1), (40, 4)])
def test_impossible_vocabularies_are_refused(latent_dim, num_bins):
    with pytest.raises(ValueError, match=f"latent_dim={latent_dim}"):
        FSQ(latent_dim=latent_dim, num_bins=num_bins)


@given(codes=st.lists(st.integers(0, 8), min_size=1, max_size=30))
def test_the_entropy_of_codes_is_that_of_their_histogram(codes):
    fsq = FSQ(latent_dim=2, num_bins=3)
    latents = 3 * fsq.codes(torch.tensor([codes]))
    share = [codes.count(code) / len(codes) for code in set(codes)]
    assert code_entropy(latents, fsq) == pytest.approx(-sum(p * math.log(p) for p in share), abs=0.07)


def test_entropy_pulls_codes_apart():
    latents = torch.full((8, 1, 1), 0.3, requires_grad=True)
    (-code_entropy(latents, FSQ(latent_dim=1, num_bins=2))).backward()
    assert (latents.grad > 0).all()  # descent takes them below 0, to the unused code
