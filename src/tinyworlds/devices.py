"""How torch computes on a device."""

import contextlib
import ctypes
import platform
from pathlib import Path

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Of glibc's mallopt(3): from how many free bytes on they are given back, and from how many on they always are."""
LARGEST_THRESHOLD = 32 * 2**20
"""As much as glibc allows for the second."""


def keep_freed_memory() -> None:
    """Have the C library keep what torch frees on the CPU for what it makes next, in the whole process.

    Without this the large tensors of every training step are new memory, and the system takes longer to hand out its
    pages than a small model to fill them. Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, 2**31 - 1)
        mallopt(MMAP_THRESHOLD, LARGEST_THRESHOLD)


def allow_tf32(device: str | torch.device) -> None:
    """Let float32 matrix products on a GPU round their factors to TF32, in the whole process; nothing on a CPU.

    Training, the token cache and playing all ask for it: latents that round alike give the same tokens.
    """
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")


def hardware(device: torch.device) -> str:
    """What a device is, for people to read."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{cpu()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def cpu() -> str:
    """The processor, and the vectors that it computes with: there are unlike ones by one name."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
