import json
import runpy
import sys
from pathlib import Path

import pytest

from benchmarks import quality
from tinyworlds.command import CONF


def measured(control: float) -> dict[str, dict[str, float]]:
    ks = {f"{copy}psnr{moving}_{k}": 20.0 for copy in ("", "copy_") for moving in ("", "_moving") for k in (1, 16)}
    return {
        "reconstruction": {"psnr_moving": 30.0},
        "actions": {"control_score": control},
        "prediction": ks | {"psnr_1": 23.0, "psnr_moving_16": 19.0, "delta_psnr_4": 1.0},
        "obedience": {"accuracy": 0.6, "chance": 0.25},
    }


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    for seed, control in enumerate((0.5, 0.9, 0.6)):
        run = tmp_path / f"seed{seed}/game/dynamics/2026-01-01"
        (run / "evaluation").mkdir(parents=True)
        (run / "config.yaml").write_text(f"seed: {seed}\n")
        (run / "result.json").write_text(json.dumps({"checkpoint": "best.ckpt"}))
        (run / "evaluation/metrics.json").write_text(json.dumps(measured(control)))
    return [str(tmp_path / f"seed{seed}") for seed in range(3)]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["quality", "section=laptop", "datasets=[game]", *arguments])
    runpy.run_path(str(CONF.parent / "benchmarks/quality.py"), run_name="imported")["main"]()


def test_the_median_and_every_seed_are_written_between_the_markers(runs, tmp_path, monkeypatch):
    page = tmp_path / "results.md"
    name = "quality of laptop"
    page.write_text(f"before\n<!-- {name}: written by a command, do not edit -->\n<!-- end of {name} -->\nafter\n")
    for some in (runs[:1], runs[1:]):
        call(monkeypatch, f"page={page}", f"results={tmp_path}/quality.json", f"runs=[{','.join(some)}]")
    text = page.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "| `actions.control_score` | 0.60 (0.50, 0.90, 0.60) |" in text
    assert "| `prediction.psnr_1` − `copy_psnr_1`, dB | 3.0 (3.0, 3.0, 3.0) |" in text
    assert "| `psnr_moving_16` − `copy_psnr_moving_16`, dB | -1.0 (-1.0, -1.0, -1.0) |" in text
    assert "| `obedience.accuracy` − `chance` | 0.35 (0.35, 0.35, 0.35) |" in text


def test_a_world_that_was_not_evaluated_is_named(runs):
    path = next(Path(runs[1]).rglob("metrics.json"))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"evaluate dataset=game runs_dir=.*seed1"):
        quality.by_seed(runs, "game")


def test_worlds_of_before_are_dropped_where_they_are_not_kept(runs, tmp_path, monkeypatch):
    page = tmp_path / "results.md"
    name = "quality of laptop"
    page.write_text(f"<!-- {name}: written by a command, do not edit -->\n<!-- end of {name} -->\n")
    for run, keep in ((runs[0], "true"), (runs[1], "false")):
        call(monkeypatch, f"page={page}", f"results={tmp_path}/quality.json", f"runs=[{run}]", f"keep={keep}")
    assert "| `actions.control_score` | 0.90 |" in page.read_text()


def test_kept_worlds_without_a_figure_are_named(runs, tmp_path, monkeypatch, capsys):
    page = tmp_path / "results.md"
    name = "quality of laptop"
    page.write_text(f"<!-- {name}: written by a command, do not edit -->\n<!-- end of {name} -->\n")
    (tmp_path / "quality.json").write_text(json.dumps({"laptop": {"game": {"7": {"actions": {}}}}}))
    with pytest.raises(SystemExit):
        call(monkeypatch, f"page={page}", f"results={tmp_path}/quality.json", f"runs=[{runs[0]}]")
    assert "quality.json keeps worlds without figures of the table" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["runs", "datasets"])
@pytest.mark.parametrize("value", ["one", "[]", "null"])
def test_what_is_no_list_is_named(tmp_path, monkeypatch, capsys, name, value):
    page = tmp_path / "results.md"
    section = "quality of laptop"
    page.write_text(f"<!-- {section}: written by a command, do not edit -->\n<!-- end of {section} -->\n")
    with pytest.raises(SystemExit):
        call(monkeypatch, f"page={page}", f"results={tmp_path}/quality.json", "runs=[some]", f"{name}={value}")
    said = capsys.readouterr().err
    assert said.startswith(f"error: {name}=")
    assert ("give at least one" if value == "[]" else f"give a list, as {name}=[…]") in said
    assert said.count("\n") == 1


def test_two_worlds_of_one_seed_and_a_world_without_a_figure_are_refused(runs):
    with pytest.raises(ValueError, match=r"two worlds of game are of seed 1"):
        quality.by_seed([runs[1], runs[1]], "game")
    path = next(Path(runs[2]).rglob("metrics.json"))
    path.write_text(json.dumps({**measured(0.6), "actions": {"control_score": None}}))
    with pytest.raises(ValueError, match=r"seed2/.*/metrics\.json lacks figures"):
        quality.by_seed(runs, "game")
