import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyworlds.maskgit import Decoding, decode
from tinyworlds.orders import halton_order

PLAIN = Decoding(steps=4, schedule="linear", temperature=1.0, **Decoding.earlier)
GREEDY = PLAIN.changed(temperature=0)


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(order: np.ndarray, rows: int, columns: int) -> float:
    """How far the share of a rectangle at a corner is from its share of the grid at most, in patches, at any prefix."""
    row, column = np.divmod(order, columns)
    taken = np.arange(1, rows * columns + 1)
    inside = [(row < a) & (column < b) for a in range(rows + 1) for b in range(columns + 1)]
    return max(float(np.abs(part.cumsum() - taken * part.mean()).max()) for part in inside)


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 16), columns=st.integers(1, 16))
def test_any_number_of_the_first_patches_of_halton_is_spread_evenly(rows, columns):
    order = halton_order(rows, columns)
    assert sorted(order) == list(range(rows * columns))
    assert spread(order, rows, columns) < 2.5 + math.sqrt(rows * columns) / 3


def test_halton_is_spread_more_evenly_than_chance_and_always_the_same():
    order = halton_order(16, 16)
    by_chance = [spread(np.random.default_rng(seed).permutation(256), 16, 16) for seed in range(20)]
    assert spread(order, 16, 16) < 0.6 * min(by_chance)
    quarters = (order[:32] // 16 // 8) * 2 + order[:32] % 16 // 8
    assert set(np.bincount(quarters)) <= {7, 8, 9}
    halton_order.cache_clear()
    assert np.array_equal(order, halton_order(16, 16))


def revealed(decoding: Decoding, shape: tuple[int, int, int, int], generator=None, confidence=None) -> torch.Tensor:
    """In which step each token of (B, N, P) was revealed, from 1, where all are guessed with the same confidence."""
    seen = []

    def predict(tokens, hidden):
        seen.append(hidden.clone())
        odds = torch.full(tokens.shape, 0.5) if confidence is None else confidence.expand(tokens.shape)
        return torch.stack([odds, 1 - odds], dim=-1).log()

    decode(predict, shape, decoding=decoding, generator=generator)
    return torch.stack(seen).sum(0)


@pytest.mark.parametrize("horizon", [1, 3])
def test_halton_reveals_its_first_patches_first_in_all_frames_alike(horizon):
    steps = revealed(GREEDY.changed(order="halton", steps=16), (2, horizon, 4, 4))
    assert torch.equal(steps[0], steps[1])
    assert [int(steps[0, 0, patch]) for patch in halton_order(4, 4)] == list(range(1, 17))
    assert torch.equal(steps[:, :1].expand_as(steps), steps)


def test_a_random_order_is_another_each_time():
    random = GREEDY.changed(order="random", steps=16)
    one, again, other = (revealed(random, (2, 1, 4, 4), noise(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one[0], one[1])
    firsts = revealed(random, (4000, 1, 4, 4), noise())[:, 0].argmin(-1)
    share = torch.bincount(firsts, minlength=16) / 4000
    torch.testing.assert_close(share, torch.full((16,), 1 / 16), atol=0.02, rtol=0)


def test_noise_on_confidence_is_a_lottery_with_it():
    """With Gumbel noise the first is drawn by ``p ** (1 / temperature)``, by that which is left in the first step."""
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6])
    decoding = GREEDY.changed(choice_temperature=2.0)
    firsts = revealed(decoding, (20_000, 1, 2, 2), noise(), confidence)[:, 0].argmin(-1)
    share = torch.bincount(firsts, minlength=4) / 20_000
    wanted = confidence ** (1 / (2.0 * (1 - 1 / 4)))
    torch.testing.assert_close(share, wanted / wanted.sum(), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    "changes", [{"order": "random"}, {"choice_temperature": 3.0}, {"top_k": 3}, {"order": "halton", "top_p": 0.5}]
)
def test_a_game_draws_its_own_noise_whoever_else_is_in_the_batch(changes):
    decoding = PLAIN.changed(**changes)
    logits = torch.randn(3, 1, 6, 7, generator=noise(1))
    together = decode(lambda *_: logits, (3, 1, 2, 3), decoding=decoding, generator=[noise(7 + n) for n in range(3)])
    for n in range(3):
        alone = decode(lambda *_, n=n: logits[n : n + 1], (1, 1, 2, 3), decoding=decoding, generator=[noise(7 + n)])
        assert torch.equal(together[n : n + 1], alone)
