from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.trainer import validation_interval


@given(max_steps=st.integers(1, 5000), validations=st.integers(1, 50))
def test_validations_divide_a_run_and_the_last_is_at_its_end(max_steps, validations):
    interval = validation_interval(max_steps, validations)
    assert max_steps % interval == 0
    assert 1 <= max_steps // interval <= validations
