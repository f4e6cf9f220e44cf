"""Masks of training."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.masking import anchored_mask, frame_mask, replace_some

CPU = torch.device("cpu")


@given(batch=st.integers(1, 4), frames=st.integers(1, 6), patches=st.integers(1, 30), ratio=st.floats(0, 1))
def test_anchored_masks_leave_every_position_seen_in_a_frame(batch, frames, patches, ratio):
    shape = (batch, frames, patches)
    hidden = anchored_mask(shape, min_ratio=ratio, generator=torch.Generator().manual_seed(0), device=CPU)
    assert (~hidden).any(dim=1).all()


def test_anchored_masks_hide_a_share_per_clip():
    shape = (400, 8, 64)
    hidden = anchored_mask(shape, min_ratio=0.5, generator=torch.Generator().manual_seed(0), device=CPU)
    share = hidden.float().mean((1, 2)) * 8 / 7  # one frame in eight is the anchor
    assert share.min() > 0.4
    assert share.max() < 1.05
    assert share.std() > 0.1


@given(patches=st.integers(1, 40), full=st.floats(0, 1))
def test_frame_masks_hide_something_of_every_frame(patches, full):
    hidden = frame_mask((3, 4, patches), full=full, generator=torch.Generator().manual_seed(0), device=CPU)
    assert hidden.any(dim=-1).all()


def test_frame_masks_hide_whole_frames_as_often_as_asked():
    generator = torch.Generator().manual_seed(0)
    hidden = frame_mask((1000, 4, 64), full=0.7, generator=generator, device=CPU)
    assert hidden.all(-1).float().mean() == pytest.approx(0.7, abs=0.06)
    assert frame_mask((50, 4, 64), full=1.0, generator=generator, device=CPU).all()


@given(batch=st.integers(1, 4), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_replaced_token_is_that_of_another_clip_at_its_place(batch, share, seed):
    tokens = torch.arange(batch * 3 * 7).view(batch, 3, 7)
    replaced = replace_some(tokens, share=share, generator=torch.Generator().manual_seed(seed))
    assert ((replaced == tokens) | (replaced == tokens.roll(1, dims=0))).all()
    if share == 0 or batch == 1:
        assert torch.equal(replaced, tokens)


def test_shares_of_replaced_tokens_are_drawn_for_each_frame():
    tokens = torch.arange(2000 * 64).view(1000, 2, 64)
    replaced = replace_some(tokens, share=0.4, generator=torch.Generator().manual_seed(0)) != tokens
    shares = replaced.float().mean(-1)
    assert shares.mean() == pytest.approx(0.2, abs=0.01)
    assert shares.std() > 0.1  # of independent tokens it would be 0.05
