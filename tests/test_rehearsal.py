import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.maskgit import Decoding
from tinyworlds.models import STAGES, ActionTokenizer, Dynamics, Stage, VideoTokenizer
from tinyworlds.nn.norms import Condition
from tinyworlds.nn.transformer import SpaceTimeTransformer
from tinyworlds.optim import adamw
from tinyworlds.rehearsal import Ledger, Rehearsal, nbytes, rehearse

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")

FRAMES, CLIPS = 4, 3
ADAMW = partial(adamw, lr=1e-3, betas=[0.9, 0.999], weight_decay=0.01)
TRANSFORMER = {
    "embed_dim": 32, "num_heads": 2, "hidden_dim": 48, "num_blocks": 2, "norm": "pre", "qk_norm": False,
    "positions": "sincos",
}  # fmt: skip
MOTION = {"name": "motion", "width": 8}


def built(
    name: str, *, clip_length: int = FRAMES, num_blocks: int = 2, masking: str = "clean_context", **variant: Any
) -> Stage:
    """A small stage for frames of 32x32, all of whose tokens are hidden in training."""
    dataset = {"name": "test", "path": "test.h5", "val_fraction": 0.2, "clip_length": clip_length}
    coded = {key: variant.pop(key, value) for key, value in {"members": 1, "codes": None}.items()}
    known: dict[str, Any] = {"frame_size": (32, 32), "dataset": dataset, "latent_norm": True, "moving_weight": 1}
    tokens = {"patch_size": 8, "latent_dim": 3, "num_bins": 3, "patches": "conv", "temporal": True, "local": False}
    video = partial(VideoTokenizer, **known, **TRANSFORMER, **tokens)
    action = partial(
        ActionTokenizer,
        **known,
        n_actions=4,
        num_bins=2,
        shrink=1,
        encoder={**MOTION, "channels": 2, "reach": 3, "moments": True, "equalized": True},
        decoder=MOTION,
        usage_weight=0,
        variance_weight=1,
        variance_target=1,
        unscored=0,
        **coded,
    )
    if name != "dynamics":
        return {"video_tokenizer": video, "action_tokenizer": action}[name]()
    options = {
        "conditioning": "film",
        "last_actions": 1,
        "feed_forward": {"name": "swiglu"},
        "masking": masking,
        "mask_ratio": 1,
        "context_noise": 0,
        "own_context": 0,
        "moving_weight": 1,
        "decoding": {"steps": 4, "schedule": "exponential", "temperature": 1.0, **Decoding.earlier},
        **(TRANSFORMER | {"num_blocks": num_blocks}),
    }
    return Dynamics(video_tokenizer=video(), action_tokenizer=action(), dataset=dataset, **(options | variant))


def rehearsed(stage: Stage, **options: Any) -> Rehearsal:
    settings = {"batch_size": CLIPS, "tokens": True, "precision": "32-true", "shards": 1, "kept_gradients": False}
    return rehearse(stage.to("meta"), optimizer=ADAMW, **(settings | options))


def noise(stage: Stage) -> Tensor | ClipTokens:
    if isinstance(stage, Dynamics):
        tokens = torch.randint(27, (CLIPS, FRAMES, 16))
        return ClipTokens(tokens, torch.randint(4, (CLIPS, FRAMES - 1)))
    return torch.rand(CLIPS, FRAMES, 3, 32, 32) * 2 - 1


def really(stage: Stage) -> tuple[Mapping[str, int], torch.optim.Optimizer]:
    """What a step of a real one held at its peak, and the optimizer after it."""
    clips = noise(stage)
    known = [*stage.buffers(), *(clips if isinstance(clips, ClipTokens) else [clips])]
    ledger = Ledger(known, weights=stage.parameters(), shards=1)
    for parameter in stage.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(ledger.add_gradient)
    with ledger:
        loss = stage.train().training_step(clips, 0)
        torch.autograd.backward(loss)
    optimizer = ADAMW(stage)
    optimizer.step()
    return ledger.peak, optimizer


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", STAGES)
def test_memory_is_that_of_a_real_step(name, checkpointing):
    stage = built(name)
    if checkpointing:
        stage.checkpoint_activations()
    trained = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    peak, optimizer = really(copy.deepcopy(stage))
    weights = nbytes([*stage.parameters(), *stage.buffers()])
    found = rehearsed(stage)
    assert found.weights == weights
    assert found.gradients == nbytes(trained)
    assert found.optimizer == nbytes(value for state in optimizer.state.values() for value in state.values())
    assert sum(found.then.values()) == pytest.approx(sum(peak.values()), rel=0.03)


def test_operations_are_those_that_torch_counts():
    for name in STAGES:
        stage = built(name)
        clips = noise(stage)
        # Of attention it counts, on a CPU, only what is written out as products.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            torch.autograd.backward(stage.train().training_step(clips, 0))
        assert rehearsed(stage).flops == pytest.approx(counter.get_total_flops(), rel=0.06)


