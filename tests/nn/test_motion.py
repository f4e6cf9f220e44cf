import pytest
import torch

from tinyworlds.nn.action_codecs import build_decoder, build_encoder
from tinyworlds.nn.motion import MotionDecoder, MotionEncoder, correlate, offsets

SMALL = {"frame_size": (128, 128), "latent_dim": 2, "width": 4, "channels": 2, "reach": 5}


def square(row: int, column: int) -> torch.Tensor:
    frame = torch.full((3, 128, 128), -1.0)
    frame[:, row : row + 4, column : column + 4] = 1
    return frame


@pytest.mark.parametrize("equalized", [False, True])
@pytest.mark.parametrize("moments", [False, True])
def test_the_same_motion_elsewhere_has_the_same_latent(moments, equalized):
    encoder = MotionEncoder(**SMALL, moments=moments, equalized=equalized)
    here = torch.stack([square(56, 56), square(58, 56)])
    there = torch.stack([square(64, 64), square(66, 64)])
    other = torch.stack([square(56, 56), square(54, 56)])
    latents = encoder(torch.stack([here, there, other]))
    torch.testing.assert_close(latents[0], latents[1], atol=1e-4, rtol=1e-4)
    assert (latents[0] - latents[2]).abs().max() > 1e-2


@pytest.mark.parametrize("moments", [False, True])
def test_moments_tell_what_moves_apart_from_what_comes_together(moments):
    """Summed over places the motions are the same: one square goes left, the other right."""
    encoder = MotionEncoder(**SMALL, moments=moments, equalized=False)
    before = torch.maximum(square(64, 40), square(64, 80))
    apart = torch.stack([before, torch.maximum(square(64, 38), square(64, 82))])
    together = torch.stack([before, torch.maximum(square(64, 42), square(64, 78))])
    latents = encoder(torch.stack([apart, together]))
    assert ((latents[0] - latents[1]).abs().max() > 1e-2) == moments


@pytest.mark.parametrize("equalized", [False, True])
def test_equalized_kinds_tell_which_way_and_not_how_much(equalized):
    encoder = MotionEncoder(**SMALL, moments=True, equalized=equalized)
    film = torch.stack([square(56, 56), square(58, 56)]).unsqueeze(0)
    latents = [encoder(film)]
    with torch.no_grad():
        encoder.features[-1].weight[0] *= 5
        encoder.features[-1].bias[0] *= 5
    latents.append(encoder(film))
    assert torch.allclose(*latents, atol=1e-3) == equalized


def test_offsets_are_from_the_centre_of_mass():
    mass = torch.zeros(1, 1, 5, 9)
    mass[..., 1, 2], mass[..., 1, 4] = 1.0, 3.0
    right, down = offsets(mass)
    torch.testing.assert_close(right[0, 0, 0], torch.linspace(-1, 1, 9) + 0.125, atol=1e-3, rtol=0)
    torch.testing.assert_close(down[0, 0, :, 0], torch.linspace(-1, 1, 5) + 0.5, atol=1e-3, rtol=0)


def test_a_code_makes_the_same_change_elsewhere():
    decoder = MotionDecoder(frame_size=(256, 256), latent_dim=2, width=4)
    torch.nn.init.normal_(decoder.up[1].weight)
    here, there = torch.full((2, 1, 1, 3, 256, 256), -1.0)
    here[..., 112:116, 112:116] = 1
    there[..., 128:132, 128:132] = 1
    code = torch.ones(1, 1, 2)
    changes = [decoder(x, code) - x for x in (here, there)]
    assert changes[0].abs().max() > 0.1
    middle, shifted = slice(104, 124), slice(120, 140)
    torch.testing.assert_close(changes[0][..., middle, middle], changes[1][..., shifted, shifted], atol=1e-3, rtol=1e-3)


def test_before_training_nothing_is_predicted_to_change():
    frames = torch.randn(1, 3, 3, 16, 16)
    decoder = MotionDecoder(frame_size=(16, 16), latent_dim=2, width=4)
    torch.testing.assert_close(decoder(frames, torch.ones(1, 3, 2)), frames)


def test_frames_that_cannot_be_halved_are_refused():
    with pytest.raises(ValueError, match="20x16 is no multiple of 8"):
        MotionDecoder(frame_size=(20, 16), latent_dim=2, width=4)


@pytest.mark.parametrize("reach", [0, 16])
def test_a_reach_beyond_the_frame_is_refused(reach):
    with pytest.raises(ValueError, match=rf"stage\.encoder\.reach={reach}"):
        MotionEncoder(**{**SMALL, "frame_size": (16, 24), "reach": reach}, moments=False, equalized=False)


def test_correlation_is_its_sum_over_places():
    left, came = torch.randn(2, 1, 2, 5, 6)
    reach = 3
    expected = torch.zeros(1, 2, 7, 7)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            for y in range(max(0, -dy), min(5, 5 - dy)):
                for x in range(max(0, -dx), min(6, 6 - dx)):
                    expected[..., dy + reach, dx + reach] += left[..., y, x] * came[..., y + dy, x + dx]
    torch.testing.assert_close(correlate(left, came, reach=reach), expected)


@pytest.mark.parametrize("build", [build_encoder, build_decoder])
def test_unknown_codecs_are_refused_by_name(build):
    with pytest.raises(ValueError, match=r"stage\.(en|de)coder\.name='other' is none of"):
        build({"name": "other"}, frame_size=(16, 16), latent_dim=2)


def test_unknown_and_missing_options_are_refused_by_name():
    with pytest.raises(ValueError, match=r"^stage\.decoder\.depth: there is no such option, .* takes width$"):
        build_decoder({"name": "motion", "width": 4, "depth": 2}, frame_size=(16, 16), latent_dim=2)
    with pytest.raises(ValueError, match=r"^stage\.encoder\.channels is missing"):
        build_encoder({"name": "motion", "width": 4, "reach": 2}, frame_size=(16, 16), latent_dim=2)
