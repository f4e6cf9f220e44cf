import contextlib
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tinyworlds.command import CONF, build, importing


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("temperature=hot", "temperature=hot"),
        ("temperature=-1", "temperature=-1"),
        ("steps=2.5", "steps=2.5"),
        ("horizon=9", "horizon=9"),
        ("horizon=two", "horizon=two"),
        ("device=gpu", "device=gpu"),
        ("frames=0", "frames=0"),
        ("frames=500", "504 frames, the longest has 12"),
        ("actions=up", "actions=up"),
        ("actions=null", "actions=None"),
        ("actions=[0,7]", "actions=[0, 7]"),
        ("store=nowhere.h5", "nowhere.h5"),
    ],
)
def test_a_players_mistake_is_named_without_a_traceback(
    entry_point, dynamics, small_store, capfd, tmp_path, argument, named
):
    dynamics.dataset["path"] = str(small_store)
    with h5py.File(small_store, "a") as store:
        del store["frames"]
        store["frames"] = np.zeros((48, 16, 24, 3), np.uint8)
    dynamics.hparams["dataset"]["path"] = str(small_store)
    checkpoint = {"state_dict": dynamics.state_dict(), "hyper_parameters": dict(dynamics.hparams), "stage": "dynamics"}
    torch.save(checkpoint, tmp_path / "world.ckpt")
    with pytest.raises(SystemExit) as ended:
        entry_point("play.py", "mode=rollout", "ckpt=world.ckpt", "frames=4", "clips=2", argument)
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert said.startswith("error: ")
    assert named in said
    assert said.count("\n") == 1


def test_a_mistake_is_found_before_anything_is_recorded(entry_point, tmp_path, capfd):
    with pytest.raises(SystemExit):
        entry_point(
            "train.py", "data=atari_pong", "stage=video_tokenizer", "stage.patch_size=7", "stage.patches=linear"
        )
    assert "patch_size=7 does not divide the frame size 64x64" in capfd.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_process_ends_with_one_sentence(tmp_path):
    tried = run(str(CONF.parent / "play.py"), "ckpt=nowhere.ckpt", cwd=tmp_path)
    assert tried.returncode == 1
    said = "there is no checkpoint nowhere.ckpt, nor a folder of that name; a world of the Hub is hf://user/name"
    assert tried.stderr == f"error: {said}\n"


def test_a_bug_keeps_its_traceback(tmp_path):
    (tmp_path / "bug.py").write_text(
        "from tinyworlds.command import command\n"
        "@command('play')\n"
        "def main(config):\n"
        "    raise ValueError('a bug')\n"
        "main()\n"
    )
    tried = run("bug.py", cwd=tmp_path)
    assert tried.returncode == 1
    assert "bug.py" in tried.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [(), ("--cfg", "job")])  # what the task prints, and what Hydra does
def test_nothing_is_said_when_nobody_reads_any_more(tmp_path, arguments, unbuffered):
    """As with ``| head``, whether lines are written at once or at the end."""
    script = tmp_path / "lines.py"
    script.write_text(
        "from tinyworlds.command import command\n@command('play')\ndef main(config):\n    print('a line')\nmain()\n"
    )
    read, write = os.pipe()
    os.close(read)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    words = [sys.executable, str(script), *arguments]
    with os.fdopen(write, "wb") as pipe:
        done = subprocess.run(words, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=120, env=environment)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="full disks are simulated by Linux alone")
@pytest.mark.parametrize(
    ("raised", "output", "said"),
    [
        ("BrokenPipeError('a bug')", os.devnull, "BrokenPipeError: a bug"),
        ("None", "/dev/full", "No space left on device"),
    ],
)
def test_other_pipes_and_full_disks_are_not_taken_for_it(tmp_path, raised, output, said):
    script = tmp_path / "lines.py"
    script.write_text(
        "from tinyworlds.command import command\n"
        "@command('play')\n"
        "def main(config):\n"
        "    print('a line')\n"
        f"    if error := {raised}:\n"
        "        raise error\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    words = [sys.executable, str(script)]
    with Path(output).open("wb") as file:
        done = subprocess.run(words, stdout=file, stderr=subprocess.PIPE, text=True, timeout=120, env=environment)
    assert done.returncode not in (0, 128 + signal.SIGPIPE)
    assert said in done.stderr
    assert not done.stderr.startswith("error: ")


def test_unknown_and_missing_keys_are_named():
    node = OmegaConf.create({"part": {"_target_": "tinyworlds.nn.fsq.FSQ", "latent_dim": 2, "bins": 2}})
    with pytest.raises(ValueError, match=r"^part\.bins: there is no such option, part takes latent_dim, num_bins$"):
        build(node.part)
    del node.part.bins
    with pytest.raises(ValueError, match=r"^part\.num_bins is missing: give it a value"):
        build(node.part)


def test_arguments_reach_the_target_as_they_are():
    size = (1, 2)
    node = OmegaConf.create({"_target_": "argparse.Namespace"})
    assert build(node, size=size).size is size


def test_garbage_is_collected_again_once_modules_are_imported():
    with contextlib.suppress(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
