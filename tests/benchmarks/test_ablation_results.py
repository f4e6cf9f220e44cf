"""The file of results of ablations."""

import json
from pathlib import Path

import pytest

from benchmarks import ablation_results
from tests.processes import end_of, start


def trial(seed: int, **more: object) -> dict[str, object]:
    own = {
        "stage": "dynamics",
        "variant": "rope",
        "game": "pong",
        "seed": seed,
        "seconds": 300.0,
        "setting": {"clips": 2},
    }
    return {**own, "metrics": {}, **more}


def test_there_is_one_entry_of_a_name_and_it_is_found_by_its_setting(tmp_path: Path):
    path = tmp_path / "kept.json"
    for entry in (trial(0), trial(1), trial(0, metrics={"psnr": 1.5}, setting={"clips": 3})):
        ablation_results.add(path, "trials", entry)
    assert len(ablation_results.read(path)["trials"]) == 2
    assert ablation_results.find(path, "trials", trial(0)) is None
    assert ablation_results.find(path, "trials", trial(0, setting={"clips": 3}))["metrics"] == {"psnr": 1.5}
    assert ablation_results.find(path, "trials", trial(1, seconds=900.0)) is None
    lines = [line for line in path.read_text().splitlines() if "rope" in line]
    assert [json.loads(line.rstrip(","))["seed"] for line in lines] == [0, 1]


def test_nothing_is_lost_when_processes_add_at_once(tmp_path: Path):
    path = tmp_path / "kept.json"

    def add(first: int) -> None:
        for seed in range(first, first + 20):
            ablation_results.add(path, "trials", trial(seed))

    children = [start(lambda first=first: add(first)) for first in (0, 20, 40)]
    assert [end_of(child) for child in children] == [0, 0, 0]
    assert {entry["seed"] for entry in ablation_results.read(path)["trials"]} == set(range(60))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"trials": 3}), json.dumps({"trials": [], "timings": [1]})])
def test_another_file_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "kept.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"kept\.json holds no results of ablations"):
        ablation_results.read(path)
