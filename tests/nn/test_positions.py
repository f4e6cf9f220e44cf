import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.nn.positions import (
    POSITIONS,
    Look,
    Timeline,
    added_positions,
    sincos,
    spatial_positions,
    split_embedding,
    temporal_positions,
    turned,
)


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


GRID = (3, 4)


def scores(look: Look, count: int) -> torch.Tensor:
    """Of one query with one key, in each of so many places or times: (h, count, count)."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(3, 8, generator=generator).expand(count, 3, 8) for _ in range(2))
    if look.turns is not None:
        q, k = (turned(x, look.turns.reshape(2, count, 1, 4)) for x in (q, k))
    products = torch.einsum("nhd,khd->hnk", q, k)
    added = look.mask is not None and look.mask.dtype != torch.bool
    return products + look.mask if added else products


@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_scores_in_space_depend_on_the_differences_of_places_alone(kind):
    look = POSITIONS[kind](embed_dim=24, num_heads=3, grid=GRID, extra=0).looks(Timeline.causal(1)).space
    found = scores(look, 12).unflatten(2, GRID).unflatten(1, GRID)
    torch.testing.assert_close(found[:, :-1, :-1, :-1, :-1], found[:, 1:, 1:, 1:, 1:])
    assert not torch.allclose(found[:, 0, 0, 0, 0], found[:, 0, 0, 0, 1])
    assert not torch.allclose(found[:, 0, 0, 0, 0], found[:, 0, 0, 1, 0])
    left, right = found[:, 1, 1, 1, 0], found[:, 1, 1, 1, 2]
    assert torch.allclose(left, right) == (kind == "alibi")


@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_scores_in_time_depend_on_the_differences_of_times_alone(kind):
    """However late it is."""
    positions = POSITIONS[kind](embed_dim=24, num_heads=3, grid=GRID, extra=0)
    times, everything = torch.arange(5), torch.ones(5, 5, dtype=torch.bool)
    early, late = (scores(positions.looks(Timeline(times + later, everything)).time, 5) for later in (0, 40))
    torch.testing.assert_close(early, late, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(early[:, :-1, :-1], early[:, 1:, 1:], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(early[:, 0, 0], early[:, 1, 0])


def test_alibi_is_its_equation():
    positions = POSITIONS["alibi"](embed_dim=24, num_heads=3, grid=GRID, extra=1)
    looks = positions.looks(Timeline.causal(2, past=3))
    for head in range(3):
        slope = 2 ** (-8 * (head + 1) / 3)
        for row, column in ((0, 0), (2, 3)):
            place = 1 + 4 * row + column
            assert looks.space.mask[head, place, 1 + 4 * 1 + 2].item() == pytest.approx(-slope * (1 + abs(column - 2)))
        assert not looks.space.mask[head, 0].any()
        for later in range(2):
            for frame in range(5):
                bias = -slope * (3 + later - frame) if frame <= 3 + later else -torch.inf
                assert looks.time.mask[head, later, frame].item() == pytest.approx(bias)
    assert not list(positions.parameters())


def test_turning_keeps_lengths_and_leaves_what_is_nowhere():
    look = POSITIONS["rope"](embed_dim=24, num_heads=3, grid=GRID, extra=1).looks(Timeline.causal(1)).space
    x = torch.randn(13, 3, 8)
    y = turned(x, look.turns)
    torch.testing.assert_close(y.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(y[0], x[0])
    assert not torch.allclose(y[2:], x[2:])


def test_only_sinusoids_are_added():
    for kind in POSITIONS:
        assert added_positions(kind, GRID, 24).any() == (kind == "sincos")


def test_what_cannot_be_turned_is_refused():
    with pytest.raises(ValueError, match=r"positions=rope .*embed_dim=18 in num_heads=3 is 6 channels a head"):
        POSITIONS["rope"](embed_dim=18, num_heads=3, grid=GRID, extra=0)
    with pytest.raises(ValueError, match="positions='polar' is none of sincos, rope, alibi"):
        added_positions("polar", GRID, 24)
