"""What users get wrong is one sentence that names the option, before any data is read or recorded."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tinyworlds.checkpoints import save_stage
from tinyworlds.command import CONF

SMALL = "data=video data.path=square.h5 trainer.max_steps=1"
VIDEO = f"train stage=video_tokenizer {SMALL}"
ACTION = f"train stage=action_tokenizer {SMALL}"
CPUS = ("trainer.accelerator=cpu", "trainer.devices=2")
DYNAMICS = f"train stage=dynamics {SMALL} experiment=reference"
MISTAKES = {
    # What Hydra composes.
    "train stage=foo": "stage=foo: there is no such choice; choose one of action_tokenizer, all, dynamics, video_tok",
    "train stage=video_tokeniser": "stage=video_tokeniser: there is no such choice, did you mean video_tokenizer?",
    "train data=foo": "data=foo: there is no such choice; choose one of atari_",
    "train lr_schedule=foo": "lr_schedule=foo: there is no such choice; choose one of constant, cosine, wsd",
    "train optimizer=foo": "optimizer=foo: there is no such choice; choose one of adamw",
    "train trainer=tpu": "trainer=tpu: there is no such choice; choose one of auto, cpu, ddp, fsdp, gpu\n",
    "train -m hydra/launcher=ray": "hydra/launcher=ray is no choice that there is, or a plugin that is not installed",
    "train experiment=laptob": "experiment=laptob: there is no such choice, did you mean laptop?",
    "train stage=[video_tokenizer,dynamics]": "leave it out to train all three, or call once for each",
    f"{ACTION} stage/encoder=foo": "stage/encoder=foo: there is no such choice; choose one of mean_concat, motion",
    "train stag=dynamics": "stag: there is no such option, did you mean stage?",
    "train stage.embed_dim=64": "stage.embed_dim: stage=all has no options, give them with another stage=",
    f"{VIDEO} stage.embed_dimm=64": "stage.embed_dimm: there is no such option, did you mean stage.embed_dim?",
    f"{VIDEO} optimiser.lr=1": "optimiser.lr: there is no such option, did you mean optimizer.lr?",
    f"{VIDEO} optimizer.rate=1": "optimizer.rate: there is no such option; optimizer has betas",
    f"{VIDEO} callbacks.pictures.every_n_step=9": "did you mean callbacks.pictures.every_n_steps?",
    f"{VIDEO} +stage.embed_dim=64": "stage.embed_dim is an option already: leave out the + before it",
    f"{VIDEO} stage.embed_dim": "stage.embed_dim can't be read as option=value",
    f"{VIDEO} 'stage.embed_dim=[1'": "stage.embed_dim=[1 can't be read as option=value",
    f"{VIDEO} stage.embed_dim=32,64": "stage.embed_dim=32,64 is several values: try each of them with -m",
    f"{VIDEO} 'stage.embed_dim=range(1,3)'": "stage.embed_dim=range(1,3) is several values: try each of them with -m",
    f"{VIDEO} ~stage.depth": "stage.depth: there is no such option",
    "train --stage=dynamics": "--stage=dynamics: options of a config have no dashes, write stage=dynamics",
    f"{VIDEO} ~optimizer": "optimizer",
    f"{VIDEO} runs_dir=square.h5": "square.h5/video/video_tokenizer",
    # Names and types.
    f"{VIDEO} +stage.depth=3": "stage.depth: there is no such option, stage takes embed_dim, hidden_dim, latent_dim,",
    f"{VIDEO} ~stage.embed_dim": "stage.embed_dim is missing: give it a value, as stage.embed_dim=",
    f"{VIDEO} stage.embed_dim=abc": "stage.embed_dim=abc must be a whole number",
    f"{VIDEO} stage.embed_dim=": "stage.embed_dim= must be a whole number",
    f"{VIDEO} stage.embed_dim=null": "stage.embed_dim=null must be a whole number",
    f"{VIDEO} stage.temporal=often": "stage.temporal=often must be true or false",
    f"{VIDEO} compile=maybe": "compile=maybe must be true or false",
    f"{VIDEO} data.cache_tokens=maybe": "data.cache_tokens=maybe must be true or false",
    f"{VIDEO} data.batch_size=abc": "data.batch_size=abc must be a whole number",
    f"{VIDEO} stage._target_=tinyworlds.Foo": "stage._target_=tinyworlds.Foo: nothing of that name can be imported",
    f"{ACTION} stage.encoder.name=foo": "stage.encoder.name='foo' is none of",
    f"{ACTION} +stage.encoder.widht=8": "stage.encoder.widht: there is no such option, did you mean stage.encoder.wid",
    f"{ACTION} ~stage.encoder.width": "stage.encoder.width is missing: give it a value, as stage.encoder.width=",
    # The models.
    f"{VIDEO} stage.num_heads=7": "stage.embed_dim=64 does not divide into num_heads=7 equal heads",
    f"{VIDEO} stage.embed_dim=-64": "stage.embed_dim=-64: sinusoidal positions need an even number of at least 6",
    f"{VIDEO} stage.patch_size=7": "stage.patch_size=7 does not divide the frame size 16x16",
    f"{VIDEO} stage.num_blocks=0": "stage.num_blocks=0 must be at least 1",
    f"{VIDEO} stage.norm=foo": "stage.norm='foo' is none of pre, post",
    f"{VIDEO} stage.latent_dim=-1": "stage.latent_dim=-1: must be a whole number of at least 1",
    f"{VIDEO} stage.num_bins=1": "num_bins=1",
    f"{VIDEO} stage.moving_weight=-1": "stage.moving_weight=-1: must be a number of at least 0",
    f"{VIDEO} stage.moving_weight=nan": "stage.moving_weight=nan: must be a number of at least 0",
    f"{ACTION} stage.n_actions=3": "stage.n_actions=3 is no power of num_bins=2",
    f"{ACTION} stage.shrink=3": "stage.shrink=3 does not divide the frame size 16x16",
    f"{ACTION} stage.usage_weight=-1": "stage.usage_weight=-1: must be a number of at least 0",
    f"{ACTION} stage.unscored=9": "stage.unscored=9: clips of data.clip_length=3 frames have no more transitions",
    f"{ACTION} stage.encoder.reach=99": "stage.encoder.reach=99 must be from 1 to",
    # How they are optimized.
    f"{VIDEO} optimizer.lr=0": "optimizer.lr=0 must be a finite number above 0",
    f"{VIDEO} optimizer.lr=-1": "optimizer.lr=-1 must be a finite number above 0",
    f"{VIDEO} optimizer.lr=nan": "optimizer.lr=nan must be a finite number above 0",
    f"{VIDEO} optimizer.lr=inf": "optimizer.lr=inf must be a finite number above 0",
    f"{VIDEO} optimizer.lr=1e-3e": "optimizer.lr=1e-3e must be a number",
    f"{VIDEO} optimizer.weight_decay=-1": "optimizer.weight_decay=-1: must be a number of at least 0",
    f"{VIDEO} optimizer.betas=[0.9]": "optimizer.betas=[0.9] must be two numbers from 0 to below 1",
    f"{VIDEO} optimizer.betas=0.9": "optimizer.betas=0.9 must be a list, each of it a number",
    f"{VIDEO} +optimizer.momentum=1": "optimizer.momentum: there is no such option, optimizer takes betas",
    f"{VIDEO} optimizer=muon optimizer.matrix_factor=0": "optimizer.matrix_factor=0 must be a finite number above 0",
    f"{VIDEO} optimizer=muon optimizer.momentum=1": "optimizer.momentum=1 must be a number from 0 to below 1",
    f"{VIDEO} optimizer.momentum=0.9": "optimizer.momentum: there is no such option; optimizer has betas",
    f"{VIDEO} optimizer=soap optimizer.frequency=0": "optimizer.frequency=0: must be a whole number of at least 1",
    f"{VIDEO} lr_schedule=linear": "lr_schedule=linear: there is no such choice; choose one of constant, cosine, wsd",
    f"{VIDEO} lr_schedule=wsd lr_schedule.decay=1": "lr_schedule.decay=1: must be a number from 0 to 0.95",
    f"{VIDEO} lr_schedule=constant lr_schedule.final=1": "lr_schedule.final: there is no such option; lr_schedule has",
    f"{VIDEO} lr_schedule.warmup=2": "lr_schedule.warmup=2 must be a share of the steps",
    f"{VIDEO} lr_schedule.warmup=nan": "lr_schedule.warmup=nan must be a share of the steps",
    f"{VIDEO} lr_schedule.final=7": "lr_schedule.final=7: must be a number from 0 to 1",
    # The trainer and what watches it.
    f"{VIDEO} trainer=gpu": "trainer.accelerator=gpu: torch finds no GPU here; use trainer=cpu",
    f"{VIDEO} trainer.accelerator=foo": "accelerator='foo'",
    f"{VIDEO} trainer.devices=0": "trainer.devices=0: give how many to train on",
    f"{VIDEO} trainer.devices=abc": "trainer: `devices`",
    f"{VIDEO} trainer.precision=bf61": "trainer.precision=bf61 must be one of",
    f"{VIDEO} ++trainer.strategy=foo": "strategy='foo'",
    f"{VIDEO} +trainer.foo=1": "trainer.foo: there is no such option, trainer takes what lightning.Trainer does",
    f"{VIDEO} trainer.max_steps=0": "trainer.max_steps=0: must be a whole number of at least 1",
    f"train {SMALL} trainer.max_steps=0": "trainer.max_steps=0: must be a whole number of at least 1",
    f"{VIDEO} trainer.max_steps=abc": "trainer.max_steps=abc: must be a whole number of at least 1",
    f"{VIDEO} trainer.limit_val_batches=0": "trainer.limit_val_batches=0: without validation no checkpoint",
    f"{VIDEO} +trainer.num_sanity_val_steps=1": "trainer.num_sanity_val_steps is not to be chosen",
    f"{VIDEO} trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0: must be a whole number of at",
    f"{VIDEO} trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1: must be a number of at least 0",
    f"{VIDEO} trainer.log_every_n_steps=-1": "trainer.log_every_n_steps=-1: must be a whole number of at least 1",
    f"{VIDEO} trainer.limit_val_batches=-3": "limit_val_batches",
    f"{VIDEO} validations=often": "validations=often: must be a whole number of at least 1",
    f"{VIDEO} validations=0": "validations=0: must be a whole number of at least 1",
    f"{VIDEO} +callbacks.pictures.foo=1": "callbacks.pictures.foo: there is no such option, callbacks.pictures takes",
    f"{VIDEO} callbacks.pictures.fps=0": "callbacks.pictures.fps=0: must be a number of at least",
    f"{VIDEO} callbacks.throughput.every_n_steps=0": "callbacks.throughput.every_n_steps=0: must be a whole number",
    f"{VIDEO} seed=abc": "seed=abc: must be a whole number",
    f"{VIDEO} seed=5000000000": "seed=5000000000: must be a whole number from 0 to 4294967295",
    f"{VIDEO} resume=nowhere": "resume=nowhere: there is no nowhere/config.yaml",
    f"{VIDEO} resume=7": "resume=7 must be auto, or the folder of a run",
    # The data.
    f"{VIDEO} data.clip_length=500": "data.clip_length=500 (the longest episode has 12)",
    "train stage=video_tokenizer data.clip_length=1010": "data.clip_length=1010: no recorded episode is so long",
    "train stage=video_tokenizer stage.patch_size=5": "stage.patch_size=5 does not divide the frame size 64x64",
    f"{ACTION} data.clip_length=1": "data.clip_length=1: must be a whole number of at least 2",
    f"{VIDEO} data.val_fraction=1": "data.val_fraction=1: must be a number from 0.001 to 0.999",
    f"{VIDEO} data.name=a/b": "data.name='a/b' must be a name that a folder can have",
    "train stage=video_tokenizer data.recording.size=abc": "data.recording.size=abc must be a whole number or a list",
    "train stage=video_tokenizer data.recording.hold=[8,1]": "data.recording.hold[1]=1: must be a whole number of at",
    "train stage=video_tokenizer data=video": "data=video needs data.path=",
    "train stage=video_tokenizer data=video data.path=nowhere.mp4": "there is no video nowhere.mp4",
    "train stage=video_tokenizer data=video data.path=text.h5": "text.h5 cannot be read as an HDF5 file",
    # Checkpoints.
    DYNAMICS: "no finished video_tokenizer of data=video in runs/: make one with `python train.py stage=video_token",
    f"{DYNAMICS} video_tokenizer=nowhere.ckpt": "there is no checkpoint nowhere.ckpt",
    f"{DYNAMICS} video_tokenizer=text.ckpt": "text.ckpt is no checkpoint of TinyWorlds",
    f"{DYNAMICS} video_tokenizer=action.ckpt": "action.ckpt holds stage=action_tokenizer, but stage=video_tokenizer is",
    f"train {SMALL} video_tokenizer=nowhere.ckpt": "there is no checkpoint nowhere.ckpt",
    # The other commands.
    "play mode=foo": "mode=foo is none of browser, terminal, rollout",
    "play ckpt=nowhere.ckpt": "there is no checkpoint nowhere.ckpt, nor a folder of that name",
    "play ckpt=action.ckpt mode=rollout": "action.ckpt holds stage=action_tokenizer, but stage=dynamics is needed here",
    "play modes=rollout": "modes: there is no such option, did you mean mode?",
    "play temperature=hot": "temperature=hot: must be a number from 0 to 4",
    "play compile=maybe mode=rollout": "compile=maybe must be true or false",
    "play dataset=foo": "no finished dynamics of data=foo in runs/",
    "play order=spiral": "order='spiral' is none of confidence, random, halton",
    "play mode=rollout top_p=0": "top_p=0 leaves no token: give a share above 0",
    "evaluate schedule=square": "schedule='square' is none of exponential, cosine, linear",
    "evaluate clips=0": "clips=0: must be a whole number of at least 1",
    "evaluate ckpt=text.ckpt": "text.ckpt is no checkpoint of TinyWorlds",
    "evaluate datasets=foo": "datasets: there is no such option, did you mean dataset?",
    "plan size=huge": "size=huge: there is no such choice; choose one of 1b, 7b, base, experiment, small, tiny",
    "plan gpus=0": "gpus=0: must be a whole number of at least 1",
    "plan gpus=2 trainer=auto trainer.strategy=foo": "trainer.strategy=foo: trainer=ddp and trainer=fsdp can be",
    "plan frame_size=0": "frame_size=0: give one positive number, or [height, width]",
    "plan gpu=8": "gpu: there is no such option, did you mean gpus?",
    "plan device=h900": "h900",
    "plan tokens=-1": "tokens=-1",
    "plan stage=all": "stage=all cannot be planned at once: give one of",
    "data/tokens data=foo": "data=foo: there is no such choice; choose one of",
    f"data/tokens {SMALL} video_tokenizer=nowhere.ckpt": "there is no checkpoint nowhere.ckpt",
    "data/record": "path is missing: give it a value, as path=",
    "data/record path=x.h5": "env is missing: give it a value, as env=",
    "data/record path=x.h5 env=ALE/Pong-v5 frames=0": "frames=0: must be a whole number of at least 1",
    "data/record path=square.h5 env=ALE/Pong-v5": "square.h5 is there already: move it away, or give another path=",
    "data/record path=x.h5 env=ALE/Pong-v5 recording=foo": "recording=foo: there is no such choice; choose one of ata",
    "data/video": "path is missing: give it a value, as path=",
    "data/video path=nowhere.mp4": "there is no video nowhere.mp4",
    "data/video path=text.mp4 out=x.h5 crop.tpo=3": "crop.tpo: there is no such option; crop has bottom, left, right,",
    "data/prepare data=foo": "data=foo: there is no such choice; choose one of",
    "hub": "choose download or upload",
    "hub verb=download": "download: give either dataset= or world=",
    "hub verb=download dataset=foo": "dataset=foo: give one of picodoom",
    "hub verb=upload dataset=square.h5 repo=a/b/c": "'a/b/c' is no repository of the Hub: give user/name",
    "interop": "out is missing: give it a value, as out=",
}
SCRIPTS = {"train": "train.py", "play": "play.py"}


def script(command: str) -> str:
    return SCRIPTS.get(command, f"src/tinyworlds/{command}.py")


@pytest.fixture
def prepared(small_store, tmp_path, action_tokenizer):
    """A folder with a store, a checkpoint and files that are neither."""
    for name in ("text.h5", "text.ckpt", "text.mp4"):
        (tmp_path / name).write_text("hello")
    save_stage(action_tokenizer, tmp_path / "action.ckpt")
    return tmp_path


def test_there_are_enough_of_them():
    assert len(MISTAKES) >= 40


# Each takes half a second: every second one is left to the slow tests.
@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=[pytest.mark.slow] * (number % 2)) for number, line in enumerate(MISTAKES)]
)
def test_a_mistake_is_one_sentence(entry_point, prepared: Path, capfd, line):
    command, *arguments = shlex.split(line)
    with pytest.raises(SystemExit) as ended:
        entry_point(script(command), *arguments)
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert MISTAKES[line] in said
    made = {path.name for path in prepared.rglob("*") if path.is_file()}
    assert made <= {"square.h5", "text.h5", "text.ckpt", "text.mp4", "action.ckpt"}


def test_a_job_of_a_sweep_that_is_wrong_does_not_end_the_others(entry_point, prepared, capfd):
    few = ("trainer.max_steps=1", "trainer.accelerator=cpu", "data.batch_size=4", "callbacks.pictures.fps=5")
    with pytest.raises(SystemExit):
        entry_point("train.py", "-m", *shlex.split(VIDEO)[1:], *few, "stage.num_heads=7,4")
    assert len(list(prepared.glob("runs/video/video_tokenizer/*/*/result.json"))) == 1
    said = capfd.readouterr().err.splitlines()
    assert said[-1].startswith("error: a job of this multirun failed: stage.embed_dim=64 does not divide into num_he")
    assert "Traceback" not in said


def test_members_of_a_sweep_start_no_processes(entry_point, prepared, capfd):
    """These would be told the whole sweep, not which member they belong to."""
    with pytest.raises(SystemExit):
        entry_point("train.py", "-m", *shlex.split(VIDEO)[1:], "trainer=ddp", *CPUS, "seed=0,1")
    assert not list(prepared.glob("runs/video/video_tokenizer/*/*/*"))
    said = capfd.readouterr().err.splitlines()
    assert said[-1].startswith(
        "error: a job of this multirun failed: trainer.devices=2: members of a sweep (-m) start no"
    )
    assert "Traceback" not in said


@pytest.mark.parametrize("line", ["train stage=foo", f"{VIDEO} optimizer.lr=0", "train --stage=dynamics"])
@pytest.mark.parametrize("names", [("RANK", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_LOCALID")])
def test_of_processes_started_together_the_first_of_the_machine_says_it(
    entry_point, prepared, capfd, monkeypatch, line, names
):
    command, *arguments = shlex.split(line)
    said = []
    for ranks in ("51", "40"):
        for name, rank in zip(names, ranks, strict=True):
            monkeypatch.setenv(name, rank)
        with pytest.raises(SystemExit) as ended:
            entry_point(script(command), *arguments)
        assert ended.value.code == 1
        said.append(capfd.readouterr().err.count("error: "))
    assert said == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("line", ["train stage=foo", f"{VIDEO} stage.num_heads=7", "play mode=foo"])
def test_a_process_says_no_more(prepared, line):
    command, *arguments = shlex.split(line)
    tried = subprocess.run(
        [sys.executable, CONF.parent / script(command), *arguments], cwd=prepared, capture_output=True, text=True
    )
    assert tried.returncode == 1
    assert tried.stdout == ""
    assert tried.stderr.startswith(f"error: {MISTAKES[line]}")
    assert tried.stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="says which GPU is lacking where there is none")
def test_a_device_that_is_not_there_is_named(entry_point, prepared, capfd, dynamics):
    save_stage(dynamics, prepared / "world.ckpt")
    with pytest.raises(SystemExit):
        entry_point("play.py", "mode=rollout", "ckpt=world.ckpt", "device=cuda")
    assert capfd.readouterr().err.startswith("error: device=cuda cannot be used: ")
