import pytest
import torch

from tinyworlds.nn.feed_forward import SwiGLU


def test_swiglu_is_its_equation_with_two_thirds_of_the_units():
    layer, x = SwiGLU(embed_dim=6, hidden_dim=10), torch.randn(4, 6)
    w1, w2 = layer.gate_and_value.weight.chunk(2)
    b1, b2 = layer.gate_and_value.bias.chunk(2)
    assert w1.shape == (6, 6)  # floor(2/3 · 10) units
    gate = x @ w1.T + b1
    expected = (gate * torch.sigmoid(gate) * (x @ w2.T + b2)) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(x), expected)


def test_no_units_are_refused():
    with pytest.raises(ValueError, match="hidden_dim=1"):
        SwiGLU(embed_dim=6, hidden_dim=1)
