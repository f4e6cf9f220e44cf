import pytest
import torch

from tinyworlds.nn.norms import Condition
from tinyworlds.nn.transformer import SpaceTimeTransformer, Timeline

OPTIONS = {"embed_dim": 16, "num_heads": 2, "hidden_dim": 24, "num_blocks": 2}


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("changed", range(5))
def test_nothing_before_a_changed_frame_moves_and_all_after_it_does(norm, changed):
    model = SpaceTimeTransformer(norm=norm, **OPTIONS)
    x = torch.randn(1, 5, 6, 16)
    other = x.clone()
    other[:, changed] += 1
    moved = (model(x) != model(other)).flatten(2).any(-1)[0]
    assert moved.tolist() == [frame >= changed for frame in range(5)]


def test_without_time_frames_are_independent():
    model = SpaceTimeTransformer(norm="pre", temporal=False, **OPTIONS)
    x = torch.randn(1, 4, 6, 16)
    each = torch.cat([model(x[:, t : t + 1]) for t in range(4)], dim=1)
    torch.testing.assert_close(model(x), each)


@pytest.mark.parametrize("changed", range(4))
def test_an_action_moves_its_frame_and_those_after_it(changed):
    model = SpaceTimeTransformer(norm="pre", condition_dim=2, **OPTIONS)
    x, latents = torch.randn(1, 4, 6, 16), torch.randn(1, 4, 2)
    other = latents.clone()
    other[:, changed] += 1
    given = torch.ones(4, dtype=torch.bool)
    moved = (model(x, Condition(latents, given)) != model(x, Condition(other, given))).flatten(2).any(-1)[0]
    assert moved.tolist() == [frame >= changed for frame in range(4)]


def test_a_timeline_places_frames_by_their_times_not_their_order():
    model = SpaceTimeTransformer(norm="pre", **OPTIONS)
    x = torch.randn(1, 4, 6, 16)
    order = torch.tensor([2, 0, 3, 1])
    timeline = Timeline(order, order.unsqueeze(1) >= order)
    torch.testing.assert_close(model(x[:, order], None, timeline), model(x)[:, order])


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("num_heads", [1, 4])  # wide and narrow ones
@pytest.mark.parametrize("later", [1, 3])
def test_frames_after_remembered_ones_have_the_features_that_they_have_with_them(norm, num_heads, later):
    model = SpaceTimeTransformer(**{**OPTIONS, "norm": norm, "num_heads": num_heads, "condition_dim": 2})
    x, condition = torch.randn(2, 5, 6, 16), Condition(torch.randn(2, 5, 2), torch.arange(5) > 0)
    first = 5 - later
    past = model.remember(x[:, :first], condition.at(slice(first)))
    alone = model(x[:, first:], condition.at(slice(first, None)), past=past)
    torch.testing.assert_close(alone, model(x, condition)[:, first:])


@pytest.mark.parametrize(("option", "value"), [("norm", "middle"), ("num_blocks", 0)])
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(ValueError, match=f"{option}="):
        SpaceTimeTransformer(**{"norm": "pre", **OPTIONS, option: value})
