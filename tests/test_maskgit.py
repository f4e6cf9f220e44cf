import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.maskgit import (
    CHECKS,
    SCHEDULES,
    Decoding,
    Expectation,
    chosen_decoding,
    decode,
    distribution,
    reveal_counts,
    sample,
    truncated,
)
from tinyworlds.orders import ORDERS

CPU = torch.device("cpu")
PLAIN = Decoding(steps=4, schedule="linear", temperature=1.0, **Decoding.earlier)
GREEDY = PLAIN.changed(temperature=0)


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


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


def test_schedules_have_the_shapes_they_are_named_after():
    assert [SCHEDULES["linear"](step / 4) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    # What is hidden falls as the cosine does (MaskGIT, arXiv 2202.04200, section 3.3).
    hidden = [1 - SCHEDULES["cosine"](step / 6) for step in range(7)]
    assert hidden == pytest.approx([math.cos(math.radians(15 * step)) for step in range(7)])
    assert reveal_counts(64, steps=2, schedule="linear") == [4, 60]
    assert reveal_counts(64, steps=4, schedule="linear") == [4, 12, 16, 32]
    assert reveal_counts(64, steps=10, schedule="exponential")[-1] == 28


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("schedule", "square"),
        ("steps", 0),
        ("temperature", -1.0),
        ("temperature", math.nan),
        ("order", "spiral"),
        ("choice_temperature", -1),
        ("top_k", -1),
        ("top_p", 0),
        ("top_p", 1.1),
        ("guidance", -1),
        ("guidance", math.inf),
        ("show", "mean"),
    ],
)
def test_impossible_decodings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^decoding.{name}="):
        PLAIN.changed(**{name: value})
    with pytest.raises(ValueError, match=f"^{name}="):
        chosen_decoding({**dict.fromkeys(CHECKS), name: value})


@pytest.mark.parametrize(("name", "value"), [("order", ["halton"]), ("top_k", 1.5), ("top_p", "most"), ("steps", True)])
def test_options_of_another_type_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name}="):
        chosen_decoding({**dict.fromkeys(CHECKS), name: value})


@pytest.mark.parametrize("order", ["random", "halton"])
def test_noise_on_a_confidence_that_is_not_asked_is_refused(order):
    with pytest.raises(ValueError, match=f"choice_temperature=1 is for .*=confidence: with .*={order} give 0"):
        PLAIN.changed(order=order, choice_temperature=1)


@given(
    batch=st.integers(1, 3),
    horizon=st.integers(1, 3),
    patches=st.integers(1, 20),
    steps=st.integers(1, 12),
    schedule=st.sampled_from(sorted(SCHEDULES)),
    temperature=st.sampled_from([0.0, 1.0]),
    order=st.sampled_from(ORDERS),
    shaken=st.sampled_from([0, 3.0]),
)
def test_every_token_is_revealed_once_and_stays(batch, horizon, patches, steps, schedule, temperature, order, shaken):
    generator = torch.Generator().manual_seed(0)
    history = []

    def predict(tokens, hidden):
        history.append((tokens.clone(), hidden.clone()))
        return torch.randn(*tokens.shape, 7, generator=generator)

    decoding = PLAIN.changed(
        steps=steps,
        schedule=schedule,
        temperature=temperature,
        order=order,
        choice_temperature=shaken if order == "confidence" else 0,
    )
    last = decode(predict, (batch, horizon, patches, 1), decoding=decoding, generator=generator)
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

    decode(predict, (1, 1, 2, 2), decoding=GREEDY.changed(steps=16))
    shown = [(before & ~after).nonzero().item() for before, after in pairwise(order)]
    assert shown == [2, 0, 3]


def test_temperature_zero_takes_the_likeliest_and_one_samples_the_distribution():
    logits = torch.tensor([0.0, 2.0, 1.0]).expand(1, 20_000, 3)
    likeliest, confidence = sample(logits, decoding=GREEDY, generator=None)
    assert (likeliest == 1).all()
    torch.testing.assert_close(confidence, logits.softmax(-1)[..., 1])
    drawn, confidence = sample(logits, decoding=PLAIN, generator=noise())
    share = torch.bincount(drawn[0], minlength=3) / drawn.shape[1]
    torch.testing.assert_close(share, logits[0, 0].softmax(-1), atol=0.02, rtol=0)
    torch.testing.assert_close(confidence, logits.softmax(-1).gather(-1, drawn.unsqueeze(-1)).squeeze(-1))


def test_without_noise_and_truncation_nothing_is_drawn_for_them():
    """So decoding is what it was before there was a choice, to the last bit."""
    generator = noise()
    logits = torch.randn(4, 3, 1, 6, 7, generator=noise(1))  # of each step
    steps = iter(logits)
    tokens = decode(lambda *_: next(steps), (3, 1, 2, 3), decoding=PLAIN, generator=generator)
    wanted, hidden, other = torch.zeros(3, 6, dtype=torch.int64), torch.ones(3, 6, dtype=torch.bool), noise()
    for own, count in zip(logits, reveal_counts(6, steps=4, schedule="linear"), strict=True):
        odds = own[:, 0].softmax(-1)
        drawn = torch.multinomial(odds.flatten(0, 1), 1, generator=other).view(3, 6)
        sure = odds.gather(-1, drawn.unsqueeze(-1)).squeeze(-1).masked_fill(~hidden, -1).topk(count).indices
        wanted.scatter_(1, sure, drawn.gather(1, sure))
        hidden.scatter_(1, sure, False)
    assert torch.equal(tokens[:, 0], wanted)
    assert torch.equal(generator.get_state(), other.get_state())


