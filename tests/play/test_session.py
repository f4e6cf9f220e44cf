import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.maskgit import Decoding
from tinyworlds.play import session as module
from tinyworlds.play.session import Session, Settings

DECODING = Decoding(steps=4, schedule="cosine", temperature=1.0, **Decoding.earlier)
SETTINGS = Settings(seed=3, decoding=DECODING, horizon=1, fps=10.0)


def scene(frames: int = 3) -> ClipTokens:
    return ClipTokens(torch.arange(frames * 2).view(1, frames, 2), torch.ones(1, frames - 1, dtype=torch.int64))


@given(steps=st.lists(st.integers(1, 3), max_size=12), back=st.integers(0, 40))
def test_rewinding_goes_back_to_the_end_of_a_step(steps, back):
    game = Session(scene(), SETTINGS)
    ends, total = {0: 0}, 0
    for number, horizon in enumerate(steps, start=1):
        game.extend(torch.full((horizon, 2), number), action=number)
        total += horizon
        ends[total] = number
    game.rewind(back)
    left = game.rewindable
    assert left in ends
    assert game.step == ends[left]
    assert left <= max(total - back, 0)
    assert not any(left < end <= total - back for end in ends), "no further than needed"


def test_what_is_seen_is_the_last_frames_and_what_led_to_them():
    game = Session(scene(), SETTINGS)
    assert game.seen(4).actions.tolist() == [[1, 1]]
    game.extend(torch.tensor([[7, 8]]), action=2)
    seen = game.seen(2)
    assert (seen.tokens.tolist(), seen.actions.tolist()) == ([[[4, 5], [7, 8]]], [[2]])
    assert game.seen(1).actions.shape == (1, 0)


def test_no_more_is_remembered_than_is_said(monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 5)
    game = Session(scene(), SETTINGS)
    for number in range(20):
        game.extend(torch.tensor([[number, number]]), action=0)
    game.rewind(1000)
    assert game.step == 15
    assert game.seen(1).tokens.tolist() == [[[14, 14]]]


def test_noise_is_of_the_seed_and_of_the_step():
    game = Session(scene(), SETTINGS)

    def draw() -> float:
        return float(torch.rand((), generator=game.request(0, context=3, watched=False).generator()))

    first = draw()
    assert draw() == first
    game.settings = SETTINGS.changed({"seed": 4})
    other = draw()
    game.extend(torch.tensor([[0, 0]]), action=0)
    assert len({first, other, draw()}) == 3
    game.rewind(1)
    assert draw() == other


@pytest.mark.parametrize(
    "change", [{"action": None}, {"seen": scene(2)}, {"watched": True}, {"settings": SETTINGS.changed({"horizon": 2})}]
)
def test_only_like_requests_share_a_batch(change):
    request = Session(scene(), SETTINGS).request(1, context=3, watched=False)
    other = request._replace(action=2, settings=SETTINGS.changed({"seed": 9, "fps": 3}))
    assert request.alike == other.alike
    assert request.alike != other._replace(**change).alike


def test_changed_settings_keep_the_rest():
    changed = SETTINGS.changed({"temperature": 0.5, "fps": None, "seed": 8})
    assert changed.plain() == {**SETTINGS.plain(), "temperature": 0.5, "seed": 8}
