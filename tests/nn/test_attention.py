import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tinyworlds.nn import narrow
from tinyworlds.nn.attention import KeysAndValues, SpatialAttention, TemporalAttention
from tinyworlds.nn.positions import POSITIONS, Look, Timeline

CAUSAL = Look(Timeline.causal(3).visible)


def written_out(attention, x, visible=None):
    """Softmax attention of (N, K, E), a head at a time."""
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    width = x.shape[-1] // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / width**0.5
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    return attention.out(torch.cat(heads, dim=-1))


def test_spatial_attention_is_softmax_attention_within_each_frame():
    attention, x = SpatialAttention(embed_dim=12, num_heads=3, qk_norm=False), torch.randn(2, 3, 5, 12)
    for frame in range(3):
        torch.testing.assert_close(attention(x)[:, frame], written_out(attention, x[:, frame]))


def test_temporal_attention_is_softmax_attention_over_visible_frames_of_each_place():
    attention, x = TemporalAttention(embed_dim=12, num_heads=3, qk_norm=False), torch.randn(2, 4, 5, 12)
    visible = Timeline.causal(4).visible
    attended = attention(x, Look(visible))
    for place in range(5):
        torch.testing.assert_close(attended[:, :, place], written_out(attention, x[:, :, place], visible))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="embed_dim=10 does not divide into num_heads=3"):
        SpatialAttention(embed_dim=10, num_heads=3, qk_norm=False)


@pytest.mark.parametrize("num_heads", [1, 6])  # of 24 channels, left to the fused kernel, and of 4
def test_wide_and_narrow_heads_have_the_gradients_of_softmax_attention(num_heads):
    for attention, arguments in (
        (SpatialAttention(embed_dim=24, num_heads=num_heads, qk_norm=False), ()),
        (TemporalAttention(embed_dim=24, num_heads=num_heads, qk_norm=False), (CAUSAL,)),
    ):
        x, weight = torch.randn(2, 3, 5, 24, requires_grad=True), torch.randn(2, 3, 5, 24)
        inputs = (x, *attention.parameters())
        rows, back = ("b t p e -> (b t) p e", "(b t) p e -> b t p e")
        if arguments:
            rows, back = ("b t p e -> (b p) t e", "(b p) t e -> b t p e")
        visible = [look.mask for look in arguments]
        expected = rearrange(written_out(attention, rearrange(x, rows), *visible), back, b=2)
        wanted = torch.autograd.grad((expected * weight).sum(), inputs)
        got = torch.autograd.grad((attention(x, *arguments) * weight).sum(), inputs)
        for one, other in zip(got, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@settings(max_examples=60)
@given(
    tokens=st.integers(1, 70),
    heads=st.integers(1, 3),
    width=st.sampled_from(narrow.WIDTHS),
    spread=st.sampled_from([0.1, 1, 4]),  # of the last, some scores are far above others
    shift=st.sampled_from([0, 6]),  # of queries up, of keys down: all scores are far below 0
    seed=st.integers(0, 2**31),
)
def test_compiled_attention_is_softmax_attention_with_its_gradient(tokens, heads, width, spread, shift, seed):
    generator = torch.Generator().manual_seed(seed)
    qkv = spread * torch.randn(2, tokens, 3, heads * width, generator=generator)
    qkv += shift * torch.tensor([1, -1, 0]).unsqueeze(1)
    qkv = qkv.flatten(2).requires_grad_()
    weight = torch.randn(2, tokens, heads * width, generator=generator)
    exact = qkv.detach().double().requires_grad_()
    q, k, v = rearrange(exact, "n p (three h d) -> three n h p d", three=3, h=heads)
    expected = rearrange((q @ k.mT / width**0.5).softmax(-1) @ v, "n h p d -> n p (h d)")
    attended = narrow.attend(qkv, heads)[0]
    (wanted,) = torch.autograd.grad((expected * weight).sum(), exact)
    (got,) = torch.autograd.grad((attended * weight).sum(), qkv)
    scale = spread * max(1, spread**2) * (1 + shift**2 / 4)
    torch.testing.assert_close(attended.double(), expected, atol=2e-6 * scale, rtol=0)
    torch.testing.assert_close(got.double(), wanted, atol=3e-5 * scale, rtol=1e-5)


@settings(max_examples=60)
@given(
    frames=st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(1, 3)),  # past, later, that ask
    positions=st.integers(1, 40),
    width=st.sampled_from(narrow.WIDTHS),
    spread=st.sampled_from([0.1, 1, 4]),
    seed=st.integers(0, 2**31),
)
def test_compiled_attention_over_frames_is_softmax_attention_with_its_gradient(frames, positions, width, spread, seed):
    generator = torch.Generator().manual_seed(seed)
    past, later, asking = frames
    inputs = [
        (spread * torch.randn(2, count, 3, width, positions, generator=generator)).requires_grad_()
        for count in (past, past, later, later, asking)
    ]
    visible = torch.rand(asking, past + later, generator=generator) < 0.5
    visible[:, -1] = True
    weight = torch.randn(2, asking, 3, width, positions, generator=generator)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    keys, values = torch.cat(exact[:3:2], dim=1), torch.cat(exact[1:4:2], dim=1)
    scores = torch.einsum("bihdp,bjhdp->bijhp", exact[4], keys) / width**0.5
    weights = scores.masked_fill(~visible[..., None, None], -torch.inf).softmax(2)
    expected = torch.einsum("bijhp,bjhdp->bihdp", weights, values)
    attended = narrow.attend_over_frames(*inputs, visible)
    scale = spread * max(1, spread**2)
    torch.testing.assert_close(attended.double(), expected, atol=2e-6 * scale, rtol=0)
    wanted = torch.autograd.grad((expected * weight).sum(), exact)
    got = torch.autograd.grad((attended * weight).sum(), inputs)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.parametrize("width", [4, 5])  # compiled, and torch's own written as products
