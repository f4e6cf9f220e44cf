import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.maskgit import (
    SCHEDULES,
    Decoding,
    anchored_mask,
    decode,
    distribution,
    frame_mask,
    replace_some,
    reveal_counts,
    sample,
)

CPU = torch.device("cpu")


@given(total=st.integers(1, 5000), steps=st.integers(1, 64), schedule=st.sampled_from(sorted(SCHEDULES)))
def test_reveal_counts_add_up_to_the_tokens(total, steps, schedule):
    counts = reveal_counts(total, steps=steps, schedule=schedule)
    assert sum(counts) == total
    assert 1 <= len(counts) <= steps
    assert all(count >= min(max(total // 16, 1), total) for count in counts[:-1])
    assert counts[-1] >= 1


@given(steps=st.integers(2, 16), schedule=st.sampled_from(sorted(SCHEDULES)))
def test_reveals_follow_the_schedule(steps, schedule):
    total = 10_000  # so many that the least share of a step matters little
    counts = reveal_counts(total, steps=steps, schedule=schedule)
    least = total // 16
    revealed = 0
    for step, count in enumerate(counts[:-1]):
        revealed += count
        assert revealed >= total * SCHEDULES[schedule](step / steps)
        assert count == least or revealed == math.ceil(total * SCHEDULES[schedule](step / steps))


@given(step=st.floats(0, 1), later=st.floats(0, 1), schedule=st.sampled_from(sorted(SCHEDULES)))
def test_schedules_rise_from_zero_to_one(step, later, schedule):
    share = SCHEDULES[schedule]
    assert share(0.0) == 0
    assert share(1.0) == pytest.approx(1)
    assert share(min(step, later)) <= share(max(step, later))


@pytest.mark.parametrize(
    "options", [{"schedule": "square"}, {"steps": 0}, {"temperature": -1.0}, {"temperature": math.nan}]
)
def test_impossible_decodings_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"decoding.{next(iter(options))}"):
        Decoding(**{"steps": 4, "schedule": "cosine", "temperature": 0.0, **options})


@given(
    batch=st.integers(1, 3),
    horizon=st.integers(1, 3),
    patches=st.integers(1, 20),
    steps=st.integers(1, 12),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    temperature=st.sampled_from([0.0, 1.0]),
)
def test_every_token_is_revealed_once_and_stays(batch, horizon, patches, steps, schedule, temperature):
    generator = torch.Generator().manual_seed(0)
    history = []

    def predict(tokens, hidden):
        history.append((tokens.clone(), hidden.clone()))
        return torch.randn(*tokens.shape, 7, generator=generator)

    decoding = Decoding(steps=steps, schedule=schedule, temperature=temperature)
    last = decode(predict, (batch, horizon, patches), decoding=decoding, generator=generator)
    assert history[0][1].all()
    for (tokens, hidden), (later, still_hidden) in zip(
        history, [*history[1:], (last, torch.zeros_like(history[0][1]))], strict=True
    ):
        assert not (still_hidden & ~hidden).any()
        assert torch.equal(tokens[~hidden], later[~hidden])
    counts = [int(hidden[0].sum()) for _, hidden in history]
    expected = reveal_counts(horizon * patches, steps=steps, schedule=schedule)
    assert [before - after for before, after in zip(counts, [*counts[1:], 0], strict=True)] == expected


def test_the_surest_tokens_are_revealed_first():
    sharpness = torch.tensor([3.0, 1.0, 4.0, 2.0])
    order = []

    def predict(tokens, hidden):
        order.append(hidden[0, 0].clone())
        return (sharpness.unsqueeze(-1) * torch.tensor([1.0, 0.0])).expand(1, 1, 4, 2)

    decode(predict, (1, 1, 4), decoding=Decoding(steps=16, schedule="linear", temperature=0.0))
    shown = [(before & ~after).nonzero().item() for before, after in pairwise(order)]
    assert shown == [2, 0, 3]


def test_temperature_zero_takes_the_likeliest_and_one_samples_the_distribution():
    logits = torch.tensor([0.0, 2.0, 1.0]).expand(1, 20_000, 3)
    likeliest, confidence = sample(logits, temperature=0, generator=None)
    assert (likeliest == 1).all()
    torch.testing.assert_close(confidence, logits.softmax(-1)[..., 1])
    drawn, confidence = sample(logits, temperature=1.0, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(drawn[0], minlength=3) / drawn.shape[1]
    torch.testing.assert_close(share, logits[0, 0].softmax(-1), atol=0.02, rtol=0)
    torch.testing.assert_close(confidence, logits.softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1))


@given(batch=st.integers(1, 4), frames=st.integers(1, 6), patches=st.integers(1, 30), ratio=st.floats(0, 1))
def test_anchored_masks_leave_every_position_seen_in_a_frame(batch, frames, patches, ratio):
    shape = (batch, frames, patches)
    hidden = anchored_mask(shape, min_ratio=ratio, generator=torch.Generator().manual_seed(0), device=CPU)
    assert (~hidden).any(dim=1).all()


def test_anchored_masks_hide_a_share_per_clip():
    shape = (400, 8, 64)
    hidden = anchored_mask(shape, min_ratio=0.5, generator=torch.Generator().manual_seed(0), device=CPU)
    share = hidden.float().mean((1, 2)) * 8 / 7  # one frame in eight is the anchor
    assert share.min() > 0.4
    assert share.max() < 1.05
    assert share.std() > 0.1


@given(patches=st.integers(1, 40), full=st.floats(0, 1))
def test_frame_masks_hide_something_of_every_frame(patches, full):
    hidden = frame_mask((3, 4, patches), full=full, generator=torch.Generator().manual_seed(0), device=CPU)
    assert hidden.any(dim=-1).all()


def test_frame_masks_hide_whole_frames_as_often_as_asked():
    generator = torch.Generator().manual_seed(0)
    hidden = frame_mask((1000, 4, 64), full=0.7, generator=generator, device=CPU)
    assert hidden.all(-1).float().mean() == pytest.approx(0.7, abs=0.06)
    assert frame_mask((50, 4, 64), full=1.0, generator=generator, device=CPU).all()


@given(batch=st.integers(1, 4), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_replaced_token_is_that_of_another_clip_at_its_place(batch, share, seed):
    tokens = torch.arange(batch * 3 * 7).view(batch, 3, 7)
    replaced = replace_some(tokens, share=share, generator=torch.Generator().manual_seed(seed))
    assert ((replaced == tokens) | (replaced == tokens.roll(1, dims=0))).all()
    if share == 0 or batch == 1:
        assert torch.equal(replaced, tokens)


def test_shares_of_replaced_tokens_are_drawn_for_each_frame():
    tokens = torch.arange(2000 * 64).view(1000, 2, 64)
    replaced = replace_some(tokens, share=0.4, generator=torch.Generator().manual_seed(0)) != tokens
    shares = replaced.float().mean(-1)
    assert shares.mean() == pytest.approx(0.2, abs=0.01)
    assert shares.std() > 0.1  # of independent tokens it would be 0.05


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 1e-300])
def test_the_lower_the_temperature_the_surer_the_likeliest(temperature):
    logits = torch.tensor([1.0, 30.0, -80.0, 29.0])
    assert distribution(logits, temperature=temperature).tolist() == [0, 1, 0, 0]
