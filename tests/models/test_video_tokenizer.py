import pytest
import torch

from tinyworlds.models import VideoTokenizer
from tinyworlds.nn.positions import POSITIONS

from ..conftest import roughened


@pytest.mark.parametrize("variant", [{}, {"positions": "rope", "qk_norm": True}, {"positions": "alibi"}])
@pytest.mark.parametrize("changed", range(5))
def test_no_token_and_no_pixel_depends_on_a_later_frame(video_tokenizer, frames, changed, variant):
    tokenizer = VideoTokenizer(**{**video_tokenizer.hparams, **variant}).eval()
    tokenizer.load_state_dict(video_tokenizer.state_dict(), strict=False)
    other = frames.clone()
    other[:, changed] *= -1
    with torch.no_grad():
        tokens = [tokenizer.tokenize(clip) for clip in (frames, other)]
        pixels = [tokenizer(clip) for clip in (frames, other)]
    assert torch.equal(tokens[0][:, :changed], tokens[1][:, :changed])
    assert torch.equal(pixels[0][:, :changed], pixels[1][:, :changed])
    assert not torch.equal(pixels[0][:, changed], pixels[1][:, changed])


def test_tokens_decode_to_what_their_codes_decode_to(video_tokenizer, frames):
    codes = video_tokenizer.encode(frames)
    tokens = video_tokenizer.tokenize(frames)
    assert tokens.shape == (2, 5, video_tokenizer.num_patches)
    assert int(tokens.max()) < video_tokenizer.vocabulary == 27
    torch.testing.assert_close(video_tokenizer.detokenize(tokens), video_tokenizer.decode(codes))


@pytest.mark.parametrize("last", [1, 3, 5, 9])
@pytest.mark.parametrize(("temporal", "local"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("positions", POSITIONS)
def test_the_last_frames_alone_look_as_they_do_among_all(video_tokenizer, frames, temporal, local, last, positions):
    options = {"temporal": temporal, "local": local, "positions": positions}
    tokenizer = VideoTokenizer(**{**video_tokenizer.hparams, **options}).eval()
    codes = tokenizer.encode(frames)
    torch.testing.assert_close(tokenizer.decode(codes, last=last), tokenizer.decode(codes)[:, -last:])


def test_gradients_of_the_reconstruction_reach_every_weight(video_tokenizer, frames):
    video_tokenizer.loss(video_tokenizer(frames), frames).backward()
    silent = [
        name
        for name, parameter in video_tokenizer.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []


def test_what_moves_weighs_more(video_tokenizer, frames):
    hparams = {**video_tokenizer.hparams, "moving_weight": 20}
    weighted = VideoTokenizer(**hparams)
    still = frames[:, :1].expand_as(frames)
    for clip, same in ((still, True), (frames, False)):
        losses = [model.loss(torch.zeros_like(clip), clip) for model in (video_tokenizer, weighted)]
        assert torch.equal(*losses) == same


def test_frames_by_themselves_without_time(video_tokenizer, frames):
    alone = VideoTokenizer(**{**video_tokenizer.hparams, "temporal": False}).eval()
    each = torch.cat([alone.tokenize(frames[:, t : t + 1]) for t in range(5)], dim=1)
    assert torch.equal(alone.tokenize(frames), each)


@pytest.mark.parametrize("temporal", [True, False])
def test_a_local_token_changes_with_its_surroundings_alone(video_tokenizer, temporal):
    options = {**video_tokenizer.hparams, "local": True, "frame_size": (16, 40), "temporal": temporal}
    local = roughened(VideoTokenizer(**options)).eval()
    attending = roughened(VideoTokenizer(**{**options, "local": False})).eval()
    frames = torch.rand(2, 5, 3, 16, 40) * 2 - 1
    other = frames.clone()
    other[:, 2, :, :8, :8] *= -1  # the first patch of ten, whose edge the stem shows to its neighbours
    far = [2, 3, 4, 7, 8, 9]
    with torch.no_grad():
        same, seen = (
            torch.eq(*(model.to_latent(model.encoder(model.patch_embedding(clip))) for clip in (frames, other)))
            for model in (local, attending)
        )
    assert same[:, :, far].all()
    assert same[:, [0, 1, 3, 4]].all()
    assert not same[:, 2, 0].any()
    assert not seen[:, 2, far].any()
    assert not local.temporal


def test_a_local_token_is_the_same_in_every_place(video_tokenizer):
    local = VideoTokenizer(**{**video_tokenizer.hparams, "local": True, "frame_size": (32, 40)})
    local = roughened(local).eval()
    frames = torch.full((1, 1, 3, 32, 40), -0.5)
    frames[..., 10:13, 10:13] = frames[..., 18:21, 26:29] = 1  # a ball, twice
    with torch.no_grad():
        latents = local.to_latent(local.encoder(local.patch_embedding(frames))).view(4, 5, -1)
    torch.testing.assert_close(latents[1, 1], latents[2, 3])
    assert not torch.isclose(latents[1, 1], latents[1, 3]).any()


def test_weights_from_before_there_were_local_tokens_are_of_an_encoder_that_attends(video_tokenizer):
    earlier = {key: value for key, value in video_tokenizer.hparams.items() if key != "local"}
    VideoTokenizer.from_hyperparameters(earlier).load_state_dict(video_tokenizer.state_dict())


def test_pictures_show_true_above_decoded(video_tokenizer, frames):
    picture = video_tokenizer.pictures(frames)["reconstruction"]
    assert picture.dtype == "uint8"
    assert picture.ndim == 3
