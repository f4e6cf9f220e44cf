"""What docs/cluster.md says of many machines, as far as one gets."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tinyworlds.command import CONF

from .test_configs import composed

SCRIPTS = sorted((CONF.parent / "docs/cluster").iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_bash_and_its_options_are_known(script):
    subprocess.run(["bash", "-n", script], check=True)
    (options,) = re.findall(r"train\.py (.*)", script.read_text().replace("\\\n", " "))
    known = re.sub(r'"?\$\w+"?', "2", options.replace('"$@"', ""))
    config = composed("stage=dynamics", *shlex.split(known))
    assert (config.trainer.num_nodes, config.trainer.devices, config.resume) == (2, 2, "auto")
    OmegaConf.to_container(config)


@pytest.mark.slow
def test_torchrun_trains_all_stages_and_goes_on_after_a_kill(tmp_path, small_store):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    small = ["trainer.accelerator=cpu", "trainer.devices=2", "data=video", f"data.path={small_store}", "data.batch_size=2"]
    command = [*torchrun, str(CONF.parent / "train.py"), "trainer=ddp", *small, "trainer.max_steps=30", "validations=1"]
    command += ["callbacks.last.every_n_steps=5", "resume=auto"]
    options = {"cwd": tmp_path, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "text": True}
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, **options) as killed:
        while not list(tmp_path.glob("runs/video/action_tokenizer/*/last.ckpt")):
            assert killed.poll() is None
            time.sleep(0.05)
        # torchrun gives its workers sessions of their own.
        children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
        for pid in (killed.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
    said = subprocess.run(command, check=True, timeout=240, capture_output=True, **options).stdout
    assert said.count("video_tokenizer: has finished") == 1
    assert len(re.findall(r"action_tokenizer: .* parameters, .*, resumed", said)) == 1
    for stage in ("video_tokenizer", "action_tokenizer", "dynamics"):
        (folder,) = (tmp_path / "runs/video" / stage).iterdir()
        assert (folder / "result.json").is_file()
