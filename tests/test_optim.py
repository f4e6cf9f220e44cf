import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinyworlds.models.masked_loss import masked_loss
from tinyworlds.optim import adamw, constant, cosine, hidden_matrices, muon, soap, wsd

ADAMW = {"lr": 0.1, "betas": [0.9, 0.99], "weight_decay": 0.5}
MUON = {**ADAMW, "matrix_factor": 2, "momentum": 0.9}
SOAP = {**ADAMW, "frequency": 2, "max_side": 64}


def groups_by_name(optimizer, model):
    """The names of the parameters in each group of an optimizer."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]


def test_only_matrices_decay_and_only_what_is_trained_is_optimized(dynamics):
    optimizer = adamw(dynamics, **ADAMW)
    groups = groups_by_name(optimizer, dynamics)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert {"from_latent.weight", "to_logits.weight"} <= groups[0]
    assert {"mask_token", "to_logits.bias", "transformer.last_norm.norm.weight"} <= groups[1]
    assert not any("tokenizer" in name for group in groups for name in group)


def test_the_fused_step_is_the_plain_one():
    weights = torch.nn.ParameterList(torch.randn(shape) for shape in ((5, 7), (7,)))
    copies = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    ours = adamw(weights, **{**ADAMW, "weight_decay": 0.0})
    plain = torch.optim.AdamW(copies, lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, foreach=False)
    for _ in range(5):
        for weight, copy in zip(weights, copies, strict=True):
            weight.grad = torch.randn_like(weight)
            copy.grad = weight.grad.clone()
        ours.step()
        plain.step()
    torch.testing.assert_close(list(weights), copies)


def test_hidden_matrices_are_those_of_attention_and_feed_forward(dynamics, video_tokenizer):
    def named(model):
        hidden = set(map(id, hidden_matrices(model)))
        return {name for name, parameter in model.named_parameters() if id(parameter) in hidden}

    of_dynamics, of_video = named(dynamics), named(video_tokenizer.requires_grad_())
    inside = ("qkv.weight", "out.weight", "gate_and_value.weight")
    assert len(of_dynamics) == 2 * 6  # blocks, matrices
    assert len(of_video) == 2 * 6  # a block in the encoder and one in the decoder
    assert all(name.endswith(inside) for name in of_dynamics | of_video)
    assert all(name.startswith("transformer.blocks.") for name in of_dynamics)


def test_what_is_not_hidden_gets_what_adamw_gives_it(dynamics):
    """And the hidden matrices steps of their own, at their own rate."""
    optimizer = muon(dynamics, **MUON)
    hidden, *rest = groups_by_name(optimizer, dynamics)
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.1, 0.1]
    assert set.union(*rest) == set.union(*groups_by_name(adamw(dynamics, **ADAMW), dynamics)) - hidden
    generator = torch.Generator().manual_seed(0)
    gradients = {name: torch.randn(p.shape, generator=generator) for name, p in dynamics.named_parameters()}
    begun = {name: p.detach().clone() for name, p in dynamics.named_parameters()}
    stepped = []
    for build, options in ((muon, MUON), (adamw, ADAMW)):
        optimizer = build(dynamics, **options)
        for name, parameter in dynamics.named_parameters():
            parameter.data.copy_(begun[name])
            parameter.grad = gradients[name].clone() if parameter.requires_grad else None
        optimizer.step()
        stepped.append({name: p.detach().clone() for name, p in dynamics.named_parameters()})
    for name, parameter in dynamics.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(stepped[0][name], stepped[1][name]) == (name not in hidden)


def test_where_nothing_is_hidden_muon_is_adamw_and_says_so(action_tokenizer):
    with pytest.warns(UserWarning, match="ActionTokenizer has no attention or feed-forward, so optimizer=muon is adam"):
        optimizer = muon(action_tokenizer, **MUON)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert groups_by_name(optimizer, action_tokenizer) == groups_by_name(
        adamw(action_tokenizer, **ADAMW), action_tokenizer
    )


@pytest.mark.parametrize(("build", "options"), [(adamw, ADAMW), (muon, MUON), (soap, SOAP)])
def test_an_optimizer_goes_on_from_its_state_bit_for_bit(dynamics, frames, build, options, tmp_path):
    """Also where the schedule of the learning rate goes on, and from a file that can hold no code."""
    clips = dynamics.train().tokenize(frames[:, :4])

    def train(optimizer, schedule, steps):
        for step in steps:
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss, _ = masked_loss(dynamics, *clips)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(dynamics.parameters(), 1.0)
            optimizer.step()
            schedule.step()

    def begun():
        optimizer = build(dynamics, **options)
        return optimizer, cosine(optimizer, total_steps=9, warmup=0.3, final=0.1)

    optimizer, schedule = begun()
    train(optimizer, schedule, range(5))
    torch.save([dynamics.state_dict(), optimizer.state_dict(), schedule.state_dict()], tmp_path / "half.ckpt")
    train(optimizer, schedule, range(5, 9))
    whole = {name: value.clone() for name, value in dynamics.state_dict().items()}
    optimizer, schedule = begun()
    weights, *states = torch.load(tmp_path / "half.ckpt", weights_only=True)
    dynamics.load_state_dict(weights)
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    train(optimizer, schedule, range(5, 9))
    assert any(not torch.equal(weights[name], value) for name, value in whole.items())
    for name, value in dynamics.state_dict().items():
        assert torch.equal(value, whole[name]), name


def rates(schedule, total, **options):
    """The factors of all steps, and of the one after."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = schedule(optimizer, total_steps=total, **options).lr_lambdas[0]
    return [factor(step) for step in range(total + 1)]


