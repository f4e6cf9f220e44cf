"""Runs that are really killed, and go on."""

import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tinyworlds.command import CONF
from tinyworlds.media import enlarge
from tinyworlds.models import STAGES, Stage
from tinyworlds.runs import continued
from tinyworlds.saving import WholeFiles

from .processes import in_a_child
from .square import play

TINY = (
    "data=video",
    "data.batch_size=4",
    "trainer.max_steps=12",
    "trainer.accelerator=cpu",
    "trainer.log_every_n_steps=1",
    "trainer.limit_val_batches=2",
    "validations=3",
    "callbacks.last.every_n_steps=3",
    "callbacks.throughput.every_n_steps=5",
    "callbacks.pictures.every_n_steps=8",
)
SMALL = {
    "video_tokenizer": ("stage.embed_dim=16", "stage.num_heads=1", "stage.hidden_dim=16"),
    "action_tokenizer": ("stage.encoder.width=4", "stage.encoder.channels=2",
                         "stage.decoder.width=4"),
    "dynamics": ("stage.embed_dim=16", "stage.num_heads=1", "stage.hidden_dim=16", "stage.num_blocks=1",
                 "stage.masking=anchored", "stage.context_noise=0", "stage.own_context=0",
                 "stage.decoding.steps=2"),
}  # fmt: skip


def train(*overrides: str, kill: tuple[str, int] | None = None, sent: signal.Signals = signal.SIGKILL) -> None:
    """``python train.py``, to all processes of which a signal is sent in the n-th call of what `kill` names."""
    places: dict[str, tuple[Any, str]] = {
        "training": (Stage, "on_train_batch_start"),
        "validation": (Stage, "log_psnr"),
        "saving": (torch, "save"),
        "saved": (WholeFiles, "save_checkpoint"),
    }
    if kill is not None:
        owner, name = places[kill[0]]
        original, calls = getattr(owner, name), []

        def killing(*arguments: Any, **options: Any) -> Any:
            calls.append(None)
            if len(calls) == kill[1]:
                if kill[0] == "saving":  # with half of the file on the disk
                    arguments[1].write(b"half")
                    arguments[1].flush()
                if kill[0] == "saved":
                    original(*arguments, **options)
                os.killpg(0, sent)
            return original(*arguments, **options)

        setattr(owner, name, killing)
    sys.argv = [str(CONF.parent / "train.py"), *overrides]
    runpy.run_path(sys.argv[0], run_name="imported")["main"]()


