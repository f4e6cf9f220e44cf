import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tinyworlds.command import CONF

from .processes import in_a_child

FEW = ("stage=video_tokenizer", "data=video", "data.batch_size=4", "trainer.max_steps=8", "trainer.accelerator=cpu",
       "validations=2", "callbacks.last.every_n_steps=1", "trainer.limit_val_batches=1")  # fmt: skip


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            ["callbacks.divergence.max_loss=0.001"],
            r"the loss is 0\.\d+, above callbacks.divergence.max_loss=0.001 at step 1,",
        ),
        (["optimizer.lr=1e30"], r"the loss is nan at step 2,"),
    ],
)
def test_a_run_that_diverges_stops_and_names_step_clips_and_checkpoint(
    entry_point, small_store, capsys, options, named
):
    with pytest.raises(SystemExit) as ended:
        entry_point("train.py", f"data.path={small_store}", *FEW, *options)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert re.match(rf"error: {named} on the batch of 4 clips that begin at the frames \d+, \d+, \d+, \d+ of", said), (
        said
    )
    kept = list(Path.cwd().rglob("*.ckpt"))
    assert len(kept) == ("nan" in named)
    assert (f"the last good checkpoint is {kept[0]}" if kept else "there is no good checkpoint yet") in said
    for path in kept:
        assert all(value.isfinite().all() for value in torch.load(path, weights_only=True)["state_dict"].values())


@pytest.mark.slow
def test_of_processes_that_train_together_one_says_it(small_store):
    together = ("trainer=ddp", "trainer.devices=2", "callbacks.divergence.max_loss=0.001")
    ended = subprocess.run(
        [sys.executable, CONF.parent / "train.py", f"data.path={small_store}", *FEW, *together],
        cwd=small_store.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("error: ") == 1
    assert "error: the loss is 0." in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_too_little_memory_names_the_options_to_lower(entry_point, small_store, capfd):
    def train() -> None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, used + 2**27))
        entry_point("train.py", f"data.path={small_store}", *FEW, "stage.embed_dim=2048", "stage.hidden_dim=8192")

    assert in_a_child(train) == 1
    said = capfd.readouterr().err
    assert said.startswith("error: there is not enough memory")
    lowered = ("data.batch_size", "trainer.accumulate_grad_batches", "data.clip_length", "stage.embed_dim")
    for option in (*lowered, "activation_checkpointing=true", "trainer=fsdp"):
        assert option in said