VARIANTS: list[dict[str, Any]] = [
    {"feed_forward": {"name": "moe", "num_experts": 4, "top_k": 2, "balance_weight": 0.1, "z_weight": 0.1}},
    {"positions": "rope", "conditioning": "prepend"},
    {"positions": "alibi", "conditioning": "adaln_zero", "qk_norm": True},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_planned_as_they_are_computed(variant):
    """Experts as if all did as much, which costs as many operations as any routing."""
    stage = built("dynamics", **variant)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        torch.autograd.backward(stage.train().training_step(noise(stage), 0))
    peak, _ = really(copy.deepcopy(built("dynamics", **variant)))
    found = rehearsed(stage)
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.06)
    assert sum(found.then.values()) == pytest.approx(sum(peak.values()), rel=0.05)


@pytest.mark.parametrize("blocks", [1, 3])
def test_operations_are_those_of_the_formula(blocks):
    """Two for each weight and token forward, twice that backward; scores and their use in attention likewise."""
    embed, hidden, batch, frames, patches = 32, 48, 2, 5, 16
    options = TRANSFORMER | {"num_blocks": blocks, "grid": (4, 4)}
    transformer = SpaceTimeTransformer(**options, condition_dim=4)
    x = torch.rand(batch, frames, patches, embed, requires_grad=True)
    condition = Condition(torch.rand(batch, frames, 4), torch.ones(frames, dtype=torch.bool))
    ledger = Ledger([], weights=[], shards=1)
    with ledger:
        transformer(x, condition).sum().backward()
    tokens = batch * frames * patches
    products = 2 * 4 * embed**2 + 2 * embed * hidden
    scores = 2 * 2 * embed * (patches + frames)
    modulation = 3 * 2 * (batch * frames) * (4 * 2 * embed) * 2  # the action itself needs no gradient
    forward = blocks * tokens * (2 * products + scores)
    # The kernel computes scores once more in the backward pass.
    again = blocks * tokens * scores // 2
    assert ledger.flops == 3 * forward + again + blocks * modulation


@pytest.mark.parametrize(
    ("kernel", "floats"),
    [
        (lambda x, y: x @ y, 64 * 32 + 32 * 16 + 64 * 16),
        (lambda x, y: x.T.reshape(-1)[:5].add_(1), 64 * 32 + 64 * 32 + 2 * 5),  # a copy, in another order
        (lambda x, y: x.view(32, 64)[3:].mT, 0),
        (lambda x, y: torch.empty_like(x), 0),
        (lambda x, y: y[:1].expand(64, 16) + 1, 16 + 64 * 16),
        (lambda x, y: torch.fft.fft(x[:, :8]), 64 * 8 * (1 + 2)),
        (lambda x, y: torch.fft.fft(torch.view_as_complex(x.view(16, 64, 2))), 2 * 2 * 16 * 64 * 2),
    ],
)
def test_traffic_is_what_a_kernel_is_given_and_what_it_makes(kernel, floats):
    x, y = torch.rand(64, 32), torch.rand(32, 16)
    ledger = Ledger([], weights=[], shards=1)
    with ledger:
        kernel(x, y)
    assert ledger.traffic == 4 * floats


def test_the_update_moves_weights_gradients_and_both_moments_to_and_fro():
    found = rehearsed(built("video_tokenizer"))
    assert found.update == pytest.approx(2 * (2 * found.gradients + found.optimizer), rel=0.01)


def test_gradients_kept_from_the_step_before_count_at_the_peak():
    fresh, kept = (rehearsed(built("dynamics"), kept_gradients=kept) for kept in (False, True))
    assert kept.then["gradients"] == kept.gradients > fresh.then["gradients"]
    assert kept.flops == fresh.flops


def test_mixed_precision_keeps_less_and_copies_of_the_weights():
    full, mixed = (rehearsed(built("dynamics"), precision=precision) for precision in ("32-true", "bf16-mixed"))
    assert mixed.then["activations"] < full.then["activations"]
    assert full.then["copies"] == 0 < mixed.then["copies"] < 0.6 * mixed.gradients
    assert (mixed.gradients, mixed.optimizer) == (full.gradients, full.optimizer)


@pytest.mark.slow
@settings(max_examples=8)
@given(
    name=st.sampled_from(sorted(STAGES)),
    clips=st.integers(1, 3),
    frames=st.integers(3, 4),
    more=st.sampled_from(["clips", "frames"]),
)
def test_more_clips_and_longer_ones_take_more(name, clips, frames, more):
    longer, larger = frames + (more == "frames"), clips + (more == "clips")
    less, greater = (
        rehearsed(built(name, clip_length=length), batch_size=number)
        for length, number in ((frames, clips), (longer, larger))
    )
    assert greater.flops > less.flops
    assert greater.then["activations"] > less.then["activations"]
    assert greater.optimizer == less.optimizer


def test_what_is_counted_of_codes_is_planned_too():
    plain, watched = (built("action_tokenizer") for _ in range(2))
    watched.usage_weight = 1
    assert rehearsed(watched).flops >= rehearsed(plain).flops


def test_members_take_as_many_times_what_one_takes():
    one, three = (rehearsed(built("action_tokenizer", members=members, codes=8)) for members in (1, 3))
    assert three.flops == 3 * one.flops
    assert three.optimizer == 3 * one.optimizer


def test_no_kernels_are_rehearsed_that_are_for_cpus_alone(no_compiler):
    """Frames are tokenized without a gradient, in heads of 16 channels."""
    with_them = rehearsed(built("dynamics"), tokens=False)
    with no_compiler():
        assert rehearsed(built("dynamics"), tokens=False) == with_them
