import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.nn.positions import sincos, spatial_positions, split_embedding, temporal_positions


@given(half=st.integers(3, 200))
def test_the_embedding_is_split_into_even_parts_of_about_a_third(half):
    parts = split_embedding(2 * half)
    assert sum(parts) == 2 * half
    assert all(part % 2 == 0 and part > 0 and abs(part - 2 * half / 3) < 4 for part in parts)


def test_an_odd_embedding_is_refused():
    with pytest.raises(ValueError, match="embed_dim=33"):
        split_embedding(33)


def test_sincos_is_its_equation():
    table = sincos(torch.arange(5), 6)
    for position in range(5):
        for i in range(3):
            angle = torch.tensor(position / 10000 ** (2 * i / 6))
            torch.testing.assert_close(table[position, 2 * i], angle.sin())
            torch.testing.assert_close(table[position, 2 * i + 1], angle.cos())


def test_every_place_and_time_has_a_position_of_its_own():
    space = spatial_positions((5, 7), 32)
    time = temporal_positions(torch.arange(6), 32)
    everywhere = (space + time).flatten(0, 1)
    distances = torch.cdist(everywhere, everywhere) + torch.eye(len(everywhere))
    assert distances.min() > 0.1


def test_space_and_time_use_different_channels():
    assert not (
        (spatial_positions((5, 7), 32) != 0).any(0) & (temporal_positions(torch.arange(6), 32)[:, 0] != 0).any(0)
    ).any()
