"""`python -m benchmarks.ablations`, with a game of squares and a second of training."""

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from benchmarks import ablation_results, ablations, measure
from benchmarks.ablation_page import SUMMARY, section
from benchmarks.ablation_trials import DECODING, NEEDED, composed, unlike_reference
from tests import square
from tests.processes import end_of, start
from tinyworlds import probe
from tinyworlds.checkpoints import save_stage
from tinyworlds.command import CONF, build
from tinyworlds.data.store import StoreWriter
from tinyworlds.media import enlarge
from tinyworlds.models import STAGES, Dynamics
from tinyworlds.plan import untrained

LIST = OmegaConf.to_container(OmegaConf.load(CONF / "ablations.yaml"))
VARIANTS = LIST["variants"]


@pytest.fixture
def game(tmp_path: Path) -> Path:
    """A recording of random play, with the true actions, in frames of 32x48."""
    actions = np.random.default_rng(0).integers(0, 4, (6, 40))
    options = {"height": 32, "width": 48, "source": "a moving square", "action_names": square.NAMES}
    with StoreWriter(tmp_path / "square.h5", **options) as writer:
        for frames, taken in zip(square.play(actions[:, :-1]), actions, strict=True):
            writer.start_episode()
            writer.append(enlarge(frames, 2), taken)
    return tmp_path / "square.h5"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs the command in an empty folder, with one seed; gives what the file of results then holds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(probe.RECIPE, "steps", 10)
    monkeypatch.setattr("tinyworlds.evaluate.TIMED_STEPS", 1)
    names = [SUMMARY, *map(section, VARIANTS)]
    Path("page.md").write_text("\n".join(f"{measure._begin(name)}\n{measure._end(name)}" for name in names))

    def run(*options: str) -> dict[str, Any]:
        common = ["games=[video]", "seeds=[0]", "finished=[runs/seed0]", "clips=2", "page=page.md", "results=kept.json"]
        monkeypatch.setattr("sys.argv", ["ablations", *common, *options])
        ablations.main()
        return ablation_results.read(Path("kept.json"))

    return run


@pytest.fixture
def finished(dynamics: Dynamics, tmp_path: Path) -> Path:
    """Dynamics of random weights, as those of a run that has finished."""
    dataset = {**dynamics.dataset, "name": "video", "path": str(square.record(tmp_path / "square.h5", length=12))}
    dynamics.hparams["dataset"] = dynamics.dataset = {**dataset, "val_fraction": 0.34}
    folder = tmp_path / "runs/seed0/video/dynamics/1"
    folder.mkdir(parents=True)
    save_stage(dynamics, folder / "best.ckpt")
    (folder / "result.json").write_text('{"checkpoint": "best.ckpt"}')
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", VARIANTS)
def test_every_variant_is_built_and_is_unlike_every_other(stage):
    known = {}
    learner = "dynamics" if stage == DECODING else stage
    tokenizers = {name: composed((f"stage={name}",)) for name in NEEDED.get(learner, ())}
    baseline = LIST["baseline"].get(stage, [])
    for name, own in VARIANTS[stage].items():
        options = [*baseline, *own]
        setting = unlike_reference(learner, tuple(options))
        assert setting not in known.values(), f"{name} is {next(n for n, s in known.items() if s == setting)}"
        known[name] = setting
        config = composed((f"stage={learner}", *options))
        with torch.device("meta"):
            built = untrained({**tokenizers, learner: config}, size=(64, 64))[learner]
        build(config.lr_schedule)(build(config.optimizer)(built), total_steps=100)
    assert known["laptop"] == unlike_reference(learner, tuple(baseline))


@pytest.mark.slow
def test_every_stage_is_trained_measured_and_shown_once(call, game, entry_point, tmp_path):
    tiny = ["data.path=square.h5", "size=tiny", "data.batch_size=4"]
    entry_point("train.py", "data=video", *tiny, "trainer.max_steps=3", "validations=1", "runs_dir=runs/seed0")
    options = ("only=[laptop,taken]", "seconds=1", "timing=1", f"options={json.dumps(tiny)}")
    found = call(*options)
    trials = {(trial["stage"], trial["variant"]): trial for trial in found["trials"]}
    assert set(trials) == {*((stage, "laptop") for stage in (*STAGES, DECODING)), (DECODING, "taken")}
    timings = {timing["stage"]: timing["seconds_per_step"] for timing in found["timings"]}
    for stage in STAGES:
        trial = trials[stage, "laptop"]
        assert trial["steps"] == max(int(1 / timings[stage]), 1)
        assert trial["cpu_seconds"] > 0
        (run,) = Path("runs/ablations/laptop/seed0/video", stage).glob("*/result.json")
        assert f"trainer.max_steps={trial['steps']}" in json.loads(run.read_text())["command"]
    assert trials["video_tokenizer", "laptop"]["metrics"].keys() >= {"reconstruction.psnr_moving", "codes.used"}
    assert trials["action_tokenizer", "laptop"]["metrics"].keys() >= {"actions.control_score", "actions.nmi"}
    for stage in ("dynamics", DECODING):
        assert trials[stage, "laptop"]["metrics"].keys() >= {"prediction.psnr_4", "obedience.accuracy"}
    own, other = (trials[stage, "laptop"]["metrics"] for stage in ("dynamics", DECODING))
    assert own["reconstruction.psnr"] == other["reconstruction.psnr"]  # by the same tokenizer
    page = Path("page.md").read_text()
    assert "Not measured" not in re.sub(f"{SUMMARY}.*?end of", "", page, flags=re.S)
    assert page.count("| laptop ") == 4
    (by_hand,) = re.findall(r"^python train.py -m stage=dynamics .*$", page, flags=re.M)
    assert " ".join(LIST["baseline"]["dynamics"]) in by_hand
    assert {str(path) for path in Path("pictures").iterdir()} == set(re.findall(r"\((pictures/.*?)\)", page))

    before = Path("kept.json").read_bytes()
    call(*options)
    assert Path("kept.json").read_bytes() == before


