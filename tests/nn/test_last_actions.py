import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.nn.last_actions import told_size, told_together


@given(last=st.integers(1, 3), number=st.integers(2, 4), length=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_each_moment_is_told_the_run_of_every_length_that_ends_with_it(last, number, length, seed):
    actions = torch.randint(number, (3, length), generator=torch.Generator().manual_seed(seed))
    told = told_together(actions, last=last, number=number)
    assert told.shape == (3, length, told_size(last=last, number=number))
    parts = told.split([number**size for size in range(1, last + 1)], dim=-1)
    for size, part in enumerate(parts, start=1):
        for clip in range(3):
            for moment in range(length):
                if moment + 1 < size:  # it reaches back to before the first
                    assert not part[clip, moment].any()
                    continue
                run = actions[clip, moment + 1 - size : moment + 1].flip(0).tolist()
                digits = [action * number**power for power, action in enumerate(reversed(run))]
                assert part[clip, moment].nonzero().flatten().tolist() == [sum(digits)]
                assert part[clip, moment].sum() == 1


@pytest.mark.parametrize(("last", "number"), [(7, 4), (2, 65), (10**9, 2)])
def test_runs_that_are_too_many_are_refused(last, number):
    with pytest.raises(ValueError, match=rf"stage\.last_actions={last} of n_actions={number}"):
        told_size(last=last, number=number)
