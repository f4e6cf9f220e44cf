import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.metrics import (
    CodeUsage,
    Flicker,
    MovingPSNR,
    frame_quality,
    moving,
    moving_since_last,
    pixel_loss,
    psnr,
)


def test_psnr_of_known_errors():
    frames = torch.zeros(2, 3, 3, 4, 4)
    assert psnr(frames + 0.2, frames) == pytest.approx(20.0, abs=1e-4)  # 10 log10(4 / 0.04)
    assert psnr(frames, frames) == pytest.approx(100.0)
    assert psnr(frames + 7, torch.ones_like(frames)) == pytest.approx(100.0)  # clamped to white


def test_psnr_where_looks_nowhere_else():
    frames = torch.zeros(1, 3, 4, 4)
    wrong = frames.clone()
    wrong[..., 0] = 1
    where = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    where[..., 1] = True
    assert psnr(wrong, frames, where) == pytest.approx(100.0)
    assert math.isnan(psnr(wrong, frames, torch.zeros_like(where)))


def test_a_pixel_moves_above_a_tenth_of_the_range_in_any_channel():
    before = torch.zeros(1, 3, 1, 3)
    after = before.clone()
    after[0, 1, 0] = torch.tensor([0.19, 0.21, -0.21])
    assert moving(after, before)[0, 0, 0].tolist() == [False, True, True]
    clip = torch.stack([before[0], after[0], after[0]])[None]
    assert moving_since_last(clip).flatten(2).any(-1)[0].tolist() == [False, True, False]


def test_a_moving_pixel_counts_one_plus_its_weight():
    target, predicted = torch.zeros(1, 3, 1, 2), torch.full((1, 3, 1, 2), 0.5)
    moved = torch.tensor([[[[True, False]]]])
    plain = pixel_loss(predicted, target, moved, moving_weight=0)
    assert pixel_loss(predicted, target, moved, moving_weight=3) == pytest.approx(float(plain) * (4 + 1) / 2)


def test_moving_psnr_is_that_of_all_moving_pixels_of_all_batches():
    frames, predicted = torch.rand(2, 6, 3, 4, 4) * 2 - 1
    moved = torch.rand(6, 1, 4, 4) < 0.3
    moved[:2] = False
    metric = MovingPSNR()
    for part in (slice(0, 2), slice(2, 3), slice(3, 6)):
        metric.update(predicted[part], frames[part], moved[part])
    torch.testing.assert_close(metric.compute(), psnr(predicted, frames, moved))


def test_the_quality_of_a_copy_is_that_of_what_is_copied():
    imagined, copied, true, before = torch.rand(4, 3, 3, 4, 4) * 2 - 1
    found = frame_quality(imagined, copied=copied, true=true, before=before)
    other = frame_quality(copied, copied=imagined, true=true, before=before)
    assert found["psnr"] == other["copy_psnr"] == pytest.approx(float(psnr(imagined, true)))
    moved = moving(true, before)
    assert found["psnr_moving"] == other["copy_psnr_moving"] == pytest.approx(float(psnr(imagined, true, moved)))
    still = frame_quality(imagined, copied=copied, true=true, before=true)
    assert still["psnr_moving"] is still["copy_psnr_moving"] is None


def test_flicker_is_the_share_of_still_patches_whose_token_changes():
    moved = torch.zeros(1, 3, 1, 4, 8, dtype=torch.bool)  # patches of 4: two a frame
    moved[0, 1, 0, 3, 4] = True  # the right one moves, then
    tokens = torch.tensor([[[0, 0], [1, 1], [1, 2]]])
    metric = Flicker()
    metric.update(tokens, moved, patch_size=4)
    assert float(metric.compute()) == pytest.approx(2 / 3)  # of left, left and right: the first and the last
    metric.update(torch.zeros_like(tokens), moved, patch_size=4)
    assert float(metric.compute()) == pytest.approx(2 / 6)
    everywhere = Flicker()
    everywhere.update(tokens, torch.ones_like(moved), patch_size=4)
    assert everywhere.compute().isnan()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50))
def test_code_usage_counts_over_batches(indices):
    usage = CodeUsage(10)
    for index in indices:
        usage.update(torch.tensor([index]))
    found = usage.compute()
    share = [indices.count(code) / len(indices) for code in set(indices)]
    assert found["used"] == len(set(indices))
    assert found["perplexity"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in share)), rel=1e-4)
