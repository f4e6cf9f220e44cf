"""How things are measured: calls in turn, peak memory, and what they were measured on."""

import multiprocessing
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, ParamSpec, TypeVar

import torch
from omegaconf import DictConfig, ListConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tinyworlds.command import CONF
from tinyworlds.devices import cpu
from tinyworlds.media import replacing
from tinyworlds.progress import track

PACKAGES = ("torch", "lightning", "numpy", "h5py")
MATRIX = {"cpu": 2048, "cuda": 8192}
"""Rows of matrices so large that starting their product takes no time of it."""
MB = 2**20

P = ParamSpec("P")
R = TypeVar("R")


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, until the device is done with it."""
    _wait_for(device)
    begun = time.perf_counter()
    call()
    _wait_for(device)
    return time.perf_counter() - begun


def in_turn(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device, label: str
) -> dict[str, float]:
    """Median seconds of each call over `rounds`, in each of which they take turns, after one that is not counted."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in track(range(rounds), total=rounds, label=label):
        for name, call in calls.items():
            times[name].append(seconds_of(call, device))
    return {name: median(values) for name, values in times.items()}


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations in the matrix products and convolutions of one call."""
    # Of attention, only the backend that is made of matrix products is counted on every device.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def matmul_rate(device: torch.device) -> float:
    """Floating-point operations a second in products of large square matrices: the most that can be hoped for."""
    rows = MATRIX[device.type]
    a, b = (torch.rand(rows, rows, device=device) for _ in range(2))
    times = [seconds_of(lambda: a @ b, device) for _ in range(10)]
    return 2 * rows**3 / min(times)


def peak_memory(call: Callable[[], object], device: torch.device) -> float:
    """Megabytes (2**20 bytes) that a CUDA device holds at most during a call, all that is on it included."""
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return torch.cuda.max_memory_allocated(device) / MB


def in_fresh_process(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, float]:
    """What an importable function returns, and by how many megabytes it raised its process's peak memory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, function.__module__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_with_memory, partial(function, *args, **kwargs)).result()


def _with_memory(call: Callable[[], R]) -> tuple[R, float]:
    held = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    result = call()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result, max(0, peak - held) / MB


def machine(device: torch.device) -> dict[str, Any]:
    """What a measurement ran on."""
    found = {
        "device": device.type,
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def versions() -> dict[str, str]:
    """Of Python and of the packages that times depend on."""
    return {"python": platform.python_version()} | {package: version(package) for package in PACKAGES}


def commit() -> str:
    """Of this repository, with ``-dirty`` where files differ from it; empty where it is none."""
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    result = subprocess.run(describe, cwd=CONF.parent, capture_output=True, text=True)
    return result.stdout.strip()


def lists(config: DictConfig, *names: str) -> list[list[str]]:
    """The lists that a config holds under `names`.

    Raises:
        ValueError: one of them is no list, or empty.
    """
    for name in names:
        check_list(config, name)
        if not config[name]:
            raise ValueError(f"{name}=[]: give at least one")
    return [list(map(str, config[name])) for name in names]


def check_list(config: DictConfig, name: str) -> None:
    """
    Raises:
        ValueError: what a config holds under `name` is no list.
    """
    if not isinstance(config[name], ListConfig):
        raise ValueError(f"{name}={config[name]}: give a list, as {name}=[…]")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_section(page: Path, name: str, text: str) -> None:
    """Replace what stands in `page` between the markers of the section `name`, see `check_section`."""
    check_section(page, name)
    before, rest = page.read_text().split(_begin(name))
    after = rest.split(_end(name))[1]
    with replacing(page) as unfinished:
        unfinished.write_text(f"{before}{_begin(name)}\n\n{text.strip()}\n\n{_end(name)}{after}")


def check_section(page: Path, name: str) -> None:
    """
    Raises:
        ValueError: `page` has no place for the section, the text between two markers.
    """
    begin, end = _begin(name), _end(name)
    text = page.read_text() if page.is_file() else ""
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{page} must hold the lines '{begin}' and '{end}' once, for the table to be written between")


def _begin(name: str) -> str:
    return f"<!-- {name}: written by a command, do not edit -->"


def _end(name: str) -> str:
    return f"<!-- end of {name} -->"


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
