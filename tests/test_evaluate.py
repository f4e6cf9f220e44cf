import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from tinyworlds import World, probe
from tinyworlds.data.store import FrameStore, StoreWriter
from tinyworlds.data.truth import true_actions
from tinyworlds.evaluate import evaluate, main
from tinyworlds.maskgit import Decoding
from tinyworlds.models import Dynamics
from tinyworlds.scenes import held_out

from .square import NAMES, record

PREDICTED = {
    *(f"{who}psnr{where}_{k}" for who in ("", "copy_") for where in ("", "_moving") for k in (1, 4, 8, 16)),
    "delta_psnr_4", "delta_psnr_moving_4", "action_margin",
}  # fmt: skip
KEYS = {
    "reconstruction": {"psnr", "ssim", "psnr_moving"},
    "codes": {"used", "perplexity", "flicker"},
    "actions": {"perplexity", "nmi", "accuracy", "majority", "supervised", "control_score", "names"},
    "prediction": PREDICTED,
    "obedience": {"accuracy", "chance", "reconstructed"},
    "speed": {"frames_per_second", "parameters", "hardware", "training_seconds"},
    "evaluation": {"clips", "seed"},
    "decoding": {field.name for field in fields(Decoding)},
}
OF_THE_MACHINE = {"frames_per_second", "hardware"}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probe.RECIPE, "steps", 10)
    monkeypatch.setattr("tinyworlds.evaluate.TIMED_STEPS", 1)


@pytest.fixture
def saved(dynamics: Dynamics, tmp_path: Path) -> Path:
    """A world of random weights in a run's folder, and the store that it names."""
    path = tmp_path / "runs/square/dynamics/1/best.ckpt"
    path.parent.mkdir(parents=True)
    dataset = {**dynamics.dataset, "path": str(record(tmp_path / "square.h5", length=12)), "val_fraction": 0.34}
    hyperparameters = {**dynamics.hparams, "dataset": dataset}
    torch.save({"state_dict": dynamics.state_dict(), "hyper_parameters": hyperparameters, "stage": "dynamics"}, path)
    (path.parent / "result.json").write_text('{"checkpoint": "best.ckpt", "seconds_in_all": 61.5}')
    return path


