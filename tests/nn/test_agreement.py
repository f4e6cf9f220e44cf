import itertools

import pytest
import torch

from tinyworlds.nn import agreement as module
from tinyworlds.nn.agreement import Agreement
from tinyworlds.nn.hidden_markov import HiddenActions


def test_the_latest_clips_are_kept(monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 4)
    agreement = Agreement(members=1, codes=16, actions=2, transitions=2)
    agreement.keep(torch.tensor([[[1], [2]], [[3], [4]], [[5], [6]]]))
    assert agreement.recent.squeeze(-1).tolist() == [[1, 2], [3, 4], [5, 6], [0, 0]]
    agreement.keep(torch.tensor([[[7], [8]], [[9], [10]]]))
    assert agreement.recent.squeeze(-1).tolist() == [[9, 10], [3, 4], [5, 6], [7, 8]]
    agreement.keep(torch.arange(12).view(6, 2, 1))
    assert sorted(agreement.recent.squeeze(-1).tolist()) == [[4, 5], [6, 7], [8, 9], [10, 11]]


def test_nothing_is_found_where_nothing_was_kept():
    agreement = Agreement(members=3, codes=8, actions=2, transitions=3)
    agreement.fit()
    assert torch.equal(agreement.following, torch.full((2, 2), 0.5))


def sluggish(clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three actions, often held, seven in each clip, and the motions: each the sum of its action and the one before.

    Motion 2 is either 1 after 1 or the change between 0 and 2, which no single motion tells.
    """
    generator = torch.Generator().manual_seed(2)
    held = [torch.randint(3, (clips,), generator=generator)]
    for _ in range(7):
        changed = torch.rand(clips, generator=generator) < 0.4
        held.append(torch.where(changed, torch.randint(3, (clips,), generator=generator), held[-1]))
    taken = torch.stack(held, dim=1)
    return taken[:, 1:], taken[:, 1:] + taken[:, :-1]


def fitted(codes: torch.Tensor) -> Agreement:
    agreement = Agreement(members=codes.shape[-1], codes=8, actions=3, transitions=7)
    agreement.keep(codes)
    agreement.fit()
    return agreement


def told(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """How often each true action was found as each action."""
    ones = torch.ones(true.numel())
    return torch.zeros(3, 3).index_put((true.flatten(), found.flatten()), ones, accumulate=True)


def test_actions_are_told_apart_that_a_single_motion_mixes_up():
    actions, motions = sluggish(1500)
    agreement = fitted(motions.unsqueeze(-1))
    pairs = told(agreement(motions.unsqueeze(-1)), actions)
    assert pairs.max(1).values.sum() / pairs.sum() > 0.97
    assert sorted(pairs.argmax(1).tolist()) == [0, 1, 2]
    assert agreement.typical(pairs.argmax(1)).flatten().tolist() == [0, 2, 4]  # each twice


def test_several_members_tell_actions_by_what_they_agree_on():
    """Each names a motion by a code of its own, but in three of ten cases some code."""
    actions, motions = sluggish(800)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randint(8, (*motions.shape, 5), generator=generator)
    clear = torch.rand(noise.shape, generator=generator) < 0.7
    codes = torch.where(clear, (motions.unsqueeze(-1) * 3 + torch.arange(5)) % 8, noise)
    right = []
    for members in (1, 5):
        pairs = told(fitted(codes[..., :members])(codes[..., :members]), actions)
        right.append(float(pairs.max(1).values.sum() / pairs.sum()))
    assert right[1] > 0.9 > right[0]


def likelihood(hidden: HiddenActions, codes: list[int], actions: tuple[int, ...]) -> float:
    """Of one reader's codes and of the actions behind them, the one before the first among these."""
    product = float(hidden.prior[actions[0]])
    for (before, now), code in zip(itertools.pairwise(actions), codes, strict=True):
        product *= float(hidden.following[before, now] * hidden.codes[before, now, 0, code])
    return product


def test_an_action_is_the_likeliest_over_all_ways_that_the_clip_may_have_come_about():
    """By the sum over every sequence of actions, before it and after it."""
    _, motions = sluggish(300)
    agreement = fitted(motions.unsqueeze(-1))
    clips = motions[:20, :4]
    for clip, found in zip(clips.tolist(), agreement(clips.unsqueeze(-1)).tolist(), strict=True):
        ways = {way: likelihood(agreement.hidden, clip, way) for way in itertools.product(range(3), repeat=5)}
        for moment in range(4):
            shares = [sum(p for way, p in ways.items() if way[moment + 1] == action) for action in range(3)]
            assert shares[found[moment]] == pytest.approx(max(shares), rel=1e-3)


def test_the_same_codes_give_the_same_actions():
    codes = sluggish(200)[1].unsqueeze(-1)
    assert torch.equal(fitted(codes).codes, fitted(codes).codes)


WRONG = [("recent", 5), ("seen", -1), ("prior", 0), ("following", torch.nan), ("codes", 2)]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_numbers_that_are_none_of_its_own_are_refused(name, value):
    options = {"members": 1, "codes": 5, "actions": 3, "transitions": 2}
    state = Agreement(**options).state_dict()
    state[name] = torch.full_like(state[name], value)
    with pytest.raises(ValueError, match=f"agreement.{name} "):
        Agreement(**options).load_state_dict(state)
