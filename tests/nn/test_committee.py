import pytest
import torch

from tinyworlds.nn.committee import REMEMBERED, Agreement, CommitteeDecoder, CommitteeEncoder
from tinyworlds.nn.motion import MotionDecoder, MotionEncoder

from ..conftest import roughened

SIZE = (16, 24)


@pytest.fixture
def encoders() -> list[MotionEncoder]:
    options = {"width": 4, "channels": 2, "reach": 3, "moments": True, "equalized": True}
    return [roughened(MotionEncoder(frame_size=SIZE, latent_dim=2, **options)) for _ in range(3)]


@pytest.fixture
def decoder() -> CommitteeDecoder:
    return CommitteeDecoder([roughened(MotionDecoder(frame_size=SIZE, latent_dim=2, width=4)) for _ in range(3)])


def test_latents_of_the_members_lie_one_after_the_other(encoders, frames):
    together = CommitteeEncoder(encoders)(frames)
    assert torch.equal(together, torch.cat([encoder(frames) for encoder in encoders], dim=-1))
    assert together.shape == (2, 4, 6)


def test_each_member_predicts_by_its_own_code_alone(decoder, frames):
    now, codes = frames[:, :-1], torch.ones(2, 4, 6)
    other = codes.clone()
    other[..., 2:4] *= -1  # the second member's
    same = (decoder.each(now, codes) == decoder.each(now, other)).flatten(1).all(1)
    assert same.tolist() == [True, False, True]
    assert torch.equal(decoder(now, codes), decoder.each(now, codes).mean(0))


def test_combinations_are_counted_and_earlier_ones_fade():
    agreement = Agreement(members=2, codes=4, classes=2)
    agreement.count(torch.tensor([[3, 3], [3, 9]]))
    agreement.count(torch.tensor([[9, 9], [9, 9]]))
    faded = 1 - 1 / REMEMBERED
    expected = torch.zeros(16)
    expected[3], expected[9] = 3 * faded, faded + 4
    torch.testing.assert_close(agreement.counts, expected)


def test_classes_are_what_members_agree_on_and_typical_is_what_is_likeliest():
    """Of three members with eight codes, each names two hidden actions by codes 2 and 5, beside noise of its own."""
    agreement = Agreement(members=3, codes=8, classes=2)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randint(2, (5000,), generator=generator)
    noise = torch.randint(8, (5000, 3), generator=generator)
    clear = torch.rand(5000, 3, generator=generator) < 0.8
    codes = torch.where(clear, torch.tensor([2, 5])[hidden].unsqueeze(1), noise)
    agreement.count((codes * torch.tensor([1, 8, 64])).sum(1))
    untouched = Agreement(members=3, codes=8, classes=2)
    untouched.fit()
    assert torch.equal(untouched.class_of, torch.arange(512) % 2)
    agreement.fit()
    clear_cut = torch.tensor([2 + 16 + 128, 5 + 40 + 320])
    assert agreement.typical.sort().values.tolist() == clear_cut.tolist()
    first, second = agreement(clear_cut).tolist()
    assert {first, second} == {0, 1}
    one_differs = torch.tensor([2 + 16 + 64 * 7, 5 + 8 * 7 + 320])
    assert agreement(one_differs).tolist() == [first, second]


@pytest.mark.parametrize(("name", "value"), [("class_of", 2), ("class_of", -1), ("typical", 16), ("counts", -1.0)])
def test_numbers_that_are_none_of_its_own_are_refused(name, value):
    state = Agreement(members=2, codes=4, classes=2).state_dict()
    state[name] = torch.full_like(state[name], value)
    with pytest.raises(ValueError, match=name):
        Agreement(members=2, codes=4, classes=2).load_state_dict(state)
