import pytest
import torch

from tinyworlds.nn.block import Block
from tinyworlds.nn.norms import MODULATED, Condition
from tinyworlds.nn.positions import POSITIONS, Timeline
from tinyworlds.nn.transformer import CONDITIONINGS, SpaceTimeTransformer

from ..conftest import roughened

OPTIONS = {
    "embed_dim": 16, "num_heads": 2, "hidden_dim": 24, "num_blocks": 2, "norm": "pre", "qk_norm": False,
    "positions": "sincos", "grid": (2, 3),
}  # fmt: skip
EXPERTS = {"name": "moe", "num_experts": 3, "top_k": 2, "balance_weight": 1.0, "z_weight": 1.0}
VARIANTS = {
    "pre": {},
    "post": {"norm": "post"},
    **{name: {"positions": name} for name in POSITIONS if name != "sincos"},
    **{name: {"conditioning": name} for name in CONDITIONINGS if name != "film"},
    "adaln_zero, post": {"conditioning": "adaln_zero", "norm": "post"},
    "rope, prepend": {"positions": "rope", "conditioning": "prepend"},
    "alibi, prepend": {"positions": "alibi", "conditioning": "prepend"},
    "qk_norm": {"qk_norm": True},
    "moe": {"feed_forward": EXPERTS},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def built(**options) -> SpaceTimeTransformer:
    """Told of actions of two numbers; with weights under which everything counts."""
    model = roughened(SpaceTimeTransformer(**{**OPTIONS, "condition_dim": 2, **options}))
    assert isinstance(model, SpaceTimeTransformer)
    return model


def acted(frames: int) -> Condition:
    return Condition(torch.randn(1, frames, 2), torch.arange(frames) > 0)


def moved(one: torch.Tensor, other: torch.Tensor) -> list[bool]:
    """Which frames are unlike, by more than what experts round otherwise in other company."""
    return ((one - other).abs() > 1e-5).flatten(2).any(-1)[0].tolist()


@every_variant
@pytest.mark.parametrize("changed", range(5))
def test_nothing_before_a_changed_frame_moves_and_all_after_it_does(variant, changed):
    model, condition = built(**variant), acted(5)
    x = torch.randn(1, 5, 6, 16)
    other = x.clone()
    other[:, changed] = torch.randn(1, 6, 16)
    assert moved(model(x, condition), model(other, condition)) == [frame >= changed for frame in range(5)]


def test_without_time_frames_are_independent():
    for positions in POSITIONS:
        model = SpaceTimeTransformer(**OPTIONS | {"positions": positions}, temporal=False)
        x = torch.randn(1, 4, 6, 16)
        each = torch.cat([model(x[:, t : t + 1]) for t in range(4)], dim=1)
        torch.testing.assert_close(model(x), each)


@every_variant
@pytest.mark.parametrize("changed", range(1, 4))
def test_an_action_moves_its_frame_and_those_after_it(variant, changed):
    model = built(**variant)
    x, condition = torch.randn(1, 4, 6, 16), acted(4)
    latents = condition.latents.clone()
    latents[:, changed] += 1
    other = condition._replace(latents=latents)
    assert moved(model(x, condition), model(x, other)) == [frame >= changed for frame in range(4)]


@every_variant
def test_no_action_is_another_than_any_and_the_latent_beside_it_is_not_seen(variant):
    """Also that of zeros, which is one where there are three bins."""
    model, x = built(**variant), torch.randn(1, 3, 6, 16)
    nothing = Condition(torch.randn(1, 3, 2), torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(model(x, nothing), model(x))
    zeros = Condition(torch.zeros(1, 3, 2), torch.ones(3, dtype=torch.bool))
    assert not torch.allclose(model(x, zeros), model(x))


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_timeline_places_frames_by_their_times_not_their_order(positions):
    model = built(positions=positions)
    x = torch.randn(1, 4, 6, 16)
    order = torch.tensor([2, 0, 3, 1])
    timeline = Timeline(order, order.unsqueeze(1) >= order)
    torch.testing.assert_close(model(x[:, order], None, timeline), model(x)[:, order])
    assert not torch.allclose(model(x[:, order]), model(x)[:, order])


@pytest.mark.parametrize("positions", POSITIONS)
def test_relative_positions_are_the_same_at_any_time(positions):
    """Also at those that were in no window of training."""
    model, x = built(positions=positions), torch.randn(1, 4, 6, 16)
    timeline = Timeline.causal(4)
    late = timeline._replace(times=timeline.times + 50)
    same = torch.allclose(model(x, None, late), model(x), atol=1e-4)
    assert same == (positions != "sincos")


@every_variant
@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("num_heads", [1, 4])  # wide and narrow ones
@pytest.mark.parametrize("later", [1, 3])
def test_frames_after_remembered_ones_have_the_features_that_they_have_with_them(variant, gradient, num_heads, later):
    model = SpaceTimeTransformer(**{**OPTIONS, "num_heads": num_heads, "condition_dim": 2, **variant})
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, condition = torch.randn(2, 5, 6, 16), Condition(torch.randn(2, 5, 2), torch.arange(5) > 0)
    first = 5 - later
    with torch.set_grad_enabled(gradient):
        past = model.remember(x[:, :first], condition.at(slice(first)))
        alone = model(x[:, first:], condition.at(slice(first, None)), past=past)
    torch.testing.assert_close(alone, model(x, condition)[:, first:], atol=1e-5, rtol=1e-4)


@every_variant
@pytest.mark.parametrize("recompute", [False, True])
def test_mixed_precision_is_near_and_has_gradients_for_all(variant, recompute):
    model = SpaceTimeTransformer(**{**OPTIONS, "condition_dim": 2, **variant})
    model.recompute = recompute
    x, condition = torch.randn(1, 4, 6, 16), acted(4)
    wanted = model(x, condition)
    with torch.autocast("cpu", torch.bfloat16):
        past = model.remember(x[:, :3], condition.at(slice(3)))
        later = model(x[:, 3:], condition.at(slice(3, None)), past=past)
    torch.testing.assert_close(later.float(), wanted[:, 3:], atol=0.1, rtol=0.1)
    (later.float().square().sum() + model.take_routing()[0]).backward()
    assert model.blocks[0].spatial.part.qkv.weight.grad.isfinite().all()


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_under_adaln_zero_is_at_first_the_identity(norm):
    model = SpaceTimeTransformer(**OPTIONS | {"norm": norm}, condition_dim=2, conditioning="adaln_zero")
    x, condition, looks = torch.randn(1, 4, 6, 16), acted(4), model.positions.looks(Timeline.causal(4))
    for block in model.blocks:
        assert isinstance(block, Block)
        for told in (condition, None):
            assert torch.equal(block(x, told, looks).x, x)
    (weight, *_) = torch.autograd.grad(model(x, condition).square().sum(), model.blocks[0].spatial.norm.gate.weight)
    assert weight.any()  # and learns from there
    ordinary = SpaceTimeTransformer(**OPTIONS | {"norm": norm}, condition_dim=2)
    assert not torch.allclose(ordinary.blocks[0](x, condition, looks).x, x, atol=0.1)


def test_an_added_action_is_added_to_every_token_of_its_frame():
    model, plain = built(conditioning="add"), built(condition_dim=None)
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if "from_action" not in name})
    x, condition = torch.randn(1, 4, 6, 16), acted(4)
    embedded = model.from_action(condition.latents) * condition.given.unsqueeze(-1)
    torch.testing.assert_close(model(x, condition), plain(x + embedded.unsqueeze(2)))


