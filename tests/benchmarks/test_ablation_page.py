"""The tables of ablations, from results with known differences."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import measure
from benchmarks.ablation_page import SUMMARY, section, write

VARIANTS = {"video_tokenizer": ["laptop", "rope", "soap", "wsd", "muon"], "decoding": ["laptop", "taken"]}


def trial(variant: str, game: str, seed: int, psnr: float | None, **more: Any) -> dict[str, Any]:
    own = {"stage": "video_tokenizer", "variant": variant, "game": game, "seed": seed, "seconds": 300.0}
    options = [] if variant == "laptop" else [f"stage.kind={variant}"]
    metrics = {"reconstruction.psnr_moving": psnr, "reconstruction.psnr": 40.0, "codes.used": 99}
    came = {"steps": 1000, "cpu_seconds": 301.2, "commit": "abc", "hardware": "a laptop", "metrics": metrics}
    return {**own, "setting": {"options": options}, **came, **more}


ENTRIES = [
    *(trial("laptop", game, seed, 30.0 + seed) for game in ("pong", "doom") for seed in (0, 1)),
    *(trial("rope", game, seed, 30.25 + seed) for game in ("pong", "doom") for seed in (0, 1)),
    *(trial("wsd", game, seed, 29 + 2 * seed) for game in ("pong", "doom") for seed in (0, 1)),
    *(trial("soap", game, 0, 20.0) for game in ("pong", "doom")),
    *(trial("muon", game, 0, 20.0) for game in ("pong", "doom")),
    *(trial("muon", game, 1, None, failed="the loss is nan at step 9", metrics={}) for game in ("pong", "doom")),
    trial("laptop", "pong", 0, 35.0, seconds=900.0),
]


@pytest.fixture
def text(tmp_path: Path) -> str:
    page = tmp_path / "page.md"
    names = [SUMMARY, *map(section, VARIANTS)]
    page.write_text("\n".join(f"{measure._begin(name)}\n{measure._end(name)}" for name in names))
    write(page, ENTRIES, VARIANTS)
    return page.read_text()


def test_a_cell_has_every_seed_and_the_mean_difference(text):
    assert "| laptop | 1000 | 301 | 30.00 · 31.00 | 40.00 · 40.00 | 99 · 99 |" in text
    row = "| rope `stage.kind=rope` | 1000 | 301 | 30.25 · 31.25 (+0.25) | 40.00 · 40.00 (+0.00) | 99 · 99 (+0) |"
    assert text.count(row) == 2
    assert "| 29.00 · 31.00 (-0.50) |" in text
    assert "| 20.00 · diverged (-10.00) |" in text
    assert "| soap `stage.kind=soap` | 1000 | 301 | 20.00 (-10.00) |" in text


def test_of_steps_taken_by_a_gpu_no_processor_time_is_told(tmp_path):
    page = tmp_path / "page.md"
    names = (SUMMARY, section("video_tokenizer"))
    page.write_text("\n".join(f"{measure._begin(name)}\n{measure._end(name)}" for name in names))
    entry = trial("laptop", "pong", 0, 30.0, hardware="a GPU")
    del entry["cpu_seconds"]
    write(page, [entry], {"video_tokenizer": ["laptop"]})
    assert "As many steps each as a CPU has time for in 300 s. a GPU; commit abc." in page.read_text()
    assert "CPU s" not in page.read_text()
    assert "| laptop | 1000 | 30.00 | 40.00 | 99 |" in page.read_text()


def test_budgets_stand_apart_and_what_is_not_measured_is_left_out(text):
    assert text.index("300 s of CPU time") < text.index("900 s of CPU time")
    assert "| laptop | 1000 | 301 | 35.00 | 40.00 | 99 |" in text
    assert text.count("Not measured yet.") == 1
    assert "taken" not in text


def test_what_won_did_so_with_every_seed_on_every_game(text):
    said = text[text.index(SUMMARY) : text.index(f"end of {SUMMARY}")]
    assert "- better with every seed on every game: rope (pong +0.25, doom +0.25)\n" in said
    assert "- worse with every seed on every game: muon (diverged)\n" in said
    assert "wsd" not in said  # better with one seed, worse with the other
    assert "soap" not in said  # one seed is missing
    assert "3 variants" in said
    assert "By luck alone 0.2 would be" in said


def test_the_plot_is_drawn_where_there_is_something_to_compare(text, tmp_path):
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["ablations_video_tokenizer_300.png"]


def test_the_command_trains_a_row_on_all_games_with_all_seeds(text):
    command = "python train.py -m stage=video_tokenizer data=pong,doom seed=0,1 trainer=cpu"
    assert command in text
    assert "validations=1 trainer.max_steps=1000 stage.kind=rope\n" in text


def test_what_the_laptop_was_otherwise_is_said_and_goes_before_the_options_of_a_row(tmp_path):
    page = tmp_path / "page.md"
    names = (SUMMARY, section("decoding"))
    page.write_text("\n".join(f"{measure._begin(name)}\n{measure._end(name)}" for name in names))
    before = "stage.decoding.top_p=1"
    entries = [
        {
            **trial(variant, "pong", 0, None, stage="decoding", seconds=None),
            "setting": {"options": options, "baseline": [before]},
        }
        for variant, options in {"laptop": [], "taken": ["stage.decoding.show=taken"]}.items()
    ]
    of_another_laptop = trial("halton", "pong", 0, None, stage="decoding", seconds=None)
    write(page, [of_another_laptop, *entries], {"decoding": VARIANTS["decoding"]})
    assert f"All, but where a row says otherwise, with `{before}`." in page.read_text()
    assert "| taken `stage.decoding.show=taken` |" in page.read_text()
    assert "halton" not in page.read_text()
    assert "dataset=pong runs_dir=runs/seed0 top_p=1 show=taken\n" in page.read_text()