@given(seed=st.integers(0, 99), top_k=st.integers(0, 12), top_p=st.floats(0.01, 1))
def test_what_is_left_to_draw_from_is_the_likeliest(seed, top_k, top_p):
    odds = torch.randn(3, 10, generator=noise(seed)).mul(2).softmax(-1)
    left = truncated(odds, top_k=top_k, top_p=top_p)
    kept = left > 0
    assert torch.equal(left[kept], odds[kept])
    assert (left.masked_fill(~kept, 2).amin(-1) >= odds.masked_fill(kept, 0).amax(-1)).all()
    number = kept.sum(-1)
    assert (number <= (top_k or 10)).all()
    enough = left.sum(-1) >= top_p - 1e-6
    least = left.masked_fill(~kept, 2).amin(-1)
    assert (enough | (number == (top_k or 10))).all()
    assert (left.sum(-1) - least < top_p + 1e-6).all()  # without the least of them it is not enough


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_tokens_as_likely_as_the_last_that_is_left_are_left_too(dtype):
    odds = torch.tensor([[0.125, 0.5, 0.125, 0.25], [0.25, 0.25, 0.25, 0.25]], dtype=dtype)
    for limits, wanted in (
        ({"top_k": 0, "top_p": 0.75}, [[0, 0.5, 0, 0.25], [0.25] * 4]),
        ({"top_k": 3, "top_p": 1}, odds.tolist()),
        ({"top_k": 1, "top_p": 0.75}, [[0, 0.5, 0, 0], [0.25] * 4]),
        ({"top_k": 9, "top_p": 1e-300}, [[0, 0.5, 0, 0], [0.25] * 4]),
    ):
        assert truncated(odds, **limits).tolist() == wanted


@pytest.mark.parametrize(("changes", "wanted"), [({"top_k": 2}, [0, 1]), ({"top_p": 0.6}, [0, 1]), ({"top_k": 1}, [0])])
def test_only_tokens_that_are_left_come_and_as_often_as_before(changes, wanted):
    odds = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn, confidence = sample(odds.log().expand(1, 20_000, 4), decoding=PLAIN.changed(**changes), generator=noise())
    assert drawn.unique().tolist() == wanted
    share = torch.bincount(drawn[0], minlength=4) / drawn.shape[1]
    torch.testing.assert_close(share[wanted], odds[wanted] / odds[wanted].sum(), atol=0.02, rtol=0)
    torch.testing.assert_close(confidence[0], odds[drawn[0]])  # among all, or one of one would be as sure as can be


@pytest.mark.parametrize(
    ("name", "value"),
    {"steps": 2, "schedule": "cosine", "temperature": 0.1, "order": "halton", "choice_temperature": 9, "top_k": 2,
     "top_p": 0.3}.items(),
)  # fmt: skip
def test_every_choice_changes_what_is_decoded(name, value):
    logits = torch.randn(16, 1, 64, 9, generator=noise(1))
    found = []

    def predict(tokens, hidden):
        return logits + hidden.sum(-1, keepdim=True).unsqueeze(-1) * torch.linspace(-0.05, 0.05, 9)

    for decoding in (PLAIN, PLAIN.changed(**{name: value})):
        found.append(decode(predict, (16, 1, 8, 8), decoding=decoding, generator=noise()))
    assert not torch.equal(*found)


def test_no_choice_is_forgotten():
    """What is shown is no matter of what is decoded; guidance is one of the logits (tests/models/test_dynamics.py)."""
    names = set(test_every_choice_changes_what_is_decoded.pytestmark[0].args[1])
    assert {name for name, _ in names} == set(CHECKS) - {"show", "guidance"}


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.5}, {"top_k": 2}])
def test_what_is_expected_is_the_mean_of_what_is_drawn(changes):
    """In two steps, of which the second has other odds: those of a token are of the step that took it."""
    vocabulary = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
    logits = torch.randn(2, 1, 1, 8, 3, generator=noise(3)).expand(2, 4000, 1, 8, 3)
    decoding = PLAIN.changed(steps=2, schedule="linear", order="halton", **changes)
    expectation = Expectation(vocabulary, decoding=decoding)
    steps = iter(logits)
    drawn = decode(lambda *_: next(steps), (4000, 1, 2, 4), decoding=decoding, generator=noise(), watch=expectation)
    assert (expectation.codes == expectation.codes[:1]).all()
    torch.testing.assert_close(expectation.codes[0], vocabulary[drawn].mean(0), atol=0.06, rtol=0)


@pytest.mark.parametrize("temperature", [1e-3, 1e-40, 1e-300])
def test_the_lower_the_temperature_the_surer_the_likeliest(temperature):
    logits = torch.tensor([1.0, 30.0, -80.0, 29.0])
    assert distribution(logits, temperature=temperature).tolist() == [0, 1, 0, 0]
