import contextlib
import os
import random
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from tinyworlds.checkpoints import load_stage
from tinyworlds.last_checkpoint import LastCheckpoint
from tinyworlds.models import Dynamics
from tinyworlds.saving import WholeFiles, discard_unfinished

from .processes import end_of, in_a_child, start
from .test_resume import SMALL, train

KILLS = 50


def checkpoint(dynamics: Dynamics, number: int) -> dict[str, object]:
    """Of a stage in which every weight is `number`."""
    state = {name: torch.full_like(value, number % 100) for name, value in dynamics.state_dict().items()}
    return {"stage": "dynamics", "hyper_parameters": dict(dynamics.hparams), "state_dict": state, "number": number}


def number_in(path: Path) -> int:
    """The number in a checkpoint, which is whole."""
    load_stage(path, Dynamics)
    read = torch.load(path, weights_only=True)
    assert all((value == read["number"] % 100).all() for value in read["state_dict"].values())
    return int(read["number"])


@pytest.mark.slow
def test_fifty_writers_are_killed_and_a_whole_checkpoint_is_always_there(tmp_path, dynamics):
    """Each goes on where the one before was killed, at no moment of its choosing."""
    path, chance, saved = tmp_path / "last.ckpt", random.Random(0), 0
    WholeFiles().save_checkpoint(checkpoint(dynamics, 0), path)
    amid = 0
    for _ in range(KILLS):
        told, tell = os.pipe()

        def write(first: int = saved + 1, tell: int = tell) -> None:
            for number in range(first, first + 1000):
                WholeFiles().save_checkpoint(checkpoint(dynamics, number), path)
                os.write(tell, b".")

        writer = start(write)
        os.close(tell)
        os.read(told, 1)  # it is at work
        select.select([], [], [], chance.uniform(0, 0.05))
        os.kill(writer, signal.SIGKILL)
        assert end_of(writer) == -signal.SIGKILL
        known = saved + 1 + len(os.read(told, 10_000))
        os.close(told)
        saved = number_in(path)
        assert known <= saved <= known + 1
        amid += len(list(tmp_path.glob(".last.ckpt.*")))
        discard_unfinished(tmp_path)
        assert [path] == list(tmp_path.iterdir())
    assert amid > 0, "not one was killed while it wrote"
    print(f"{KILLS} kills survived, {amid} of them in the middle of a file; {saved} checkpoints written")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with little room; where none may be mounted, the test is skipped."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False).returncode:
        pytest.skip("mounting a file system takes root")
    yield place
    subprocess.run(["umount", place], check=True)


def test_on_a_full_or_read_only_disk_the_last_good_checkpoint_stays(small_disk, dynamics):
    path = small_disk / "last.ckpt"
    WholeFiles().save_checkpoint(checkpoint(dynamics, 1), path)
    with pytest.raises(ValueError, match=rf"{path} could not be written: No space left on device; the one that was"):
        WholeFiles().save_checkpoint({**checkpoint(dynamics, 2), "more": torch.zeros(10**6)}, path)
    with pytest.raises(ValueError, match="No space left on device; nothing was there before"):
        WholeFiles().save_checkpoint({"more": torch.zeros(10**6)}, small_disk / "other.ckpt")
    assert number_in(path) == 1
    assert [path] == list(small_disk.iterdir())
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(ValueError, match=rf"{path} could not be written: Read-only file system; the one that was"):
        WholeFiles().save_checkpoint(checkpoint(dynamics, 3), path)
    assert number_in(path) == 1


@pytest.mark.slow
def test_a_run_whose_disk_gets_full_ends_with_a_sentence(small_disk, small_store, capfd, monkeypatch):
    """After its first checkpoint: a picture finds no room."""
    options = [
        "stage=action_tokenizer",
        "data=video",
        f"data.path={small_store}",
        "trainer=cpu",
        "trainer.max_steps=8",
        "validations=1",
        "callbacks.last.every_n_steps=4",
        *SMALL["action_tokenizer"],
    ]
    save = LastCheckpoint._save

    def saving(self: LastCheckpoint, trainer: Trainer) -> None:
        save(self, trainer)
        with contextlib.suppress(OSError), (small_disk / "more").open("wb", 0) as file:
            while True:
                file.write(bytes(1024))

    monkeypatch.setattr(LastCheckpoint, "_save", saving)
    assert in_a_child(lambda: train(*options, f"runs_dir={small_disk}")) == 1
    said = capfd.readouterr().err
    (folder,) = small_disk.glob("video/*/*")
    assert said.startswith("error: ")
    assert said.endswith(f"No space left on device; the last good checkpoint is {folder}/last.ckpt\n")
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 4