def test_a_prepended_action_is_a_token_that_is_not_read_out():
    model = built(conditioning="prepend", positions="alibi")
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x, condition = torch.randn(1, 4, 6, 16), acted(4)
    assert model(x, condition).shape == x.shape
    (tokens,) = seen
    torch.testing.assert_close(tokens[:, :, 1:], x)
    torch.testing.assert_close(tokens[:, 1:, 0], model.from_action(condition.latents)[:, 1:])
    assert not tokens[:, 0, 0].any()  # no action led there
    assert [block.keys.shape[0] for block in model.remember(x, condition).blocks] == [7, 7]


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_only_what_modulates_has_weights_in_the_blocks(conditioning):
    """Of blocks that are told nothing, norms are those of a transformer without actions."""
    plain, told = (
        {name for name, _ in SpaceTimeTransformer(**OPTIONS, **more).blocks.named_parameters()}
        for more in ({}, {"condition_dim": 2, "conditioning": conditioning})
    )
    assert (plain == told) == (conditioning not in MODULATED)


@pytest.mark.parametrize("recompute", [False, True])
def test_every_pass_in_training_counts_in_what_experts_add_to_the_loss(recompute):
    """Of each block the mean over those that used its experts; and none twice, be it computed again or not."""
    model = built(feed_forward=EXPERTS)
    model.recompute = recompute
    x = torch.randn(1, 4, 6, 16)
    for _ in range(2):
        model(x)
        alone, routings = model.take_routing()
        assert len(routings) == 2
        past = model.remember(x)
        remembered, routings = model.take_routing()
        assert len(routings) == 1  # of the last block only keys and values are computed
        past = model.remember(x)
        model(x, past=past)
        both, routings = model.take_routing()
        assert len(routings) == 3
        assert remembered < both
        loss = model(x).sum() + model.take_routing()[0]
        loss.backward()  # computes again what was not kept
        assert model.blocks[0].feed_forward.part.router.weight.grad.any()
    with torch.no_grad():
        model(x)
    model.eval()(x)
    torch.testing.assert_close(model.take_routing(), (torch.zeros(()), []))  # nothing was learned in either
    assert alone > 0


@pytest.mark.parametrize(
    ("option", "value"), [("norm", "middle"), ("num_blocks", 0), ("positions", "polar"), ("conditioning", "shout")]
)
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option}="):
        SpaceTimeTransformer(**{**OPTIONS, option: value})
