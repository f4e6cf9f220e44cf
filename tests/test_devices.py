import pytest
import torch

from tinyworlds.devices import allow_tf32


@pytest.mark.parametrize(("device", "precision"), [("cpu", "highest"), ("cuda", "high"), ("cuda:1", "high")])
def test_only_gpus_compute_in_tf32(device, precision):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        allow_tf32(device)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
