import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.data.resize import AreaFilter, area_weights

sizes = st.integers(1, 40)


@given(source=sizes, target=sizes)
def test_cells_are_means_and_every_pixel_counts_equally(source: int, target: int) -> None:
    weights = area_weights(source, target)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.sum(axis=0), target / source, rtol=1e-5)


@given(factor=st.integers(1, 5), seed=st.integers(0, 99))
def test_a_whole_factor_is_the_mean_of_blocks(factor: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (4 * factor, 3 * factor, 3), np.uint8)
    small = AreaFilter(source=(4 * factor, 3 * factor), target=(4, 3))(image)
    blocks = image.reshape(4, factor, 3, factor, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small, blocks, atol=0.501)


@pytest.mark.parametrize("target", [(160, 128), (64, 64), (7, 200)])
def test_one_colour_stays_that_colour(target: tuple[int, int]) -> None:
    image = np.broadcast_to(np.array([255, 127, 0], np.uint8), (160, 128, 3))
    small = AreaFilter(source=(160, 128), target=target)(image)
    assert small.shape == (*target, 3)
    assert (small == [255, 127, 0]).all()


def test_a_ball_of_two_by_four_pixels_keeps_its_light() -> None:
    image = np.zeros((160, 128, 3), np.uint8)
    image[75:79, 61:63] = 240
    small = AreaFilter(source=(160, 128), target=(64, 64))(image)
    assert small[..., 0].sum() == pytest.approx(8 * 240 / 5, abs=4)
