import torch

from tinyworlds.nn.norms import EPS, AdaLNZero, Condition, FiLM, RMSNorm


def test_rms_norm_is_its_equation():
    norm, x = RMSNorm(embed_dim=8), torch.randn(1, 2, 3, 8)
    norm.norm.weight.data.uniform_(0.5, 2)
    expected = x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * norm.norm.weight
    torch.testing.assert_close(norm(x), expected)


def test_film_scales_and_shifts_the_frames_that_an_action_led_to():
    film, x = FiLM(embed_dim=8, condition_dim=2), torch.randn(1, 3, 4, 8)
    latents = torch.randn(1, 3, 2)
    out = film(x, Condition(latents, torch.tensor([False, True, True])))
    plain = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + EPS).sqrt()
    torch.testing.assert_close(out[:, 0], plain[:, 0])
    scale, shift = film.scale_and_shift(latents).chunk(2, dim=-1)
    torch.testing.assert_close(out[:, 1:], (plain * (1 + scale[:, :, None]) + shift[:, :, None])[:, 1:])


def test_film_without_a_condition_only_normalizes():
    film, x = FiLM(embed_dim=8, condition_dim=2), torch.randn(1, 3, 4, 8)
    nothing = Condition(torch.randn(1, 3, 2), torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(film(x, None), film(x, nothing))


def test_adaln_zero_is_film_with_a_gate_and_begins_without_either():
    norm, x, update = AdaLNZero(embed_dim=8, condition_dim=2), torch.randn(1, 3, 4, 8), torch.randn(1, 3, 4, 8)
    condition = Condition(torch.randn(1, 3, 2), torch.tensor([False, True, True]))
    torch.testing.assert_close(norm(x, condition), torch.nn.functional.layer_norm(x, (8,)))
    assert not norm.gated(update, condition).any()
    film = FiLM(embed_dim=8, condition_dim=2)
    norm.load_state_dict(film.state_dict(), strict=False)
    torch.nn.init.normal_(norm.gate.weight)
    torch.nn.init.normal_(norm.gate.bias)
    torch.testing.assert_close(norm(x, condition), film(x, condition))
    expected = norm.gate(torch.nn.functional.silu(condition.latents)).unsqueeze(2) * update
    expected[:, 0] = norm.gate.bias * update[:, 0]
    torch.testing.assert_close(norm.gated(update, condition), expected)
    torch.testing.assert_close(norm.gated(update, None)[:, 0], expected[:, 0])