@pytest.mark.slow
def test_steps_are_as_many_as_the_cpu_of_the_timings_has_time_for(call, game, entry_point, capsys):
    stage = ("stages=[video_tokenizer]", "only=[laptop]", "seconds=1")
    options = (*stage, 'options=["data.path=square.h5","size=tiny","data.batch_size=4"]')
    found = call(*options, "measure=timings", "timing=1")
    (timing,) = found["timings"]
    assert found["trials"] == []
    another = {**timing, "hardware": "a slow one", "seconds_per_step": 0.34}
    ablation_results.add(Path("kept.json"), "timings", another)
    (trial,) = call(*options, "timed_on=a slow one")["trials"]
    assert trial["steps"] == 2
    with pytest.raises(SystemExit):
        call(*options, "timed_on=none", "results=other.json")
    assert "other.json has no timing of it on none" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_at_once_share_the_work(call, finished, capfd):
    only = "only=[laptop,taken,steps_1,likeliest,halton]"
    children = [start(lambda: call("stages=[decoding]", only)) for _ in range(2)]
    assert [end_of(child) for child in children] == [0, 0]
    done = re.findall(r"^\d/5: decoding (\w+)", capfd.readouterr().out, re.M)
    assert sorted(done) == ["halton", "laptop", "likeliest", "steps_1", "taken"]
    assert len(call("measure=false")["trials"]) == 5


@pytest.mark.slow
def test_what_was_under_way_when_a_process_was_killed_is_measured_by_the_next(call, finished, tmp_path):
    folder = tmp_path / "runs/ablations/laptop/seed0/video/decoding"

    def hold() -> None:
        with ablations.locked(folder) as free:
            assert free
            os.kill(os.getpid(), signal.SIGSTOP)

    folder.mkdir(parents=True)
    child = start(hold)
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    assert call("stages=[decoding]", "only=[laptop]")["trials"] == []
    os.kill(child, signal.SIGKILL)
    end_of(child)
    (trial,) = call("stages=[decoding]", "only=[laptop]")["trials"]
    assert trial["setting"]["clips"] == 2
    (trial,) = call("stages=[decoding]", "only=[laptop]", "clips=3")["trials"]  # another setting
    assert trial["setting"]["clips"] == 3


def test_what_a_variant_is_does_not_depend_on_keys_that_it_has_as_published():
    setting = unlike_reference("video_tokenizer", ("optimizer=muon",))
    assert setting["optimizer._target_"] == "tinyworlds.optim.muon"
    assert setting["stage.norm"] == "pre"
    assert not {"stage.qk_norm", "optimizer.weight_decay", "data.path", "trainer.max_steps"} & set(setting)


def test_divergence_is_told_from_other_mistakes(entry_point, small_store, capfd):
    options = ["data=video", f"data.path={small_store}", "stage=video_tokenizer", "data.batch_size=4"]
    for mistake, diverged in (("callbacks.divergence.max_loss=1e-9", True), ("optimizer.lr=-1", False)):
        with pytest.raises(SystemExit):
            entry_point("train.py", *options, "trainer.max_steps=4", mistake)
        assert bool(ablations.DIVERGED.search(capfd.readouterr().err)) == diverged


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("seconds=0", "seconds=0: must be a number of at least 0.1"),
        ("clips=0", "clips=0: must be a whole number"),
        ("measure=1", "measure=1 must be true, false or timings"),
        ("device=tpu", "device=tpu: must be cpu or cuda"),
        ("games=pong", "games=pong: give a list, as games=[…]"),
        ("only=[foo]", "only: foo is no variant of"),
        ("+baseline.foo=[]", "give lists of options by stage"),
        ("stages=[foo]", "stages: foo is none of video_tokenizer, action_tokenizer, dynamics, decoding"),
        ("seeds=[0,1]", "give one runs_dir for each of seeds=[0, 1]"),
        ("stages=[dynamics]", "no finished video_tokenizer of data=video in runs/seed0/"),
        ("page=nothing.md", "nothing.md must hold the lines"),
    ],
)
def test_a_mistake_is_one_sentence(call, option, said, capsys):
    with pytest.raises(SystemExit):
        call(option)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert not Path("kept.json").exists()
