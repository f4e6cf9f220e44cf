import pytest
import torch

from tinyworlds.nn.attention import SpatialAttention, TemporalAttention
from tinyworlds.nn.transformer import Timeline


def written_out(attention, x, visible=None):
    """Softmax attention of (N, K, E), a head at a time."""
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    width = x.shape[-1] // attention.num_heads
    heads = []
    for head in range(attention.num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / width**0.5
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    return attention.out(torch.cat(heads, dim=-1))


def test_spatial_attention_is_softmax_attention_within_each_frame():
    attention, x = SpatialAttention(embed_dim=12, num_heads=3), torch.randn(2, 3, 5, 12)
    for frame in range(3):
        torch.testing.assert_close(attention(x)[:, frame], written_out(attention, x[:, frame]))


def test_temporal_attention_is_softmax_attention_over_visible_frames_of_each_place():
    attention, x = TemporalAttention(embed_dim=12, num_heads=3), torch.randn(2, 4, 5, 12)
    visible = Timeline.causal(4).visible
    attended = attention(x, visible)
    for place in range(5):
        torch.testing.assert_close(attended[:, :, place], written_out(attention, x[:, :, place], visible))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="embed_dim=10 does not divide into num_heads=3"):
        SpatialAttention(embed_dim=10, num_heads=3)
