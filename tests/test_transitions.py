from pathlib import Path

import numpy as np
import pytest
import torch
from einops import reduce
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from tinyworlds import World, transitions
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.clips import normalize
from tinyworlds.metrics import moving, psnr
from tinyworlds.models import Dynamics
from tinyworlds.scenes import held_out
from tinyworlds.transitions import held_out_reconstructions, held_out_transitions

from .conftest import reading
from .square import record


@pytest.fixture(params=["codes are actions", "actions are read from codes"])
def world(request: pytest.FixtureRequest, dynamics: Dynamics, tmp_path: Path) -> World:
    if request.param != "codes are actions":
        dynamics.action_tokenizer = reading(dynamics.action_tokenizer, members=2)
    dynamics.dataset["path"] = str(record(tmp_path / "square.h5", episodes=10, length=11))
    return World(dynamics)


@pytest.fixture
def data(world: World) -> ClipDataModule:
    return held_out(world.dynamics, store=None)


@pytest.mark.parametrize("batch", [1, 4, 99])
def test_every_transition_within_a_held_out_episode_comes_once(world, data, monkeypatch, batch):
    monkeypatch.setattr(transitions, "BATCH", batch)
    seen = held_out_transitions(world.dynamics.action_tokenizer, data, None, length=4)
    within = np.concatenate([np.arange(start, stop - 1) for start, stop in data.held_out_spans])
    lost = [t for t in within if t not in seen.before]
    assert len(set(seen.before)) == len(seen.before)
    assert set(seen.before) <= set(within)
    assert len(lost) == 2  # ten transitions are three windows of three and one more, in each of two episodes
    starts = data.held_out_spans[seen.episode, 0]
    assert ((starts <= seen.before) & (seen.before < starts + 11)).all()
    for before, first, code in zip(seen.before.tolist(), starts.tolist(), seen.codes, strict=True):
        assert world.infer(data.store.read(max(before - 2, first), before + 2))[-1] == code


def test_reconstructions_are_scored_frame_by_frame(world, data):
    seen = held_out_transitions(world.dynamics.action_tokenizer, data, None, length=4)
    true, before = (normalize(torch.from_numpy(data.store.read_clips(seen.before + k, 1)))[:, 0] for k in (1, 0))
    windows = data.store.read_clips(seen.before[::3], 4)
    tokenizer = world.dynamics.video_tokenizer
    quality = held_out_reconstructions(tokenizer, data, None, length=4).quality
    with torch.inference_mode():
        tokens = tokenizer.tokenize(normalize(torch.from_numpy(windows)))
        rebuilt = tokenizer.detokenize(tokens)[:, 1:].flatten(0, 1)
    assert quality["psnr"] == pytest.approx(float(psnr(rebuilt, true)), abs=1e-4)
    assert quality["psnr_moving"] == pytest.approx(float(psnr(rebuilt, true, moving(true, before))), abs=1e-4)
    assert quality["used"] == len(tokens[:, 1:].unique())
    still = ~reduce(moving(true, before), "n 1 (h a) (w b) -> n (h w)", torch.any, a=8, b=8)
    changed = (tokens[:, 1:] != tokens[:, :-1]).flatten(0, 1)
    assert 0 < quality["flicker"] < 1
    assert quality["flicker"] == pytest.approx(float(changed[still].float().mean()))
    alike = ssim(rebuilt.clamp(-1, 1), true, data_range=(-1.0, 1.0))
    assert quality["ssim"] == pytest.approx(float(alike), abs=1e-4)


def test_a_tokenizer_that_forgets_what_moves_has_one_code_and_is_seen_through(world, data):
    """All frames become the empty floor, which most pixels are."""
    tokenizer = world.dynamics.video_tokenizer
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter.zero_()
        tokenizer.pixel_head.pixels[-2].bias.fill_(40 / 127.5 - 1)
    quality = held_out_reconstructions(tokenizer, data, None, length=4).quality
    assert (quality["used"], quality["perplexity"], quality["flicker"]) == (1, 1, 0)
    assert quality["psnr"] > quality["psnr_moving"] + 5
    assert quality["psnr_moving"] < 8  # of the pixels that move, those are right that the square leaves
    assert quality["ssim"] < 1


def test_episodes_too_short_for_the_world_are_refused(world, data):
    data.held_out_spans = np.array([[0, 3], [11, 14]])
    with pytest.raises(ValueError, match="no held-out episode has the 4 frames"):
        held_out_transitions(world.dynamics.action_tokenizer, data, None, length=4)
