import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tinyworlds import World
from tinyworlds.checkpoints import load_stage, newest, save_stage, training_seconds, write_result
from tinyworlds.models import Dynamics, Stage, VideoTokenizer


def save(stage: Stage, path: Path) -> Path:
    save_stage(stage, path)
    return path


def test_one_file_is_a_whole_world(dynamics, tmp_path):
    path = save(dynamics, tmp_path / "world.ckpt")
    prompt = np.random.default_rng(0).integers(0, 256, (4, 16, 24, 3), dtype=np.uint8)
    films = []
    for world in (World(dynamics), World.load(path)):
        films.append([world.reset(prompt), *(world.step(action) for action in (0, 1, 2, 3))])
    assert np.array_equal(*films)
    loaded = World.load(path).dynamics
    for name, value in dynamics.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_another_stage_is_refused_by_name(video_tokenizer, tmp_path):
    path = save(video_tokenizer, tmp_path / "tokenizer.ckpt")
    with pytest.raises(ValueError, match="holds stage=video_tokenizer, but stage=dynamics is needed"):
        load_stage(path, Dynamics)


def test_weights_of_another_shape_are_refused(video_tokenizer, tmp_path):
    path = save(video_tokenizer, tmp_path / "tokenizer.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"].popitem()
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match="another version"):
        load_stage(path, VideoTokenizer)


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    path = tmp_path / "nothing.ckpt"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*nothing\.ckpt"):
        load_stage(path, Dynamics)
    path.write_text("nothing")
    with pytest.raises(ValueError, match=r"nothing\.ckpt is no checkpoint"):
        load_stage(path, Dynamics)
    torch.save({"model": 1}, path)
    with pytest.raises(ValueError, match=r"nothing\.ckpt is no checkpoint"):
        load_stage(path, Dynamics)


class Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_runs_no_code(tmp_path):
    path, target = tmp_path / "exploit.ckpt", tmp_path / "made by the exploit"
    torch.save({"stage": "dynamics", "hyper_parameters": Exploit(target)}, path)
    with pytest.raises(ValueError, match=r"exploit\.ckpt is no checkpoint"):
        load_stage(path, Dynamics)
    assert not target.exists()
    pickle.loads(pickle.dumps(Exploit(target)))
    assert target.exists()  # it would have


def test_the_newest_finished_run_is_found_by_its_name(tmp_path):
    for started, finished in (
        ("2026-01-02_03-04-05", True),
        ("2026-01-10_00-00-00", True),
        ("2026-02-01_00-00-00", False),
    ):
        folder = tmp_path / "pong" / "dynamics" / started
        folder.mkdir(parents=True)
        (folder / "best.ckpt").touch()
        if finished:
            best = folder / "best.ckpt"
            write_result(folder, stage="dynamics", checkpoint=best, metric=0.5, seconds=1.23, command="python train.py")
    assert newest(tmp_path, "pong", "dynamics") == tmp_path / "pong/dynamics/2026-01-10_00-00-00/best.ckpt"
    result = json.loads((tmp_path / "pong/dynamics/2026-01-10_00-00-00/result.json").read_text())
    assert result == {
        "stage": "dynamics",
        "checkpoint": "best.ckpt",
        "val/loss": 0.5,
        "seconds": 1.2,
        "seconds_in_all": 1.2,
        "command": "python train.py",
    }


def test_the_time_of_a_world_is_that_of_all_its_stages(tmp_path):
    def finish(stage: str, seconds: float, *tokenizers: Path) -> Path:
        best = tmp_path / stage / "best.ckpt"
        best.parent.mkdir(exist_ok=True)
        known = {"command": "python train.py", "tokenizers": tokenizers}
        write_result(best.parent, stage=stage, checkpoint=best, metric=0, seconds=seconds, **known)
        return best

    tokenizers = finish("video_tokenizer", 100), finish("action_tokenizer", 20)
    assert training_seconds(finish("dynamics", 3, *tokenizers).parent) == (123, "")
    seconds, reason = training_seconds(finish("dynamics", 3, tokenizers[0], tmp_path / "from elsewhere.ckpt").parent)
    assert seconds is None
    assert "how long the tokenizers were trained" in reason
    unknown, why = training_seconds(tmp_path / "lost")
    assert unknown is None
    for said in (reason, why):  # which are shared with a world
        assert str(tmp_path) not in said


def test_without_a_finished_run_the_command_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python train\.py stage=video_tokenizer data=pong"):
        newest(tmp_path, "pong", "video_tokenizer")


@pytest.mark.parametrize(
    ("use", "named"),
    [
        ({"name": "other"}, "data=test.*data=other"),
        ({"path": "folder/other.h5"}, r"data\.path=test\.h5.*data\.path=other\.h5"),
        ({"val_fraction": 0.5}, r"data\.val_fraction=0\.2.*data\.val_fraction=0\.5"),
        ({"frame_size": (8, 8)}, r"\(16, 24\).*\(8, 8\)"),
    ],
)
def test_a_mismatch_names_both_values(video_tokenizer, use, named):
    dataset = {**video_tokenizer.dataset, **use}
    frame_size = dataset.pop("frame_size", (16, 24))
    with pytest.raises(ValueError, match=named):
        video_tokenizer.check_fits("a.ckpt", frame_size=frame_size, dataset=dataset)


@pytest.mark.parametrize(
    ("use", "named"),
    [
        ({"path": "data/others/*.h5"}, r"games/\*\.h5 \(3 stores\).*others/\*\.h5 \(3 stores\)"),
        ({"path": "data/games/a*.h5"}, r"games/\*\.h5 .*games/a\*\.h5"),
        ({"stores": 4}, r"games/\*\.h5 \(3 stores\).*games/\*\.h5 \(4 stores\)"),
    ],
)
def test_many_stores_must_be_the_same_ones(video_tokenizer, use, named):
    video_tokenizer.dataset |= {"path": "data/games/*.h5", "stores": 3}
    dataset = {**video_tokenizer.dataset, "path": "/elsewhere/games/*.h5"}
    video_tokenizer.check_fits("a.ckpt", frame_size=(16, 24), dataset=dataset)
    with pytest.raises(ValueError, match=named):
        video_tokenizer.check_fits("a.ckpt", frame_size=(16, 24), dataset=dataset | use)


def test_the_same_frames_in_another_folder_fit(video_tokenizer):
    dataset = {**video_tokenizer.dataset, "path": "elsewhere/test.h5", "clip_length": 9}
    video_tokenizer.check_fits("a.ckpt", frame_size=(16, 24), dataset=dataset)
