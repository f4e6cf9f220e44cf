"""Two gloo processes against one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from benchmarks import ranks, stores
from tinyworlds import World, parallel
from tinyworlds.command import CONF
from tinyworlds.masking import anchored_mask, frame_mask, replace_some
from tinyworlds.models import STAGES
from tinyworlds.nn.agreement import Agreement
from tinyworlds.nn.feed_forward import MoE, Routing
from tinyworlds.nn.fsq import FSQ, code_entropy
from tinyworlds.nn.norms import LatentNorm
from tinyworlds.runs import continued

from .square import record

ROWS = 6


def over_the_batch(rows: torch.Tensor) -> list[torch.Tensor]:
    """All that is taken over a batch, and its gradients to the rows; what is per row comes last."""
    torch.manual_seed(3)
    norm, quantizer = LatentNorm(latent_dim=3), FSQ(latent_dim=3, num_bins=2)
    experts = MoE(embed_dim=3, hidden_dim=6, num_experts=2, top_k=1, balance_weight=1.0, z_weight=1.0)
    chosen = rows[rows > 0.1]  # not as many on each
    routed: list[Routing] = []
    experts(rows, routed)
    global_losses = [
        parallel.mean(chosen.square()),
        parallel.moments_of_rows(rows)[1].sum(),
        code_entropy(norm(rows), quantizer),
        experts.loss(routed[0]),
    ]
    weighed = parallel.mean((norm(rows) * torch.linspace(0, 1, 3)).pow(3))
    (gradient,) = torch.autograd.grad(sum(global_losses, weighed), rows)
    shape, device = (len(rows), 4, 5), torch.device("cpu")
    tokens = (rows[:, :, :1] * 1000).long().expand(-1, 4, 5).contiguous()
    drawn = [
        anchored_mask(shape, min_ratio=0.5, generator=None, device=device),
        frame_mask(shape, full=0.5, generator=None, device=device),
        replace_some(tokens, share=1.0, generator=None),
        torch.isin(torch.arange(len(rows)), parallel.spread(len(rows), share=0.3, device=device)),
    ]
    agreement = Agreement(members=5, codes=4, actions=2, transitions=4)
    agreement.keep(tokens % 4)
    statistics = [norm.norm.running_mean, norm.norm.running_var, agreement.recent[: ROWS + 1]]
    return [*(x.detach() for x in (*global_losses, weighed)), *statistics, gradient, *drawn]


def in_a_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    own = torch.load(folder / "rows.pt").chunk(2)[rank].requires_grad_()
    torch.save(over_the_batch(own), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()  # its threads, left running, can end the process with an abort


@pytest.mark.slow
def test_two_ranks_compute_what_one_does(tmp_path):
    rows = torch.randn(ROWS, 4, 3)
    torch.save(rows, tmp_path / "rows.pt")
    wanted = over_the_batch(rows.requires_grad_())
    mp.spawn(in_a_rank, (tmp_path,), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for one, a, b in zip(wanted[:8], first[:8], second[:8], strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, one)
    # The strategies average gradients, so each rank has its rows' twice.
    torch.testing.assert_close(torch.cat([first[8], second[8]]) / 2, wanted[8])
    for one, a, b in zip(wanted[9:], first[9:], second[9:], strict=True):
        assert torch.equal(torch.cat([a, b]), one)


@pytest.mark.slow
def test_two_processes_learn_what_one_does_and_leave_the_same_files(tmp_path):
    store = tmp_path / "film.h5"
    stores.write_film(store, frames=400, frame_size=(16, 16))
    # A gradient has directions that are nothing but rounding, and Muon and SOAP step in them too; and of two tokens
    # that are as likely, rounding says which the model would guess.
    options = (
        f"data.path={store}",
        "optimizer=adamw",
        "lr_schedule=cosine",
        "trainer.max_steps=4",
        "callbacks.pictures.every_n_steps=100",
    )
    for found in ranks.compare(tmp_path, *options, of_dynamics=["stage.own_context=0"]):
        assert found.training < 1e-5, found
        assert found.validation < 1e-3, found
    for strategy in ranks.STRATEGIES:
        runs = tmp_path / strategy / "video"
        assert {stage: len(list((runs / stage).iterdir())) for stage in STAGES} == dict.fromkeys(
            ("video_tokenizer", "action_tokenizer"), 1
        ) | {"dynamics": 2}
        for stage in STAGES:
            one, both = (
                torch.load(ranks.newest(tmp_path / kind / "video", stage) / "last.ckpt", weights_only=True)
                for kind in ("one", strategy)
            )
            assert same_layout(one, both)
        world = World.load(ranks.newest(runs, "dynamics") / "best.ckpt")
        world.reset(np.zeros((2, *world.frame_size, 3), np.uint8))
        assert world.step(0).shape == (*world.frame_size, 3)


def same_layout(one: object, other: object) -> bool:
    """Whether weights and optimizer state have the same names, shapes and types, to the last."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = ("state_dict", "optimizer_states") if "state_dict" in one else tuple(one)
        return one.keys() == other.keys() and all(same_layout(one[key], other[key]) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(same_layout(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return type(one) is type(other) and one.shape == other.shape and one.dtype == other.dtype
    return type(one) is type(other)


def begun(
    folder: Path, *options: str, start: Callable[..., list[str]] | None = None
) -> tuple[subprocess.Popen[str], Path]:
    """A run of a video tokenizer in a process of its own, once it has written a checkpoint."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob(CHECKPOINTS)}
    words = (start or command)(*options)
    process = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 180
    while not (new := [path for path in folder.glob(CHECKPOINTS) if path.stat().st_mtime_ns != before.get(path)]):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    return process, new[0].parent


def command(*options: str) -> list[str]:
    return [sys.executable, str(CONF.parent / "train.py"), "stage=video_tokenizer", "data=video", *SHORT, *options]


CHECKPOINTS = "runs/video/video_tokenizer/*/last.ckpt"
SHORT = ("trainer.accelerator=cpu", "trainer.max_steps=60", "validations=1", "callbacks.last.every_n_steps=1",
         "trainer.log_every_n_steps=1", "callbacks.pictures.every_n_steps=100", "lr_schedule=cosine")  # fmt: skip
ONE = ("trainer=cpu", "data.batch_size=8")
TWO = ("trainer.devices=2", "data.batch_size=4")


@pytest.mark.slow
def test_a_run_goes_on_with_other_processes(tmp_path):
    """Begun by DDP in two, gone on by FSDP2, ended in one: the curve of one process that nothing happened to.

    All pixels weigh alike: a latent on a border, which a sum in another order rounds otherwise, then matters little.
    """
    store, even = f"data.path={record(tmp_path / 'square.h5')}", ("optimizer=adamw", "stage.moving_weight=0")
    subprocess.run(command(store, *even, *ONE, "runs_dir=whole"), cwd=tmp_path, check=True, timeout=180)
    resumed: tuple[str, ...] = ()
    for strategy in ranks.STRATEGIES:
        process, folder = begun(tmp_path, store, *even, *TWO, f"trainer={strategy}", *resumed)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (folder / "result.json").exists()
        resumed = (f"resume={folder}",)
    subprocess.run(command(store, *even, *ONE, *resumed), cwd=tmp_path, check=True, timeout=180)
    whole, pieced = (ranks.curves(run) for run in (next(tmp_path.glob("whole/video/video_tokenizer/*")), folder))
    apart = [abs(a - b) for a, b in zip(whole["train/loss"], pieced["train/loss"], strict=True)]
    assert len(apart) == 60
    assert max(apart) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "victim"), [("ddp", 0), ("ddp", 1), ("fsdp", 0)])
def test_the_end_of_one_process_ends_the_other_with_a_sentence(tmp_path, strategy, victim):
    options = (f"data.path={record(tmp_path / 'square.h5')}", "trainer.max_steps=100000")
    process, _ = begun(tmp_path, *options, *TWO, f"trainer={strategy}")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (child,) = (int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(child if victim else process.pid, signal.SIGKILL)
    # Both hold the pipe: it ends when both have.
    _, said = process.communicate(timeout=60)
    assert said.count("error: ") == 1
    assert "of the processes that train together ended" in said or "of those that train together ended" in said
    assert "Traceback" not in said


def together(*options: str) -> list[str]:
    """What of its own accord starts two processes that train."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *command(*options)[1:]]


def free(folder: Path) -> bool:
    """Whether no process trains there."""
    try:
        with continued(folder):
            return True
    except ValueError:
        return False


@pytest.mark.slow
def test_processes_of_torchrun_begin_the_same_and_end_with_it(tmp_path):
    """While another job trains the run that they look for, of which only the first of them knows; then without it."""
    options = (f"data.path={record(tmp_path / 'square.h5')}", "trainer.max_steps=100000", *TWO, "trainer=ddp")
    process, folder = begun(tmp_path, *options)
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        second = subprocess.run(
            together(*options, "resume=auto"), cwd=tmp_path, check=False, timeout=180, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert second.returncode == 1
    assert "error: resume: the first of the processes would train video_tokenizer anew, and others" in second.stderr
    third, again = begun(tmp_path, *options, "resume=auto", start=together)
    assert again == folder
    assert third.stderr is not None
    third.stderr.close()  # what they say is not read
    third.kill()
    third.wait()
    until = time.monotonic() + 60
    while not free(folder):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
def test_processes_go_on_without_the_shell_that_they_were_started_from(small_store, tmp_path):
    """It ends while they train the first of the stages; the first process has started the others, and is theirs."""
    options = (f"data.path={small_store}", *TWO, "trainer=fsdp", "trainer.max_steps=20")
    words = [word for word in command(*options) if not word.startswith("stage=")]
    shell = subprocess.Popen(
        ["sh", "-c", '"$@" & read line', "sh", *words], cwd=tmp_path, stdin=subprocess.PIPE, start_new_session=True
    )
    assert shell.stdin is not None
    until = time.monotonic() + 180
    for awaited in (CHECKPOINTS, "runs/video/action_tokenizer/*/result.json"):
        while not list(tmp_path.glob(awaited)):
            assert time.monotonic() < until
            time.sleep(0.05)
        shell.stdin.close()  # it ends with its first child left behind
        assert shell.wait(timeout=60) == 1
    os.killpg(shell.pid, signal.SIGKILL)
