import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.optim import adamw, cosine


def test_only_matrices_decay_and_only_what_is_trained_is_optimized(dynamics):
    optimizer = adamw(dynamics.parameters(), lr=0.1, betas=[0.9, 0.999], weight_decay=0.5)
    names = {id(parameter): name for name, parameter in dynamics.named_parameters()}
    groups = [{names[id(p)] for p in group["params"]} for group in optimizer.param_groups]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert {"from_latent.weight", "to_logits.weight"} <= groups[0]
    assert {"mask_token", "to_logits.bias", "transformer.last_norm.norm.weight"} <= groups[1]
    assert not any("tokenizer" in name for group in groups for name in group)


def test_the_fused_step_is_the_plain_one():
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((5, 7), (7,))]
    copies = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    ours = adamw(weights, lr=0.1, betas=[0.9, 0.99], weight_decay=0.0)
    plain = torch.optim.AdamW(copies, lr=0.1, betas=(0.9, 0.99), weight_decay=0.0, foreach=False)
    for _ in range(5):
        for weight, copy in zip(weights, copies, strict=True):
            weight.grad = torch.randn_like(weight)
            copy.grad = weight.grad.clone()
        ours.step()
        plain.step()
    torch.testing.assert_close(weights, copies)


@given(total=st.integers(1, 3000), warmup=st.floats(0, 0.5), final=st.floats(0, 1))
def test_the_rate_rises_to_its_peak_and_falls_to_its_end(total, warmup, final):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    factor = cosine(optimizer, total_steps=total, warmup=warmup, final=final).lr_lambdas[0]
    rates = [factor(step) for step in range(total + 1)]
    peak = round(warmup * total)
    assert max(rates) == pytest.approx(1) or peak >= total
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(final)
    assert factor(2 * total) == pytest.approx(final)


def test_impossible_values_are_refused_by_name():
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"optimizer\.lr=0"):
        adamw([parameter], lr=0, betas=[0.9, 0.999], weight_decay=0.0)
    with pytest.raises(ValueError, match=r"lr_schedule\.warmup=1"):
        cosine(torch.optim.SGD([parameter]), total_steps=10, warmup=1, final=0.1)
