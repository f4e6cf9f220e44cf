import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tinyworlds.nn.feed_forward import MoE, Routing, SwiGLU, build_feed_forward, summary

EXPERTS = {"name": "moe", "num_experts": 2, "top_k": 1}


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
    layer = MoE(embed_dim=6, hidden_dim=9, num_experts=experts, top_k=top_k, balance_weight=0, z_weight=0)
    x = torch.randn(2, tokens, 6)
    scores = x @ layer.router.weight.T
    weights = torch.zeros_like(scores)
    for token in torch.cartesian_prod(torch.arange(2), torch.arange(tokens)):
        row = scores[*token]
        best = row.argsort(descending=True)[:top_k]
        weights[*token, best] = row[best].exp() / row[best].exp().sum()
    every = torch.stack([expert(x) for expert in layer.experts], dim=-1)
    torch.testing.assert_close(layer(x), (every * weights.unsqueeze(-2)).sum(-1))


def operations(layer: torch.nn.Module, x: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        layer(x)
    return counter.get_total_flops()


@given(experts=st.integers(2, 6), data=st.data(), tokens=st.integers(1, 9))
def test_a_token_costs_the_router_and_as_many_experts_as_it_is_sent_to(experts, data, tokens):
    top_k = data.draw(st.integers(1, experts))
    options = {"num_experts": experts, "top_k": top_k, "balance_weight": 0, "z_weight": 0}
    x = torch.randn(tokens, 6)
    alone = operations(SwiGLU(embed_dim=6, hidden_dim=9), x)
    routing = operations(torch.nn.Linear(6, experts, bias=False), x)
    assert operations(MoE(embed_dim=6, hidden_dim=9, **options), x) == routing + top_k * alone


def test_two_experts_of_half_the_units_cost_what_one_feed_forward_does():
    layer = MoE(embed_dim=8, hidden_dim=48, num_experts=4, top_k=2, balance_weight=0, z_weight=0)
    x = torch.randn(5, 8)
    assert operations(layer, x) - operations(layer.router, x) == operations(SwiGLU(embed_dim=8, hidden_dim=96), x)


def test_router_and_experts_that_were_chosen_learn():
    layer = MoE(embed_dim=6, hidden_dim=9, num_experts=3, top_k=2, balance_weight=0, z_weight=0)
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(3, 6))
    x = torch.randn(20, 6)
    x[:, :3] = torch.tensor([2.0, 1.0, 0.0])
    layer(x).square().sum().backward()
    assert layer.router.weight.grad.any(-1).tolist() == [True, True, False]
    assert [expert.out.weight.grad.any().item() for expert in layer.experts] == [True, True, False]


def routed(layer: MoE, x: torch.Tensor) -> Routing:
    routings: list[Routing] = []
    layer(x, routings)
    (routing,) = routings
    return routing


def even(**options) -> tuple[MoE, torch.Tensor]:
    """Four experts, of which each token is for one alone, and a token for each."""
    layer = MoE(**{"embed_dim": 4, "hidden_dim": 6, "num_experts": 4, "top_k": 1, "balance_weight": 0.5, **options})
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(4))
    return layer, torch.eye(4) * 3


def test_the_balance_loss_is_its_weight_where_work_is_even_and_grows_with_unevenness():
    layer, tokens = even(z_weight=0)
    routing = routed(layer, tokens)
    torch.testing.assert_close(layer.loss(routing), torch.tensor(0.5))
    torch.testing.assert_close(routing.share, torch.full((4,), 0.25))
    assert routing.evenness.item() == pytest.approx(1)
    uneven = routed(layer, tokens[:1].expand(4, 4) * 40)
    torch.testing.assert_close(layer.loss(uneven), torch.tensor(0.5 * 4))
    assert uneven.evenness.item() == pytest.approx(0.25)
    assert summary([routing, uneven])["evenness"].item() == pytest.approx(0.625)
    assert (summary([routing, uneven])["busiest"], summary([routing, uneven])["idlest"]) == (1, 0)


@given(tokens=st.integers(1, 9), experts=st.integers(1, 6), data=st.data())
def test_no_routing_has_a_smaller_balance_loss_than_an_even_one_and_all_that_is_sent_arrives(tokens, experts, data):
    """Of scores that are all alike, whoever the tokens go to; sent are `top_k` experts for each token."""
    top_k = data.draw(st.integers(1, experts))
    layer = MoE(embed_dim=4, hidden_dim=6, num_experts=experts, top_k=top_k, balance_weight=1, z_weight=0)
    routing = routed(layer, torch.randn(tokens, 4))
    assert (routing.share * tokens * top_k).round().sum() == tokens * top_k
    assert routing.share.max() <= 1 / top_k + 1e-6  # no token goes to one expert twice
    torch.nn.init.zeros_(layer.router.weight)
    torch.testing.assert_close(routed(layer, torch.randn(tokens, 4)).balance, torch.tensor(1.0))


def test_the_z_loss_is_its_equation_and_shrinks_scores():
    layer, tokens = even(balance_weight=0, z_weight=2.0)
    expected = (3 * torch.eye(4)).exp().sum(-1).log().square().mean()
    torch.testing.assert_close(layer.loss(routed(layer, tokens)), 2 * expected)
    layer.loss(routed(layer, tokens)).backward()
    assert (layer.router.weight.grad.diagonal() > 0).all()


def test_nothing_is_noted_where_nothing_is_learned():
    layer, tokens = even(z_weight=1)
    routings: list[Routing] = []
    layer.eval()(tokens, routings)
    assert routings == []


def test_the_balance_loss_evens_the_work_out():
    layer = MoE(embed_dim=4, hidden_dim=6, num_experts=4, top_k=2, balance_weight=1, z_weight=0)
    x = torch.randn(256, 4) + 1
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    busiest = []
    for _ in range(100):
        routing = routed(layer, x)
        busiest.append(routing.share.max().item())
        optimizer.zero_grad()
        layer.loss(routing).backward()
        optimizer.step()
    assert busiest[0] > 0.4
    assert busiest[-1] < 0.3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"name": "relu"}, r"feed_forward\.name='relu' is none of swiglu, moe"),
        ({"name": "moe", "num_experts": 2, "top_k": 3, "balance_weight": 0, "z_weight": 0}, r"feed_forward\.top_k=3"),
        ({"name": "moe", "num_experts": 0, "top_k": 0, "balance_weight": 0, "z_weight": 0}, r"feed_forward\.top_k=0"),
        ({**EXPERTS, "balance_weight": -1, "z_weight": 0}, r"feed_forward\.balance_weight=-1"),
        ({**EXPERTS, "balance_weight": 0, "z_weight": -1}, r"feed_forward\.z_weight=-1"),
        ({**EXPERTS, "z_weight": 0}, "feed_forward.*balance_weight"),
        ({"name": "swiglu", "top_k": 1}, "feed_forward.*top_k"),
    ],
)
def test_impossible_options_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        build_feed_forward(options, embed_dim=6, hidden_dim=9)
