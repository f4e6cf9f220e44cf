import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tinyworlds import World
from tinyworlds.checkpoints import load_stage
from tinyworlds.command import CONF
from tinyworlds.models import STAGES, ActionTokenizer, VideoTokenizer

SMALL = (
    "trainer.max_steps=4",
    "validations=2",
    "data.batch_size=4",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
)
"""Enough of everything to happen once."""


@pytest.fixture
def trained(entry_point: Callable[..., Any], small_store: Path) -> Callable[..., dict[str, Path]]:
    """Trains on the small store; gives the newest run's folder of each stage."""

    def train(*overrides: str, flags: tuple[str, ...] = ()) -> dict[str, Path]:
        entry_point("train.py", *flags, "data=video", f"data.path={small_store}", *SMALL, *overrides)
        folders = {stage: sorted(Path("runs/video").glob(f"{stage}/*")) for stage in STAGES}
        return {stage: found[-1].absolute() for stage, found in folders.items() if found}

    return train


def test_the_three_stages_leave_a_world_and_what_was_seen_of_them(trained, entry_point, capsys):
    runs = trained()
    assert set(runs) == set(STAGES)
    for stage, folder in runs.items():
        result = json.loads((folder / "result.json").read_text())
        assert result["stage"] == stage
        assert result["command"].startswith("python train.py data=video data.path=")
        assert (folder / result["checkpoint"]).is_file()
        assert (folder / "last.ckpt").is_file()
        assert OmegaConf.load(folder / "config.yaml").stage._target_.startswith("tinyworlds.models.")
        seen = EventAccumulator(str(folder)).Reload().Tags()
        assert {"train/loss", "val/loss", "val/psnr", "val/ssim", "val/codes_perplexity"} <= set(seen["scalars"])
        assert {path.stem.rpartition("-")[0] for path in (folder / "pictures").iterdir()} == set(seen["images"])
    assert "val/flicker" in EventAccumulator(str(runs["video_tokenizer"])).Reload().Tags()["scalars"]
    assert EventAccumulator(str(runs["action_tokenizer"])).Reload().Tags()["histograms"] == ["val/actions"]
    assert set(EventAccumulator(str(runs["dynamics"])).Reload().Tags()["images"]) == {"prediction", "masked", "rollout"}
    assert f"video_tokenizer: {runs['video_tokenizer'].relative_to(Path.cwd())}/best.ckpt" in capsys.readouterr().out

    seconds = {stage: json.loads((folder / "result.json").read_text()) for stage, folder in runs.items()}
    total = sum(result["seconds"] for result in seconds.values())
    assert seconds["dynamics"]["seconds_in_all"] == pytest.approx(total, abs=0.2)

    world = World.load(runs["dynamics"] / "best.ckpt")
    for kind, part in (
        (VideoTokenizer, world.dynamics.video_tokenizer),
        (ActionTokenizer, world.dynamics.action_tokenizer),
    ):
        alone = load_stage(runs[kind.name] / "best.ckpt", kind).state_dict()
        assert all(torch.equal(value, alone[name]) for name, value in part.state_dict().items())

    entry_point("play.py", "mode=rollout", "dataset=video", "frames=5", "clips=3", "prompt=2", "actions=[0,1,2]")
    wrote = {path.name for path in (runs["dynamics"] / "play").iterdir()}
    assert wrote == {
        "rollout.mp4",
        "rollout.gif",
        "rollout.png",
        "actions.gif",
        "actions.png",
        "next_frame.json",
    }


@pytest.mark.parametrize("stage", ["video_tokenizer", "action_tokenizer"])
def test_two_runs_of_one_config_give_the_same_numbers(trained, stage):
    losses, weights = [], []
    for seed in (0, 0, 1):
        runs = trained(f"stage={stage}", f"seed={seed}")
        losses.append(json.loads((runs[stage] / "result.json").read_text())["val/loss"])
        checkpoint = torch.load(runs[stage] / "last.ckpt", weights_only=True)
        weights.append(torch.cat([value.flatten().double() for value in checkpoint["state_dict"].values()]))
    assert losses[0] == losses[1] != losses[2]
    assert torch.equal(weights[0], weights[1])


def test_two_steps_at_size_tiny_make_a_world_of_that_size(trained):
    runs = trained("size=tiny", "trainer.max_steps=2", "validations=1")
    dynamics = World.load(runs["dynamics"] / "best.ckpt").dynamics
    assert (dynamics.transformer.embed_dim, dynamics.video_tokenizer.decoder.embed_dim) == (64, 32)
    assert dynamics.action_tokenizer.encoder.features[0].out_channels == 8


def test_dynamics_of_another_dataset_are_refused(trained, capfd):
    trained("stage=video_tokenizer", "data.name=first")
    folder = next(Path("runs/first/video_tokenizer").iterdir())
    with pytest.raises(SystemExit):
        trained("stage=dynamics", f"video_tokenizer='{folder}/best.ckpt'")
    said = capfd.readouterr().err
    assert "data=first" in said
    assert "data=video" in said


def test_given_tokenizers_are_used_and_not_trained_again(trained, capsys):
    runs = trained("stage=video_tokenizer")
    given = runs["video_tokenizer"] / "best.ckpt"
    later = trained(f"video_tokenizer='{given}'")
    assert later["video_tokenizer"] == runs["video_tokenizer"]
    used = torch.load(later["dynamics"] / "best.ckpt", weights_only=True)["state_dict"]
    for name, value in torch.load(given, weights_only=True)["state_dict"].items():
        assert torch.equal(used[f"video_tokenizer.{name}"], value)


