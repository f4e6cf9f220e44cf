import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tinyworlds.command import CONF, build


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["stage=dynamics"], "stage=video_tokenizer"),
        (["stage=dynamics", "video_tokenizer=none.ckpt"], "none.ckpt"),
        (["stage=video_tokenizer", "data.batch_size=0"], "data.batch_size=0"),
        (["stage=video_tokenizer", "stage.embed_dim=63"], "embed_dim=63"),
        (["stage=video_tokenizer", "stage.patch_size=7"], "patch_size=7"),
        (["stage=video_tokenizer", "+stage.depth=3"], "depth"),
        (["stage=video_tokenizer", "stage.dept=3"], "dept"),
        (["stage=video_tokenizer", "trainer.max_steps=0"], "trainer.max_steps=0"),
        (["stage=video_tokenizer", "optimizer.lr=0"], "optimizer.lr=0"),
        (["stage=video_tokenizer", "lr_schedule.warmup=2"], "lr_schedule.warmup=2"),
        (["stage=action_tokenizer", "stage.n_actions=3"], "n_actions=3"),
        (["stage=action_tokenizer", "stage.encoder.name=other"], "stage.encoder.name='other'"),
        (["stage=video"], "stage/video"),
    ],
)
def test_a_users_mistake_is_named_without_a_traceback(entry_point, small_store, capfd, arguments, named):
    with pytest.raises(SystemExit) as ended:
        entry_point("train.py", "data=video", f"data.path={small_store}", "trainer.max_steps=1", *arguments)
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert named in said
    assert "Traceback" not in said


def test_a_process_ends_with_one_sentence(tmp_path):
    tried = run(str(CONF.parent / "play.py"), "ckpt=nowhere.ckpt", cwd=tmp_path)
    assert tried.returncode == 1
    assert tried.stderr == "error: there is no checkpoint nowhere.ckpt\n"


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


def test_unknown_and_missing_keys_are_named():
    node = OmegaConf.create({"part": {"_target_": "tinyworlds.nn.fsq.FSQ", "latent_dim": 2, "bins": 2}})
    for arguments in ({}, {"num_bins": 2}):
        with pytest.raises(ValueError, match=r"part:.*(bins|num_bins)"):
            build(node.part, **arguments)


def test_arguments_reach_the_target_as_they_are():
    size = (1, 2)
    node = OmegaConf.create({"_target_": "builtins.dict"})
    assert build(node, size=size)["size"] is size