@pytest.fixture(scope="session")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose frames workers read: 6 episodes of 8 frames in which a square moves."""
    path = tmp_path_factory.mktemp("store") / "square.h5"
    frames = enlarge(play(np.random.default_rng(0).integers(0, 4, (6, 7))), 2)
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=frames.reshape(-1, *frames.shape[2:]), compression="lzf")
        file["episode_starts"] = np.arange(0, 48, 8)
    return path


@pytest.fixture(scope="session")
def unbroken(compressed: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Path]:
    """The folder of a run of a stage, with so many batches a step, that nothing happened to; made when first wanted."""
    folder = tmp_path_factory.mktemp("unbroken")

    def options(stage: str, accumulated: int) -> list[str]:
        known = [f"{name}={run(name, 1)}/best.ckpt" for name in list(STAGES)[:2]] if stage == "dynamics" else []
        return [*TINY, *SMALL[stage], f"stage={stage}", f"data.path={compressed}", *known,
                f"trainer.accumulate_grad_batches={accumulated}"]  # fmt: skip

    def run(stage: str, accumulated: int) -> Path:
        runs = folder / f"accumulated{accumulated}"
        if not (runs / "video" / stage).exists():
            assert in_a_child(lambda: train(*options(stage, accumulated), f"runs_dir={runs}")) == 0
        return next((runs / "video" / stage).iterdir())

    run.options = options  # type: ignore[attr-defined]  # a note on a function
    return run


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """All that TensorBoard shows of a run but how fast it was."""
    board = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()
    tags = board.Tags()
    shown = {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags["scalars"]}
    shown["steps_per_second"] = [(step, 0) for step, _ in shown["steps_per_second"]]
    for tag in tags["images"]:
        shown[f"image {tag}"] = [(image.step, hash(image.encoded_image_string)) for image in board.Images(tag)]
    for tag in tags["histograms"]:
        shown[f"histogram {tag}"] = [(event.step, event.histogram_value.sum) for event in board.Histograms(tag)]
    return shown


def learned(path: Path) -> dict[str, Any]:
    """All of a checkpoint but where and how fast it was made."""
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["run"]
    for state in checkpoint["callbacks"].values():
        for key in list(state):
            # Lightning forgets `current_score`, and never reads it.
            if "path" in key or key in ("best_k_models", "current_score"):
                del state[key]
    return checkpoint


def assert_equal(one: Any, other: Any, where: str = "") -> None:
    # FSDP2 gives back pairs as lists.
    assert type(one) is type(other) or {type(one), type(other)} == {list, tuple}, where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key, value in one.items():
            assert_equal(value, other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, value in enumerate(one):
            assert_equal(value, other[index], f"{where}/{index}")
    else:
        assert one == other, where


def assert_same_run(one: Path, other: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        assert_equal(learned(one / name), learned(other / name), name)
    assert scalars(one) == scalars(other)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert results[0]["val/loss"] == results[1]["val/loss"]
    assert {path.name for path in (one / "pictures").iterdir()} == {
        path.name for path in (other / "pictures").iterdir()
    }


CASES = {
    # workers, batches a step: where each process that goes on after the one before is killed
    (0, 1): [("training", 5), ("training", 6), ("training", 3)],
    (2, 1): [("validation", 2), ("validation", 4), ("training", 2)],
    (0, 2): [("saving", 1), ("saving", 2), ("saving", 3)],
    (2, 2): [("saved", 1), ("saved", 3), ("training", 4)],
}


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "accumulated"), CASES)
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_goes_on_as_if_it_had_not_been(unbroken, tmp_path, stage, workers, accumulated):
    options = [*unbroken.options(stage, accumulated), f"runs_dir={tmp_path}", f"data.num_workers={workers}"]
    for kill in CASES[workers, accumulated]:
        assert in_a_child(lambda kill=kill: train(*options, "resume=auto", kill=kill)) == -signal.SIGKILL
    assert in_a_child(lambda: train(*options, "resume=auto")) == 0
    folders = [path.parent for path in (tmp_path / "video" / stage).glob("*/result.json")]
    assert len(folders) == 1
    assert_same_run(unbroken(stage, accumulated), folders[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code", "workers", "accumulated"), [(signal.SIGINT, 130, 2, 1), (signal.SIGTERM, 143, 2, 2)]
)
def test_a_run_that_is_asked_to_stop_saves_first_and_says_how_to_go_on(
    unbroken, tmp_path, capfd, sent, code, workers, accumulated
):
    """In the middle of a batch, workers being sent the signal too."""
    stage = "video_tokenizer"
    options = [*unbroken.options(stage, accumulated), f"runs_dir={tmp_path}", f"data.num_workers={workers}"]
    every = "callbacks.last.every_n_steps=100"
    whole = unbroken(stage, accumulated)
    capfd.readouterr()
    assert in_a_child(lambda: train(*options, every, kill=("training", 6 * accumulated + 1), sent=sent)) == code
    said = capfd.readouterr()
    (folder,) = (tmp_path / "video" / stage).iterdir()
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 7
    assert said.err == ""
    assert f"stopped by {sent.name} at step 7, {folder}/last.ckpt is saved" in said.out
    command = shlex.split(said.out.splitlines()[-1])
    assert command == ["python", "train.py", *options, every, f"resume={folder}"]
    assert in_a_child(lambda: train(*command[2:])) == 0
    assert_same_run(whole, folder)


@pytest.mark.slow
def test_slurm_is_asked_to_run_the_job_again(unbroken, tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    job = {"NTASKS": "1", "JOB_ID": "77", "JOB_NAME": "train", "LOCALID": "0", "NODEID": "0", "PROCID": "0"}
    for name, value in job.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    options = [*unbroken.options("video_tokenizer", 1), f"runs_dir={tmp_path}", "resume=auto", "data.num_workers=2"]
    code = in_a_child(lambda: train(*options, kill=("training", 5), sent=signal.SIGUSR1))
    assert code == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 77\n"
    assert not list(tmp_path.rglob("hpc_ckpt*"))  # which Lightning's handler would save, in each worker too
    assert in_a_child(lambda: train(*options)) == 0
    (folder,) = (tmp_path / "video" / "video_tokenizer").iterdir()
    assert_same_run(unbroken("video_tokenizer", 1), folder)


@pytest.mark.slow
def test_all_stages_go_on_at_the_one_they_were_in(compressed, tmp_path):
    options = [
        *TINY,
        f"data.path={compressed}",
        "trainer.max_steps=6",
        "validations=1",
        "callbacks.last.every_n_steps=2",
    ]
    (tmp_path / "disk").mkdir()
    (tmp_path / "killed").symlink_to("disk")
    whole, killed = (f"runs_dir={tmp_path / name}" for name in ("whole", "killed"))
    assert in_a_child(lambda: train(*options, whole, "data.num_workers=0")) == 0
    assert in_a_child(lambda: train(*options, killed, kill=("training", 11))) == -signal.SIGKILL  # in the second stage
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/video/video_tokenizer/*/*")}
    assert in_a_child(lambda: train(*options, killed, "resume=auto", kill=("training", 4))) == -signal.SIGKILL
    assert in_a_child(lambda: train(*options, killed, "resume=auto")) == 0
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/video/video_tokenizer/*/*")}
    for stage in STAGES:
        folders = [next(tmp_path.glob(f"{name}/video/{stage}/*")) for name in ("whole", "killed")]
        assert len(list(tmp_path.glob(f"killed/video/{stage}/*"))) == 1
        assert scalars(folders[0]) == scalars(folders[1])
        states = [torch.load(folder / "last.ckpt", weights_only=True)["state_dict"] for folder in folders]
        assert_equal(*states)
    assert not (tmp_path / "killed/video/all").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "accumulated", "trainer"),
    [("video_tokenizer", 1, "ddp"), ("dynamics", 2, "ddp"), ("dynamics", 1, "fsdp")],
)
def test_processes_that_train_together_are_killed_and_go_on(unbroken, tmp_path, stage, accumulated, trainer):
    """Killed, then one of them asked to stop, and each time the command is given again."""
    options = [*unbroken.options(stage, accumulated), f"trainer={trainer}", "trainer.max_steps=30", "trainer.devices=2",
               "trainer.log_every_n_steps=5", "resume=auto"]  # fmt: skip

    def started(runs: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(CONF.parent / "train.py"), *options, f"runs_dir={tmp_path / runs}"]
        return subprocess.Popen(command, start_new_session=True)

    def after_a_checkpoint(process: subprocess.Popen[bytes], act: Callable[[], None]) -> int:
        def saved() -> list[int]:
            return [path.stat().st_mtime_ns for path in tmp_path.glob("killed/video/*/*/last.ckpt")]

        before = saved()
        while saved() == before:
            assert process.poll() is None, "it ended before it saved"
            time.sleep(0.01)
        act()
        return process.wait(timeout=120)

    whole = started("whole")
    assert whole.wait(timeout=300) == 0
    first = started("killed")
    assert after_a_checkpoint(first, lambda: os.killpg(first.pid, signal.SIGKILL)) == -signal.SIGKILL
    second = started("killed")
    assert after_a_checkpoint(second, second.terminate) == 143
    assert started("killed").wait(timeout=300) == 0
    folders = [next(tmp_path.glob(f"{name}/video/{stage}/*")) for name in ("whole", "killed")]
    assert len(list(tmp_path.glob(f"killed/video/{stage}/*"))) == 1
    assert_same_run(*folders)


@pytest.mark.slow
def test_a_run_that_was_told_otherwise_is_refused(unbroken, tmp_path, capfd):
    """As is one that has finished, one that is no run, and one that another process is training."""
    options = [*unbroken.options("video_tokenizer", 1), f"runs_dir={tmp_path}"]
    assert in_a_child(lambda: train(*options, kill=("training", 5))) == -signal.SIGKILL
    (folder,) = (tmp_path / "video" / "video_tokenizer").iterdir()
    done = unbroken("video_tokenizer", 1)
    for changed, named in (
        (["optimizer.lr=0.1", f"resume={folder}"], ["optimizer.lr=0.005 there, 0.1 here"]),
        (["stage.embed_dim=32", "seed=3", f"resume={folder}/last.ckpt"], ["stage.embed_dim=16 there", "seed=0 there"]),
        ([f"resume={done}"], ["has finished"]),
        ([f"resume={done}/best.ckpt"], ["goes on from its last.ckpt"]),
        ([f"resume={tmp_path}"], [f"there is no {tmp_path}/config.yaml"]),
        (["data.batch_size=2", f"resume={folder}"], ["data.batch_size=4 there, 2 here"]),
    ):
        assert in_a_child(lambda changed=changed: train(*options, *changed)) == 1
        said = capfd.readouterr().err
        assert said.startswith("error: resume")
        assert all(name in said for name in named), said
    with continued(folder):
        assert in_a_child(lambda: train(*options, f"resume={folder}")) == 1
        assert "another process is training there" in capfd.readouterr().err
    assert {path.name for path in (tmp_path / "video" / "video_tokenizer").iterdir()} == {folder.name}
