import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.models import ActionTokenizer
from tinyworlds.models.action_tokenizer import code_entropy, latent_dim_of
from tinyworlds.nn.fsq import FSQ

SPACE_TIME = {
    "patch_size": 8,
    "patches": "linear",
    "embed_dim": 16,
    "num_heads": 2,
    "hidden_dim": 24,
    "num_blocks": 1,
    "norm": "post",
}


@pytest.fixture(params=["motion", "space-time"])
def tokenizer(request, action_tokenizer) -> ActionTokenizer:
    """Each codec."""
    if request.param == "space-time":
        encoder = {"name": "mean_concat", **SPACE_TIME}
        decoder = {"name": "masked", "mask_ratio": 1.0, **SPACE_TIME}
        action_tokenizer = ActionTokenizer(**{**action_tokenizer.hparams, "encoder": encoder, "decoder": decoder})
        for parameter in action_tokenizer.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return action_tokenizer.eval()


def test_an_action_per_transition_that_depends_on_no_later_frame(tokenizer, frames):
    other = frames.clone()
    other[:, 3] *= -1
    latents, changed = (tokenizer.latents(clip) for clip in (frames, other))
    assert latents.shape == (2, 4, 2)
    assert torch.equal(latents[:, :2], changed[:, :2])
    assert not torch.equal(latents[:, 2], changed[:, 2])


def test_an_action_changes_the_frame_it_leads_to_and_none_before(tokenizer, frames):
    codes = tokenizer.encode(frames)
    other = codes.clone()
    other[:, 2] *= -1
    with torch.no_grad():
        predicted, changed = (tokenizer.decode(frames[:, :-1], actions) for actions in (codes, other))
    assert torch.equal(predicted[:, :2], changed[:, :2])
    assert not torch.equal(predicted[:, 2], changed[:, 2])


def test_in_training_the_published_decoder_sees_the_first_frame_alone(action_tokenizer, frames):
    decoder = {"name": "masked", "mask_ratio": 1.0, **SPACE_TIME}
    tokenizer = ActionTokenizer(**{**action_tokenizer.hparams, "decoder": decoder}).train()
    codes = torch.ones(2, 4, 2)
    other = frames.clone()
    other[:, 1:] *= -1
    now = frames[:, :-1]
    assert torch.equal(tokenizer.decode(now, codes), tokenizer.decode(other[:, :-1], codes))
    tokenizer.eval()
    assert not torch.equal(tokenizer.decode(now, codes), tokenizer.decode(other[:, :-1], codes))


def test_shrunk_frames_are_averages(action_tokenizer, frames):
    half = ActionTokenizer(**{**action_tokenizer.hparams, "frame_size": (16, 32), "shrink": 2})
    wide = torch.nn.functional.pad(frames, (0, 8))
    torch.testing.assert_close(half.shrunk(wide)[0, 0, 1, 3, 5], wide[0, 0, 1, 6:8, 10:12].mean())


@given(codes=st.lists(st.integers(0, 8), min_size=1, max_size=30))
def test_the_entropy_of_codes_is_that_of_their_histogram(codes):
    fsq = FSQ(latent_dim=2, num_bins=3)
    latents = 3 * fsq.codes(torch.tensor([codes]))
    share = [codes.count(code) / len(codes) for code in set(codes)]
    assert code_entropy(latents, fsq) == pytest.approx(-sum(p * math.log(p) for p in share), abs=0.07)


def test_entropy_pulls_codes_apart():
    latents = torch.full((8, 1, 1), 0.3, requires_grad=True)
    (-code_entropy(latents, FSQ(latent_dim=1, num_bins=2))).backward()
    assert (latents.grad > 0).all()  # descent takes them below 0, to the unused code


@given(latent_dim=st.integers(1, 6), num_bins=st.integers(2, 5))
def test_the_latent_dimension_is_found_from_the_actions(latent_dim, num_bins):
    assert latent_dim_of(num_bins**latent_dim, num_bins) == latent_dim


@pytest.mark.parametrize(("n_actions", "num_bins"), [(6, 2), (1, 2), (0, 2), (8, 3), (4, 1)])
def test_actions_that_are_no_power_of_the_bins_are_refused(n_actions, num_bins):
    with pytest.raises(ValueError, match=f"n_actions={n_actions} is no power of num_bins={num_bins}"):
        latent_dim_of(n_actions, num_bins)
