import platform

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tinyworlds.nn import native
from tinyworlds.nn.inference import LARGEST, WIDTHS
from tinyworlds.nn.norms import Condition
from tinyworlds.nn.transformer import SpaceTimeTransformer

from ..conftest import roughened


def outputs(model, x, condition, first):
    """Features of all frames at once; of those after the `first` ones, which are remembered; what is remembered."""
    if not first:
        return [model(x, condition)]
    before, after = slice(first), slice(first, None)
    past = model.remember(x[:, before], condition and condition.at(before))
    later = model(x[:, after], condition and condition.at(after), past=past)
    remembered = [tensor for block in past.blocks for tensor in block]
    if past.blocks[0].for_torch:
        remembered = [rearrange(tensor, "(b p) h n d -> b n h d p", b=len(x)) for tensor in remembered]
    return [model(x, condition), later, *remembered]


@settings(max_examples=60)
@given(
    norm=st.sampled_from(["pre", "post"]),
    temporal=st.booleans(),
    condition_dim=st.sampled_from([None, 1, 3]),
    acted=st.booleans(),
    heads=st.integers(3, 6),
    place=st.sampled_from([("sincos", width) for width in WIDTHS] + [("rope", width) for width in WIDTHS if width > 2]),
    hidden_dim=st.integers(2, 40),
    positions=st.integers(1, 40),
    frames=st.integers(1, 4),
    first=st.integers(0, 3),
    seed=st.integers(0, 2**31),
)
def test_without_a_gradient_blocks_compute_what_they_do_with_one(
    norm, temporal, condition_dim, acted, heads, place, hidden_dim, positions, frames, first, seed
):
    torch.manual_seed(seed)
    kind, width = place
    model = SpaceTimeTransformer(
        embed_dim=heads * width,
        num_heads=heads,
        hidden_dim=hidden_dim,
        num_blocks=2,
        norm=norm,
        qk_norm=False,
        positions=kind,
        grid=(1, positions),
        temporal=temporal,
        condition_dim=condition_dim,
    )
    x = torch.randn(2, frames, positions, heads * width)
    given_x = x.clone()
    condition = None
    if condition_dim and acted:
        condition = Condition(torch.randn(2, frames, condition_dim), torch.arange(frames) > 0)
    first = min(first, frames - 1) if temporal else 0
    expected = outputs(model, x, condition, first)
    with torch.no_grad():
        native = model._runs_natively(x)
        got = outputs(model, x, condition, first)
    assert native
    assert torch.equal(x, given_x)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("variant", [{}, {"positions": "rope"}, {"positions": "alibi"}, {"qk_norm": True}])
@pytest.mark.parametrize("num_heads", [1, 4])  # of 16 channels, and narrow ones
@pytest.mark.parametrize("gradient", [True, False])
def test_what_is_remembered_with_a_gradient_serves_without_and_the_other_way_round(variant, num_heads, gradient):
    options = OPTIONS | {"num_heads": num_heads} | variant
    model, x = SpaceTimeTransformer(**options), torch.randn(2, 5, 5, 16)
    with torch.set_grad_enabled(gradient):
        past = model.remember(x[:, :3])
    with torch.set_grad_enabled(not gradient):
        later = model(x[:, 3:], past=past)
    torch.testing.assert_close(later, model(x)[:, 3:])


