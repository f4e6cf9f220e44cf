from typing import Any

import pytest

from tinyworlds.data.settings import check_number, check_whole, crop_box, frame_size


@pytest.mark.parametrize("value", [0, -3, 1.5, "4", True, None])
def test_a_value_that_is_no_positive_whole_number_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"frames={value}"):
        check_whole("frames", value, at_least=1)


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.5", True, float("nan")])
def test_a_value_that_is_no_share_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"share={value}"):
        check_number("share", value, at_least=0, at_most=1)


def test_possible_values_pass() -> None:
    check_whole("frames", 1, at_least=1)
    check_number("share", 1, at_least=0, at_most=1)
    assert frame_size(64) == (64, 64)
    assert frame_size([48, 64]) == (48, 64)


@pytest.mark.parametrize("size", [0, -1, [64], [64, 64, 3], [0, 64], "abc", 6.5, None, [64.0, 64]])
def test_an_impossible_size_is_named(size: Any) -> None:
    with pytest.raises(ValueError, match="size="):
        frame_size(size)


def test_a_crop_keeps_what_it_names() -> None:
    assert crop_box({"top": 34, "bottom": 194}, height=210, width=160) == (slice(34, 194), slice(0, 160))
    assert crop_box({"left": 16, "right": None, "top": None}, height=9, width=20) == (
        slice(0, 9),
        slice(16, 20),
    )


@pytest.mark.parametrize(
    ("crop", "sentence"),
    [
        ({"middle": 3}, "no side middle"),
        ({"top": 5, "bottom": 5}, "does not fit"),
        ({"bottom": 211}, "does not fit"),
        ({"left": 160}, "does not fit"),
        ({"left": -1}, "crop.left=-1"),
        ({"right": "half"}, "crop.right=half"),
    ],
)
def test_an_impossible_crop_is_named(crop: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        crop_box(crop, height=210, width=160)
