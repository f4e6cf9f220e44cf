import json
import os
import subprocess
import sys

import pytest
import torch

from tinyworlds.devices import allow_tf32, cpu


@pytest.mark.parametrize(("device", "precision"), [("cpu", "highest"), ("cuda", "high"), ("cuda:1", "high")])
def test_only_gpus_compute_in_tf32(device, precision):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        allow_tf32(device)
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


STEPS = """
import resource
import torch
from tinyworlds.devices import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(2_000_000) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_freed_memory()
print([new_pages() for _ in range(6)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_is_freed_serves_again():
    """Without it, 39,000 pages are new in each of the steps, in most processes."""
    done = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, check=True, text=True)
    first, *_, fifth, last = json.loads(done.stdout)
    assert first > 10_000
    assert fifth + last < 100


def test_processors_are_told_apart_by_their_vectors():
    """As torch is made to use them here."""
    script = "from tinyworlds.devices import cpu; print(cpu())"
    name = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        check=True,
        text=True,
    ).stdout.strip()
    assert name.endswith("(DEFAULT)")
    assert name.removesuffix("(DEFAULT)") == cpu().rpartition("(")[0]