OPTIONS = {
    "embed_dim": 16, "num_heads": 4, "hidden_dim": 24, "num_blocks": 2, "norm": "post", "qk_norm": False,
    "positions": "sincos", "grid": (1, 5),
}  # fmt: skip


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are of other processors' compilers")
@pytest.mark.parametrize("flag", ["-mno-avx512f", "-mno-avx"])
def test_vectors_of_every_size_compute_the_same(flag, no_compiler, monkeypatch):
    """Of 8 and of 4 numbers, with which processors do that have no larger ones; narrow heads, with a gradient and
    without."""
    model, x = roughened(SpaceTimeTransformer(**OPTIONS)), torch.randn(2, 3, 21, 16)

    def computed():
        y = model(x)
        gradients = torch.autograd.grad(y.square().mean(), list(model.parameters()))
        with torch.no_grad():
            return [y.detach(), model(x), *gradients]

    with no_compiler():
        expected = computed()
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, flag))
    native.library.cache_clear()
    try:
        with torch.no_grad():
            assert model._runs_natively(x)
        got = computed()
    finally:
        native.library.cache_clear()
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_large_weights_make_no_difference():
    """Scores far from 0, gates that are all but shut."""
    model = roughened(SpaceTimeTransformer(**OPTIONS))
    for parameter in model.parameters():
        parameter.data *= 20
    x = 10 * torch.randn(1, 3, 21, 16)
    expected = model(x)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected.detach(), atol=1e-4, rtol=1e-4)


def test_what_is_no_number_does_not_become_one():
    model, x = SpaceTimeTransformer(**OPTIONS), torch.randn(1, 2, 5, 16)
    x[0, 1, 3, 7] = torch.nan
    with torch.no_grad():
        y = model(x)
    assert y[:, 0].isfinite().all()
    assert y[:, 1].isnan().all()


@pytest.mark.parametrize(
    "changed",
    [
        {"embed_dim": 64, "num_heads": 1},
        {"embed_dim": LARGEST + 32, "num_heads": (LARGEST + 32) // 32},
        {"feed_forward": {"name": "moe", "num_experts": 2, "top_k": 1, "balance_weight": 0, "z_weight": 0}},
        {"positions": "alibi"},
        {"qk_norm": True},
        {"condition_dim": 2, "conditioning": "adaln_zero"},
    ],
)
def test_other_blocks_are_left_to_torch(changed):
    options = OPTIONS | changed
    model, x = roughened(SpaceTimeTransformer(**options)), torch.randn(1, 2, 5, options["embed_dim"])
    condition = Condition(torch.randn(1, 2, 2), torch.arange(2) > 0) if "condition_dim" in options else None
    wanted = model(x, condition).detach()
    with torch.no_grad():
        assert not model._runs_natively(x)
        torch.testing.assert_close(model(x, condition), wanted)


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("conditioning", ["add", "prepend"])
def test_blocks_that_know_nothing_of_actions_run_natively(conditioning, positions):
    """Of the tokens that are, or carry, actions."""
    options = OPTIONS | {"positions": positions, "condition_dim": 2, "conditioning": conditioning}
    model = roughened(SpaceTimeTransformer(**options))
    x, condition = torch.randn(1, 3, 5, 16), Condition(torch.randn(1, 3, 2), torch.arange(3) > 0)
    expected = outputs(model, x, condition, 2)
    with torch.no_grad():
        assert model._runs_natively(x)
        for one, other in zip(outputs(model, x, condition, 2), expected, strict=True):
            torch.testing.assert_close(one, other.detach(), atol=1e-5, rtol=1e-5)


def test_mixed_precision_is_left_to_torch():
    model, x = SpaceTimeTransformer(**OPTIONS), torch.randn(1, 2, 5, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not model._runs_natively(x)


def test_without_a_compiler_blocks_are_left_to_torch(no_compiler):
    model, x = SpaceTimeTransformer(**OPTIONS), torch.randn(1, 2, 5, 16)
    with torch.no_grad():
        compiled = model(x)
        with no_compiler():
            assert not model._runs_natively(x)
            torch.testing.assert_close(model(x), compiled)


@pytest.mark.parametrize("condition_dim", [None, 2])
@pytest.mark.parametrize("temporal", [True, False])
def test_operations_are_those_that_torch_counts(condition_dim, temporal):
    model = SpaceTimeTransformer(**OPTIONS, condition_dim=condition_dim, temporal=temporal)
    x = torch.randn(2, 3, 5, 16)
    condition = None if condition_dim is None else Condition(torch.randn(2, 3, 2), torch.arange(3) > 0)
    counts = []
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient), FlopCounterMode(display=False) as counter:
            model(x, condition)
            if temporal:
                model.remember(x, condition)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]