def test_operations_of_attention_are_counted(width):
    x, heads = torch.randn(2, 3, 7, 2 * width, requires_grad=True), 2
    within, over = (
        kind(embed_dim=heads * width, num_heads=heads, qk_norm=False) for kind in (SpatialAttention, TemporalAttention)
    )
    projections = 2 * 2 * 3 * 7 * (heads * width) ** 2 * 4
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        y = within(x)
        assert counter.get_total_flops() == projections + 4 * 2 * 3 * 7**2 * heads * width
        over(y, CAUSAL)
    assert counter.get_total_flops() == 2 * projections + 4 * 2 * 3 * 7 * (7 + 3) * heads * width


def test_what_is_no_number_does_not_become_one():
    for place in (0, 5, 13):  # among queries, keys, values
        qkv = torch.randn(1, 4, 24)
        qkv[0, 2, 4 * (place // 5) * 2 + 1] = torch.nan
        assert narrow.attend(qkv, 2)[0].isnan().any()


def test_without_a_compiler_the_same_comes_of_torchs_own_kernel(no_compiler):
    attention, x = SpatialAttention(embed_dim=12, num_heads=3, qk_norm=False), torch.randn(2, 3, 5, 12)
    compiled = attention(x)
    with no_compiler():
        assert not narrow.is_narrow(x, 4)
        torch.testing.assert_close(attention(x), compiled)


@settings(max_examples=30)
@given(
    past=st.integers(1, 4),
    now=st.integers(1, 3),
    num_heads=st.sampled_from([1, 6]),
    qk_norm=st.booleans(),
    positions=st.sampled_from(list(POSITIONS)),
    seed=st.integers(0, 2**31),
)
def test_remembered_frames_are_seen_as_if_they_were_there(past, now, num_heads, qk_norm, positions, seed):
    """Whatever the later frames see of them and of one another."""
    generator = torch.Generator().manual_seed(seed)
    attention = TemporalAttention(embed_dim=24, num_heads=num_heads, qk_norm=qk_norm)
    where = POSITIONS[positions](embed_dim=24, num_heads=num_heads, grid=(1, 3), extra=0)
    x = torch.randn(2, past + now, 3, 24, generator=generator)
    visible = torch.rand(past + now, past + now, generator=generator) < 0.5
    visible |= torch.eye(past + now, dtype=torch.bool)
    times = torch.arange(past + now)
    before = where.looks(Timeline(times[:past], visible[:past, :past])).time
    after = where.looks(Timeline(times[past:], visible[past:])).time
    together = attention(x, where.looks(Timeline(times, visible)).time)[:, past:]
    kept: list[KeysAndValues] = []
    attention(x[:, :past], before, kept=kept)
    for memory in (kept[0], attention.remember(x[:, :past], before)):
        torch.testing.assert_close(attention(x[:, past:], after, memory), together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_heads", [1, 6])
def test_normalized_queries_and_keys_are_those_of_any_scale(num_heads):
    """And scores, which softmax would turn into a choice of one, stay within the root of a head's channels."""
    x = torch.randn(2, 3, 5, 24)
    for attention, arguments in (
        (SpatialAttention(embed_dim=24, num_heads=num_heads, qk_norm=True), ()),
        (TemporalAttention(embed_dim=24, num_heads=num_heads, qk_norm=True), (CAUSAL,)),
    ):
        wanted = attention(x, *arguments)
        attention.qkv.weight.data[:24] *= 100  # queries
        attention.qkv.bias.data[:24] *= 100
        attention.qkv.weight.data[24:48] *= 30  # keys
        attention.qkv.bias.data[24:48] *= 30
        torch.testing.assert_close(attention(x, *arguments), wanted, atol=1e-4, rtol=1e-3)
        q, k, _ = rearrange(
            attention._prepared(attention.qkv(x), Look(), parts=3),
            "b t p (three h d) -> three b h (t p) d", three=3, h=num_heads,
        )  # fmt: skip
        width = 24 // num_heads
        assert (q @ k.mT / width**0.5).abs().max() <= width**0.5 + 1e-4