@pytest.fixture
def measure(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the command; gives the metrics that it wrote, but those of the machine."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, folder: Path = saved.parent / "evaluation") -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["evaluate", "dataset=square", "clips=3", "steps=1", *arguments])
        main()
        found = json.loads((folder / "metrics.json").read_text())
        found["speed"] = {key: value for key, value in found["speed"].items() if key not in OF_THE_MACHINE}
        return found

    return run


def test_all_metrics_are_written_and_shown(measure, saved, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(probe.RECIPE, "steps", 150)
    record(tmp_path / "longer.h5", episodes=40, length=20)
    found = measure("dataset=chess", f"ckpt={saved}", "store=longer.h5")
    written = json.loads((saved.parent / "evaluation/metrics.json").read_text())
    assert {section: set(values) for section, values in written.items()} == {**KEYS, "reasons": set()}
    assert found["speed"]["training_seconds"] == 61.5
    assert found["speed"]["parameters"] == sum(p.numel() for p in World.load(saved).dynamics.parameters())
    assert found["obedience"]["chance"] == 1 / 4
    assert set(found["actions"]["names"]) <= {*NAMES, None}
    said = capsys.readouterr().out
    report = (saved.parent / "evaluation/report.md").read_text()
    for section, names in KEYS.items():
        for name in names:
            assert f"{section}.{name} " in said
            assert f"`{section}.{re.sub(r'_[0-9]+$', '_k', name)}`" in report
    shown = re.findall(r"!\[.*\]\((.*)\)", report)
    files = {path.name for path in (saved.parent / "evaluation").iterdir()}
    assert set(shown) == files - {"report.md", "metrics.json"}
    assert {"confusion.png", "obedience.png", "rollout.gif"} <= files


def test_it_is_written_with_what_it_was_measured(measure, dynamics):
    own = asdict(dynamics.decoding)
    found = measure("seed=2", "temperature=0.5", "show=expected")
    assert found["evaluation"] == {"clips": 3, "seed": 2}
    assert found["decoding"] == {**own, "steps": 1, "temperature": 0.5, "show": "expected"}


def test_a_second_evaluation_finds_the_same(measure, tmp_path):
    assert measure() == measure("out=elsewhere", folder=tmp_path / "elsewhere")


@pytest.mark.slow
def test_other_options_find_something_else(measure, tmp_path):
    first = measure()
    assert measure("clips=2")["prediction"] != first["prediction"]
    assert measure("temperature=0")["prediction"] != first["prediction"]
    assert measure("steps=4")["prediction"] != first["prediction"]
    seeded = measure("seed=1")
    assert seeded["prediction"] != first["prediction"]
    assert seeded["actions"]["supervised"] != first["actions"]["supervised"]
    record(tmp_path / "other.h5", episodes=3)
    assert measure("store=other.h5")["reconstruction"] != first["reconstruction"]


def test_without_true_actions_the_rest_is_measured_and_the_reason_given(measure, tmp_path):
    with h5py.File(tmp_path / "square.h5", "r+") as file:
        del file["actions"]
    found = measure()
    unknown = {f"actions.{name}" for name in KEYS["actions"] - {"perplexity"}}
    unknown |= {f"obedience.{name}" for name in KEYS["obedience"]}
    assert {key for key, reason in found["reasons"].items() if "holds no true actions" in reason} == unknown
    for key in unknown:
        section, name = key.split(".")
        assert found[section][name] is None
    assert found["actions"]["perplexity"] >= 1
    assert None not in {value for name, value in found["prediction"].items() if not name.endswith("_16")}
    assert not list(tmp_path.glob("*.probe-*"))


def test_frames_that_no_episode_has_are_not_scored(measure, tmp_path):
    record(tmp_path / "short.h5", length=11)
    found = measure("store=short.h5")
    missing = {name for name, value in found["prediction"].items() if value is None}
    assert missing == {name for name in PREDICTED if name.endswith(("_8", "_16"))}
    assert found["reasons"]["prediction.psnr_8"] == "the longest held-out episode has 11 frames, k=8 takes 12"


def test_a_shared_world_is_measured_in_its_folder_or_from_the_hub(measure, saved, hub, tmp_path):
    store = f"store={record(tmp_path / 'brief.h5', length=6, truth=False)}"
    World.load(saved).save_pretrained(tmp_path / "world")
    hub.add("models/me/world", {path.name: path.read_bytes() for path in (tmp_path / "world").iterdir()})
    wanted = measure(f"ckpt={saved}", store)
    for ckpt, folder in ((tmp_path / "world", tmp_path / "world"), ("hf://me/world", tmp_path / "runs/hub/me/world")):
        found = measure(f"ckpt={ckpt}", store, folder=folder / "evaluation")
        assert found["speed"]["training_seconds"] is None
        for section in ("reconstruction", "codes", "actions", "prediction"):
            assert found[section] == wanted[section], section


def test_a_damaged_result_is_refused_before_anything_is_measured(measure, saved, tmp_path, capfd):
    (saved.parent / "result.json").write_text('{"seconds_in_all": "long"}')
    with pytest.raises(SystemExit):
        measure(f"ckpt={saved}")
    assert "seconds_in_all=long: must be a number" in capfd.readouterr().err
    assert not list(tmp_path.glob("*.probe-*"))


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("clips=0", "clips=0"),
        ("seed=none", "seed=none"),
        ("steps=0", "steps=0"),
        ("temperature=hot", "temperature=hot"),
        ("device=gpu", "device=gpu"),
        ("ckpt=nowhere.ckpt", "no checkpoint nowhere.ckpt"),
        ("dataset=chess", "data=chess in runs/"),
        ("runs_dir=elsewhere", "data=square in elsewhere/"),
        ("store=nowhere.h5", "nowhere.h5"),
        ("store=brief.h5", "brief.h5: the longest held-out episode has 4 frames; this world sees 4"),
    ],
)
def test_a_mistake_is_named_without_a_traceback(measure, tmp_path, capfd, argument, named):
    record(tmp_path / "brief.h5", length=4)
    with pytest.raises(SystemExit):
        measure(argument)
    said = capfd.readouterr().err
    assert named in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_world_of_random_weights_controls_nothing(saved):
    world = World.load(saved)
    scores = evaluate(world, held_out(world.dynamics, store=None), clips=16, seed=0).scores.values
    assert scores["obedience.accuracy"] - scores["obedience.chance"] < 0.15
    assert scores["prediction.psnr_1"] < scores["prediction.copy_psnr_1"]


@pytest.mark.slow
def test_many_stores_are_evaluated_as_one_with_all_their_frames(saved, measure, tmp_path):
    with FrameStore(tmp_path / "square.h5") as whole:
        frames, actions = whole.read(0, 72), true_actions(whole.path, 0, 72)
    options = {"height": 16, "width": 24, "source": "a moving square", "fps": 5.0, "action_names": NAMES}
    for number, start in enumerate((0, 24, 36)):
        stop = (24, 36, 72)[number]
        with StoreWriter(tmp_path / "many" / f"{number}.h5", **options) as writer:
            for episode in range(start, stop, 12):
                writer.start_episode()
                writer.append(frames[episode : episode + 12], actions[episode : episode + 12])
    assert measure(f"store='{tmp_path}/many/*.h5'") == measure()
