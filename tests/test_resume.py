"""Runs that are really killed, and go on."""

import json
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tinyworlds.command import CONF
from tinyworlds.models import STAGES, Stage
from tinyworlds.saving import WholeFiles

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
    "action_tokenizer": ("stage.shrink=1", "stage.encoder.width=4", "stage.encoder.channels=2",
                         "stage.decoder.width=4"),
    "dynamics": ("stage.embed_dim=16", "stage.num_heads=1", "stage.hidden_dim=16", "stage.num_blocks=1",
                 "stage.masking=anchored", "stage.decoding.steps=2"),
}  # fmt: skip


def in_a_child(work: Callable[[], object]) -> int:
    """Do `work` in a process of its own, a copy of this one; returns its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train(*overrides: str, kill: tuple[str, int] | None = None) -> None:
    """``python train.py`` with the overrides; killed with signal 9 in the n-th call of what `kill` names."""
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
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, killing)
    sys.argv = [str(CONF.parent / "train.py"), *overrides]
    runpy.run_path(sys.argv[0], run_name="imported")["main"]()


@pytest.fixture(scope="session")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose frames workers read: 6 episodes of 8 frames in which a square moves."""
    path = tmp_path_factory.mktemp("store") / "square.h5"
    frames = play(np.random.default_rng(0).integers(0, 4, (6, 7)))
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
                f"+trainer.accumulate_grad_batches={accumulated}"]  # fmt: skip

    def run(stage: str, accumulated: int) -> Path:
        runs = folder / f"accumulated{accumulated}"
        if not (runs / "video" / stage).exists():
            assert in_a_child(lambda: train(*options(stage, accumulated), f"runs_dir={runs}")) == 0
        return next((runs / "video" / stage).iterdir())

    run.options = options  # type: ignore[attr-defined]
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
    assert type(one) is type(other), where
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
