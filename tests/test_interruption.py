import os
import signal
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from lightning import Trainer

from tinyworlds.interruption import Interruption
from tinyworlds.processes import starts_others

JOB = {"NTASKS": "2", "JOB_ID": "77", "JOB_NAME": "train", "NODEID": "0", "NTASKS_PER_NODE": "2"}


def a_task(rank: int, folder: Path) -> None:
    """One of two of SLURM, of which the second alone is told that the time is up."""
    for name, value in {**JOB, "LOCALID": str(rank), "PROCID": str(rank)}.items():
        os.environ[f"SLURM_{name}"] = value
    os.environ["PATH"] = str(folder)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    assert not starts_others(trainer)
    interruption = Interruption()
    interruption.watch(trainer)
    assert interruption.agreed(trainer) is None
    if rank == 1:
        os.kill(os.getpid(), signal.SIGUSR1)
    interrupted = interruption.agreed(trainer)
    assert interrupted is not None
    assert (interrupted.signal, interrupted.code) == (signal.SIGUSR1, 0 if rank else 128 + signal.SIGUSR1)
    if rank == 0:
        interruption.requeue(interrupted)
        (folder / "scontrol").write_text("#!/bin/sh\nexit 3\n")
        (folder / "scontrol").chmod(0o755)
        interruption.requeue(interrupted)
    torch.distributed.destroy_process_group()  # its threads, left running, can end the process with an abort


@pytest.mark.slow
def test_a_signal_of_slurm_to_one_process_reaches_all_and_what_slurm_refuses_is_told(tmp_path, capfd):
    mp.spawn(a_task, (tmp_path,), nprocs=2)
    missing, refused = (line for line in capfd.readouterr().out.splitlines() if "job 77" in line)
    assert missing.startswith("SLURM will not run job 77 again, submit it once more: ")
    assert "No such file" in missing
    assert "exit status 3" in refused
