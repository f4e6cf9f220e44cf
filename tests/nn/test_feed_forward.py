import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.nn.feed_forward import MoE, SwiGLU, build_feed_forward


def test_swiglu_is_its_equation_with_two_thirds_of_the_units():
    layer, x = SwiGLU(embed_dim=6, hidden_dim=10), torch.randn(4, 6)
    w1, w2 = layer.gate_and_value.weight.chunk(2)
    b1, b2 = layer.gate_and_value.bias.chunk(2)
    assert w1.shape == (6, 6)  # floor(2/3 · 10) units
    gate = x @ w1.T + b1
    expected = (gate * torch.sigmoid(gate) * (x @ w2.T + b2)) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(x), expected)


def test_no_units_are_refused():
    with pytest.raises(ValueError, match="hidden_dim=1"):
        SwiGLU(embed_dim=6, hidden_dim=1)


@given(experts=st.integers(1, 6), data=st.data(), tokens=st.integers(1, 9))
def test_a_mixture_is_the_weighted_sum_of_the_best_experts(experts, data, tokens):
    top_k = data.draw(st.integers(1, experts))
    layer = MoE(embed_dim=6, hidden_dim=9, num_experts=experts, top_k=top_k, balance_weight=0)
    x = torch.randn(2, tokens, 6)
    scores = x @ layer.router.weight.T
    weights = torch.zeros_like(scores)
    for token in torch.cartesian_prod(torch.arange(2), torch.arange(tokens)):
        row = scores[*token]
        best = row.argsort(descending=True)[:top_k]
        weights[*token, best] = row[best].exp() / row[best].exp().sum()
    every = torch.stack([expert(x) for expert in layer.experts], dim=-1)
    torch.testing.assert_close(layer(x), (every * weights.unsqueeze(-2)).sum(-1))


def test_router_and_experts_that_were_chosen_learn():
    layer = MoE(embed_dim=6, hidden_dim=9, num_experts=3, top_k=2, balance_weight=0)
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(3, 6))
    x = torch.randn(20, 6)
    x[:, :3] = torch.tensor([2.0, 1.0, 0.0])
    layer(x).square().sum().backward()
    assert layer.router.weight.grad.any(-1).tolist() == [True, True, False]
    assert [expert.out.weight.grad.any().item() for expert in layer.experts] == [True, True, False]


def test_the_balance_loss_is_its_weight_where_work_is_even_and_grows_with_unevenness():
    layer = MoE(embed_dim=4, hidden_dim=6, num_experts=4, top_k=1, balance_weight=0.5)
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(4))
    layer(torch.eye(4) * 3)
    torch.testing.assert_close(layer.balance_loss, torch.tensor(0.5))
    layer(torch.eye(4)[:1].expand(4, 4) * 100)
    torch.testing.assert_close(layer.balance_loss, torch.tensor(0.5 * 4))
    before = layer.balance_loss
    layer.eval()(torch.eye(4))
    assert layer.balance_loss is before


def test_the_balance_loss_evens_the_work_out():
    layer = MoE(embed_dim=4, hidden_dim=6, num_experts=4, top_k=2, balance_weight=1)
    x = torch.randn(256, 4) + 1
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    shares = []
    for _ in range(100):
        layer(x)
        shares.append((layer.router(x).topk(2).indices.flatten().bincount(minlength=4) / 512).max().item())
        optimizer.zero_grad()
        layer.balance_loss.backward()
        optimizer.step()
    assert shares[0] > 0.4
    assert shares[-1] < 0.3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "relu"}, r"feed_forward\.name='relu' is none of swiglu, moe"),
        ({"name": "moe", "num_experts": 2, "top_k": 3, "balance_weight": 0}, r"feed_forward\.top_k=3"),
        ({"name": "moe", "num_experts": 0, "top_k": 0, "balance_weight": 0}, r"feed_forward\.top_k=0"),
        ({"name": "moe", "num_experts": 2, "top_k": 1, "balance_weight": -1}, r"feed_forward\.balance_weight=-1"),
        ({"name": "moe", "num_experts": 2, "top_k": 1}, "feed_forward.*balance_weight"),
        ({"name": "swiglu", "top_k": 1}, "feed_forward.*top_k"),
    ],
)
def test_impossible_options_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        build_feed_forward(options, embed_dim=6, hidden_dim=9)
