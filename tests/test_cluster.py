"""Processes that something else starts: torchrun and SLURM."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tinyworlds.command import CONF
from tinyworlds.models import STAGES

BIN = Path(sys.executable).parent
SCRIPTS = CONF.parent / "docs/cluster"
FEW = (
    "stage=video_tokenizer",
    "data=video",
    "data.path=square.h5",
    "data.batch_size=4",
    "trainer.accelerator=cpu",
    "trainer.max_steps=2",
    "validations=1",
)
SRUN = """#!/bin/bash
# Two tasks on this machine, told what SLURM tells its tasks, if they are asked for with as many cores as the job has.
test "$SRUN_CPUS_PER_TASK" = 8 || exit 1
export SLURM_JOB_ID=12345 SLURM_JOB_NAME=tinyworlds SLURM_NTASKS=2 SLURM_NODELIST=localhost SLURM_NODEID=0
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" &
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" && wait
"""


@pytest.fixture
def project(small_store, tmp_path):
    """A folder that looks like the project's to a script."""
    (tmp_path / "train.py").symlink_to(CONF.parent / "train.py")
    activate = tmp_path / ".venv/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text(f'PATH="{BIN}:$PATH"\n')
    return tmp_path


def output(command: list[str | Path], folder: Path, told: dict[str, str]) -> str:
    """What a command prints that is told something by environment variables."""
    environment = {**os.environ, **told}
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, timeout=300, stdout=subprocess.PIPE, text=True
    ).stdout


def only_run(folder: Path) -> Path:
    """The folder of the only run, which has finished and which all processes had in common."""
    (run,) = folder.glob("runs/video/video_tokenizer/*")
    assert (run / "result.json").is_file()
    loop = torch.load(run / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    assert loop["epoch_loop.batch_progress"]["total"]["completed"] == 2
    return run


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("torchrun", path=BIN), reason="this torch has no torchrun")
def test_torchrun_starts_processes_that_train_together(project):
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    told = {"MACHINES": "1", "GPUS": "2", "FIRST": f"localhost:{port}"}
    said = output([SCRIPTS / "torchrun.sh", *FEW[1:]], project, told)  # all stages, the last built on the others
    assert [said.count(f"{stage}: val/loss") for stage in STAGES] == [1, 1, 1]
    assert only_run(project).name in said


@pytest.mark.slow
def test_tasks_of_slurm_train_together(project):
    srun = project / ".venv/bin/srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    told = {"PATH": f"{srun.parent}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "8"}
    told |= {"SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2"}
    said = output(["bash", SCRIPTS / "train.sbatch", *FEW], project, told)
    assert said.count("video_tokenizer: val/loss") == 1
    assert only_run(project).name in said
