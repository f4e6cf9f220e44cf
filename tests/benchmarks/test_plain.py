"""The plain versions and ours are the same mathematics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import plain, stores
from benchmarks.stages import build_stages
from tinyworlds import World
from tinyworlds.data.clips import normalize
from tinyworlds.maskgit import Decoding, reveal_counts
from tinyworlds.models import STAGES, Dynamics, Stage, VideoTokenizer

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """The reference setting for frames of 16x24, all weights far enough from 0 and 1 to be told apart."""
    torch.manual_seed(0)
    built = build_stages(["experiment=reference"], frame_size=(16, 24), clip_length=5)
    with torch.no_grad():
        for parameter in (p for made in built.values() for p in made.stage.parameters()):
            parameter += 0.2 * torch.randn_like(parameter)
    return {name: made.stage for name, made in built.items()}


@pytest.fixture
def dynamics(stages) -> Dynamics:
    return stages["dynamics"].eval()


@pytest.fixture
def window(dynamics, frames) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of four frames and five actions, as many as an horizon of two needs."""
    actions = torch.randint(4, (2, 5), generator=torch.Generator().manual_seed(1))
    return dynamics.video_tokenizer.tokenize(frames[:, :4]), actions


def loss_and_gradients(model, loss) -> tuple[torch.Tensor, list[torch.Tensor]]:
    model.train().zero_grad()
    torch.manual_seed(5)
    value = loss()
    value.backward()
    return value.detach(), [p.grad.norm() for p in model.parameters() if p.grad is not None]


@pytest.mark.filterwarnings("ignore:.*self.log")
@pytest.mark.parametrize("name", STAGES)
def test_training_steps_have_the_same_loss_and_gradient(stages, frames, name):
    """Each draws its masks from the same seed."""
    ours = stages[name].train()
    theirs = plain.plain_version(ours)
    loss, gradients = loss_and_gradients(ours, lambda: ours.training_step(frames, 0))
    plain_loss, plain_gradients = loss_and_gradients(theirs, lambda: theirs.loss(frames))
    torch.testing.assert_close(loss, plain_loss, **CLOSE)
    total, plain_total = (torch.stack(norms).norm() for norms in (gradients, plain_gradients))
    torch.testing.assert_close(total, plain_total, rtol=1e-4, atol=0)
    assert total > 0


def test_video_tokens_and_frames_are_the_same(stages, frames):
    ours = stages["video_tokenizer"].eval()
    theirs = plain.plain_version(ours)
    tokens = ours.tokenize(frames)
    assert torch.equal(tokens, theirs.tokenize(frames))
    assert len(tokens.unique()) > 10
    torch.testing.assert_close(ours.detokenize(tokens), theirs.detokenize(tokens), **CLOSE)


def test_actions_and_predicted_frames_are_the_same(stages, frames):
    ours = stages["action_tokenizer"].eval()
    theirs = plain.plain_version(ours)
    torch.testing.assert_close(ours.latents(frames), theirs.encoder(frames), **CLOSE)
    assert torch.equal(ours.tokenize(frames), theirs.tokenize(frames))
    codes = ours.encode(frames)
    torch.testing.assert_close(ours.decode(frames[:, :-1], codes), theirs.decoder(frames[:, :-1], codes), **CLOSE)


def test_logits_are_the_same(dynamics, window):
    tokens, actions = window[0], window[1][:, :3]
    hidden = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    ours = dynamics.to_logits(dynamics(tokens, hidden, dynamics.condition(actions)))
    theirs = plain.plain_version(dynamics)
    codes = dynamics.action_tokenizer.quantizer.codes(actions)
    torch.testing.assert_close(ours, theirs(tokens, hidden, codes), **CLOSE)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("context", "horizon"), [(1, 1), (4, 1), (3, 2)])
def test_decoding_gives_the_same_tokens(dynamics, window, context, horizon, temperature):
    tokens, actions = window[0][:, :context], window[1][:, : context + horizon - 1]
    ours = dynamics.predict(
        tokens,
        actions,
        horizon=horizon,
        decoding=Decoding(steps=10, schedule="exponential", temperature=temperature, **Decoding.earlier),
        generator=torch.Generator().manual_seed(3),
    )
    theirs = plain.plain_version(dynamics).decode(
        tokens,
        dynamics.action_tokenizer.quantizer.codes(actions),
        horizon=horizon,
        steps=10,
        temperature=temperature,
        generator=torch.Generator().manual_seed(3),
    )
    assert torch.equal(ours, theirs)
    assert len(ours.unique()) > 1


def test_the_first_played_frame_is_the_same(dynamics):
    """Later ones are not: plain tokenizes what it imagined, ours keeps the tokens."""
    prompt = np.random.default_rng(0).integers(0, 256, (1, dynamics.context_length - 1, 16, 24, 3), dtype=np.uint8)
    world = World(dynamics)
    world.reset(prompt)
    theirs = plain.World(plain.plain_version(dynamics), normalize(torch.from_numpy(prompt)))
    assert np.abs(world.step(2).astype(int) - theirs.step(2)).max() <= 1


def test_clips_are_the_same(tmp_path: Path):
    path = tmp_path / "film.h5"
    stores.write_film(path, frames=40, frame_size=(16, 24))
    data = stores.data_module(path, clip_length=4, batch_size=8, workers=0)
    data.setup()
    theirs = plain.Clips(path, 4)
    assert len(theirs) == 37
    index = len(data.train_clips) - 1
    clips = data.on_after_batch_transfer(data.train_clips.__getitems__([0, index]), 0)
    start = int(data.train_clips.start(index))
    torch.testing.assert_close(clips, torch.stack([theirs[0], theirs[start]]), **CLOSE)
    assert rearrange(clips, "b t c h w -> b t (c h w)").diff(dim=1).any(), "the film moves"


@given(total=st.integers(1, 600), steps=st.integers(1, 30))
def test_each_step_reveals_as_many(total, steps):
    counts, left = [], total
    for step in range(steps):
        if left:
            counts.append(plain.reveal_count(step, steps, total, left))
            left -= counts[-1]
    assert counts == reveal_counts(total, steps=steps, schedule="exponential")


def test_a_tokenizer_is_trained_by_itself_and_frozen_in_the_dynamics(stages):
    theirs = plain.plain_version(stages["dynamics"])
    assert isinstance(stages["video_tokenizer"], VideoTokenizer)
    assert all(p.requires_grad for p in plain.plain_version(stages["video_tokenizer"]).parameters())
    assert not any(p.requires_grad for p in theirs.video_tokenizer.parameters())
