"""Sweeps over processes of this machine, over a queue of jobs, and as a search."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tinyworlds.command import CONF

FEW = (
    "stage=video_tokenizer",
    "data=video",
    "data.path=square.h5",
    "data.batch_size=4",
    "trainer=cpu",
    "trainer.max_steps=2",
    "validations=1",
)


def sweep(folder: Path, *options: str) -> dict[Path, float]:
    """Sweeps in a process of its own; the folders of the members that finished, with their losses."""
    command = [sys.executable, CONF.parent / "train.py", "-m", *FEW, *options]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    results = sorted(folder.glob("runs/video/video_tokenizer/*/*/result.json"))
    return {path.parent: json.loads(path.read_text())["val/loss"] for path in results}


def found(folder: Path) -> tuple[dict[str, object], float]:
    """What a search found: the best options and their loss."""
    (path,) = folder.glob("runs/video/video_tokenizer/*/optimization_results.yaml")
    best = OmegaConf.load(path)
    return dict(best.best_params), best.best_value


@pytest.mark.slow
def test_processes_search_for_the_least_loss_and_never_share_a_folder(small_store, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    together = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.subdir=same")
    search = ("hydra/sweeper=search", "hydra.sweeper.n_trials=2", "optimizer.lr=tag(log, interval(1e-4, 1e-1))")
    losses = sweep(tmp_path, *together, *search)
    assert [folder.name for folder in losses] == ["same", "same-2"]
    rates = {OmegaConf.load(folder / "config.yaml").optimizer.lr: loss for folder, loss in losses.items()}
    assert len(rates) == 2
    params, value = found(tmp_path)
    assert value == min(rates.values())
    assert rates[params["optimizer.lr"]] == value


@pytest.mark.slow
def test_a_queue_returns_losses_and_a_member_that_does_not_fit_fails_alone(small_store, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    search = ("hydra/sweeper=search", "hydra.sweeper.n_trials=2", "stage.num_heads=choice(4,7)")
    losses = sweep(tmp_path, "hydra/launcher=submitit_local", *search)
    (folder,) = losses
    assert found(tmp_path) == ({"stage.num_heads": 4}, losses[folder])
    logs = [path.read_text() for path in folder.parent.glob(".submitit/*/*.err")]
    assert any("stage.embed_dim=64 does not divide into num_heads=7 equal heads" in log for log in logs)


STAND_INS = {
    # Runs the job at once instead of queueing it.
    "sbatch": """
cp "$1" submitted.sh
SLURM_JOB_ID=7 bash "$1" >queue.log 2>&1 &
echo Submitted batch job 7
""",
    "srun": 'while [ "$1" != "$PYTHON" ]; do shift; done; exec "$@"',
    "sacct": "echo 'JobID|State|NodeList'; echo '7|COMPLETED|here'",
}


@pytest.mark.slow
def test_slurm_is_asked_for_what_conf_says(small_store, tmp_path, monkeypatch):
    """With stand-ins for the commands of SLURM, of which there is none here."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    commands = tmp_path / "slurm"
    commands.mkdir()
    for name, script in STAND_INS.items():
        (commands / name).write_text(f"#!/bin/bash\n{script}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", sys.executable)
    losses = sweep(tmp_path, "hydra/launcher=slurm", "hydra.launcher.partition=short", "seed=3")
    assert len(losses) == 1
    asked = (tmp_path / "submitted.sh").read_text()
    conf = OmegaConf.load(CONF / "hydra/launcher/slurm.yaml")
    for option, value in (
        ("partition", "short"),
        ("job-name", conf.name),
        ("time", conf.timeout_min),
        ("cpus-per-task", conf.cpus_per_task),
        ("gpus-per-node", conf.gpus_per_node),
        ("mem", f"{conf.mem_gb}GB"),
        ("nodes", conf.nodes),
        ("ntasks-per-node", conf.tasks_per_node),
    ):
        assert f"#SBATCH --{option}={value}\n" in asked