@settings(deadline=None, max_examples=50)
@given(total=st.integers(1, 60), warmup=st.floats(0, 0.5), final=st.floats(0, 1), decay=st.floats(0, 0.5))
def test_the_rate_rises_to_its_peak_and_falls_to_its_end(total, warmup, final, decay):
    peak = round(warmup * total)
    for schedule, options, end in (
        (cosine, {"final": final}, final),
        (wsd, {"final": final, "decay": decay}, final if decay else 1.0),
        (constant, {}, 1.0),
    ):
        found = rates(schedule, total, warmup=warmup, **options)
        assert max(found) == pytest.approx(1) or peak >= total
        assert found[:peak] == sorted(found[:peak])
        assert found[peak:] == sorted(found[peak:], reverse=True)
        assert found[-1] == pytest.approx(end)
    assert rates(cosine, total, warmup=warmup, final=final)[:peak] == rates(constant, total, warmup=warmup)[:peak]


def test_the_rate_stays_at_its_end():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    assert cosine(optimizer, total_steps=50, warmup=0.1, final=0.3).lr_lambdas[0](100) == pytest.approx(0.3)
    assert wsd(optimizer, total_steps=50, warmup=0.1, decay=0.2, final=0.3).lr_lambdas[0](100) == pytest.approx(0.3)


def test_cosine_is_a_rise_and_half_a_wave():
    found = rates(cosine, 100, warmup=0.2, final=0.2)
    assert found[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    wave = [math.cos(math.pi * step / 80) for step in range(81)]
    assert found[20:] == pytest.approx([0.6 + 0.4 * height for height in wave])


def test_wsd_has_three_phases():
    found = rates(wsd, 100, warmup=0.1, decay=0.25, final=0.2)
    assert found[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert found[10:76] == [1.0] * 66
    assert found[76:] == pytest.approx([0.2 + 0.8 * (1 - math.sqrt(step / 25)) for step in range(1, 26)])


def test_a_constant_rate_is_constant():
    assert rates(constant, 100, warmup=0.1)[9:] == [1.0] * 92


@pytest.mark.parametrize(
    ("build", "options", "said"),
    [
        (adamw, {**ADAMW, "lr": 0}, r"optimizer\.lr=0 must"),
        (muon, {**MUON, "lr": -1}, r"optimizer\.lr=-1 must"),
        (muon, {**MUON, "matrix_factor": math.inf}, r"optimizer\.matrix_factor=inf must"),
        (muon, {**MUON, "momentum": 1}, r"optimizer\.momentum=1 must"),
        (muon, {**MUON, "weight_decay": -1}, r"optimizer\.weight_decay=-1"),
        (soap, {**SOAP, "betas": [0.9, 1.0]}, r"optimizer\.betas=\[0\.9, 1\.0\] must"),
        (soap, {**SOAP, "frequency": 0}, r"optimizer\.frequency=0: must"),
        (soap, {**SOAP, "max_side": 0}, r"optimizer\.max_side=0: must"),
        (cosine, {"warmup": 1, "final": 0.1}, r"lr_schedule\.warmup=1 must"),
        (constant, {"warmup": math.nan}, r"lr_schedule\.warmup=nan must"),
        (wsd, {"warmup": 0.5, "decay": 0.6, "final": 0}, r"lr_schedule\.decay=0\.6: must be a number from 0 to 0\.5"),
        (wsd, {"warmup": 0.5, "decay": 0.5, "final": 2}, r"lr_schedule\.final=2: must"),
    ],
)
def test_impossible_values_are_refused_by_name(build, options, said, dynamics):
    schedules = (cosine, wsd, constant)
    given = torch.optim.SGD(dynamics.parameters()) if build in schedules else dynamics
    known = {"total_steps": 10} if build in schedules else {}
    with warnings.catch_warnings(), pytest.raises(ValueError, match=said):
        build(given, **known, **options)
