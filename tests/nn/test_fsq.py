import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.nn.fsq import FSQ


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