@pytest.mark.parametrize("experiment", ["laptop", "reference"])
def test_cached_tokens_train_the_same_dynamics(trained, small_store, experiment):
    runs = {}
    options = (f"experiment={experiment}", "validations=1", "callbacks.pictures.every_n_steps=100")
    for stage in ("video_tokenizer", "action_tokenizer"):
        trained(f"stage={stage}", *options)
    options += ("stage.num_blocks=1", "stage.decoding.steps=2")
    for cached in ("true", "false"):
        before = len(list(small_store.with_suffix(".tokens").glob("*.h5")))
        runs[cached] = trained("stage=dynamics", f"data.cache_tokens={cached}", *options)["dynamics"]
        assert len(list(small_store.with_suffix(".tokens").glob("*.h5"))) == before + (cached == "true")
    weights = [torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in runs.values()]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    for scalar in ("train/loss", "train/accuracy", "val/loss", "val/psnr"):
        seen = [EventAccumulator(str(run)).Reload().Scalars(scalar) for run in runs.values()]
        assert [event.value for event in seen[0]] == [event.value for event in seen[1]]


def test_tokens_written_beforehand_are_trained_on(trained, entry_point, small_store, capsys):
    for stage in ("video_tokenizer", "action_tokenizer"):
        trained(f"stage={stage}")
    options = ("data=video", f"data.path={small_store}", "data.batch_size=4")
    entry_point("src/tinyworlds/data/tokens.py", *options)
    (path,) = small_store.with_suffix(".tokens").glob("*.h5")
    assert str(path) in capsys.readouterr().out.splitlines()[-1]
    trained("stage=dynamics")
    assert [path] == list(small_store.with_suffix(".tokens").glob("*.h5"))


def test_tokens_of_clips_without_an_action_are_refused(entry_point, small_store, capsys):
    with pytest.raises(SystemExit):
        entry_point("src/tinyworlds/data/tokens.py", "data=video", f"data.path={small_store}", "data.clip_length=1")
    assert "data.clip_length=1: must be a whole number of at least 2" in capsys.readouterr().err


def test_compile_compiles_what_is_trained_and_played(trained, entry_point, monkeypatch, capsys):
    """As far as a machine without a compiler gets."""
    trained()
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for call in (
        lambda: trained("stage=video_tokenizer", "compile=true"),
        lambda: entry_point("play.py", "mode=rollout", "dataset=video", "compile=true"),
    ):
        with pytest.raises(SystemExit):
            call()
        assert "compile=true needs a C++ compiler" in capsys.readouterr().err


PROBE = """
from hydra.experimental.callback import Callback

class Probe(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        with open("returned.txt", "a") as file:
            print(job_return.return_value, file=file)
"""


def test_a_sweep_trains_each_member_in_a_folder_of_its_own_and_is_told_its_loss(trained, tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(PROBE)
    monkeypatch.syspath_prepend(tmp_path)
    probe = "+hydra.callbacks.probe._target_=probe.Probe"
    trained("stage=video_tokenizer", "stage.embed_dim=32,64", probe, flags=("-m",))
    members = sorted(Path("runs/video/video_tokenizer").glob("*/*/config.yaml"))
    assert [OmegaConf.load(member).stage.embed_dim for member in members] == [32, 64]
    losses = [json.loads((member.parent / "result.json").read_text())["val/loss"] for member in members]
    assert [float(line) for line in Path("returned.txt").read_text().split()] == losses


def test_half_precision_trains_too(trained):
    for folder in trained("trainer.precision=bf16-mixed").values():
        assert math.isfinite(json.loads((folder / "result.json").read_text())["val/loss"])


@pytest.mark.slow
def test_processes_that_train_together_read_one_cache(trained, small_store):
    for stage in ("video_tokenizer", "action_tokenizer"):
        trained(f"stage={stage}")
    options = ("stage=dynamics", "data=video", f"data.path={small_store}", *SMALL)
    command = [sys.executable, str(CONF.parent / "train.py"), *options, "trainer=ddp", "trainer.devices=2"]
    subprocess.run(command, check=True, timeout=300)
    assert len(list(small_store.with_suffix(".tokens").glob("*.h5"))) == 1
    (folder,) = Path("runs/video/dynamics").iterdir()
    assert math.isfinite(json.loads((folder / "result.json").read_text())["val/loss"])


@pytest.mark.slow
def test_pong_is_recorded_learned_and_played(tmp_path):
    """The whole of `make world`, at a hundredth of its length, in processes of their own."""
    short = [
        "data.recording.frames=1500",
        "data.recording.max_episode_steps=150",
        "trainer.max_steps=30",
        "validations=1",
        "trainer.limit_val_batches=2",
    ]
    for script, *options in (
        ("train.py", *short, "data.batch_size=8"),
        ("play.py", "mode=rollout", "clips=8", "frames=6"),
    ):
        command = [sys.executable, str(CONF.parent / script), *options]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "2"})
    quality = json.loads(next(tmp_path.glob("runs/atari_pong/dynamics/*/play/next_frame.json")).read_text())
    assert quality["psnr"] > 15
    assert (tmp_path / "data/atari_pong.h5").is_file()
