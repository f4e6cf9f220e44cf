from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.play.keys import default_keys

NAMES = st.one_of(st.none(), st.sampled_from(["noop", "up", "down", "turn_left", "move_right", "up fire", "fire", "x"]))


@given(names=st.lists(NAMES, min_size=1, max_size=14), idle=st.integers(0, 13))
def test_no_key_is_of_two_actions(names, idle):
    keys = default_keys(names, idle=idle % len(names))
    every = [key for own in keys for key in own]
    assert len(every) == len(set(every))
    assert all(f"Digit{code}" in own for code, own in enumerate(keys[:10]))


def test_names_choose_keys_and_without_names_arrows_go_round():
    named = default_keys(["none", "turn_left", "forward", "right"], idle=0)
    assert named[1:] == [
        ["Digit1", "ArrowLeft", "KeyA"],
        ["Digit2", "ArrowUp", "KeyW"],
        ["Digit3", "ArrowRight", "KeyD"],
    ]
    assert default_keys([None] * 3, idle=1) == [
        ["Digit0", "ArrowUp", "KeyW"],
        ["Digit1"],
        ["Digit2", "ArrowDown", "KeyS"],
    ]
