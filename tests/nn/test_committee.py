import pytest
import torch

from tinyworlds.nn.committee import CommitteeDecoder, CommitteeEncoder
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
