import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.command import CONF
from tinyworlds.trainer import build_trainer, validation_interval


@given(max_steps=st.integers(1, 5000), validations=st.integers(1, 50))
def test_validations_divide_a_run_and_the_last_is_at_its_end(max_steps, validations):
    interval = validation_interval(max_steps, validations)
    assert max_steps % interval == 0
    assert 1 <= max_steps // interval <= validations


def test_a_gpu_that_there_is_not_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["stage=dynamics", "trainer=gpu", "run_dir=run"])
    with pytest.raises(ValueError, match=r"trainer\.accelerator=gpu: torch finds no GPU here; use trainer=cpu"):
        build_trainer(config)
