import runpy
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import contexts
from tinyworlds.checkpoints import load_stage
from tinyworlds.command import CONF
from tinyworlds.models import Dynamics

from ..square import record

NAME = contexts.SECTION
EMPTY = f"before\n<!-- {NAME}: written by a command, do not edit -->\n<!-- end of {NAME} -->\nafter\n"


@pytest.fixture
def runs(dynamics, tmp_path: Path) -> list[str]:
    """Two worlds of random weights, one of them with other weights and positions."""
    store = record(tmp_path / "square.h5", length=30)
    dataset = {**dynamics.dataset, "name": "square", "path": str(store), "val_fraction": 0.34}
    for seed, positions in enumerate(("sincos", "alibi")):
        folder = tmp_path / f"seed{seed}/square/dynamics/2026-01-01"
        folder.mkdir(parents=True)
        options = {**dynamics.hparams, "dataset": dataset, "positions": positions}
        checkpoint = {"state_dict": dynamics.state_dict(), "hyper_parameters": options, "stage": "dynamics"}
        torch.save(checkpoint, folder / "best.ckpt")
        (folder / "result.json").write_text('{"checkpoint": "best.ckpt"}')
        torch.nn.init.normal_(dynamics.to_logits.weight)
    return [str(tmp_path / f"seed{seed}") for seed in range(2)]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    page.write_text(EMPTY)
    return page


def call(monkeypatch: pytest.MonkeyPatch, page: Path, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["contexts", f"page={page}", "datasets=[square]", "clips=3", *arguments])
    runpy.run_path(str(CONF.parent / "benchmarks/contexts.py"), run_name="imported")["main"]()
    return page.read_text()


def test_each_kind_of_positions_has_a_row_with_both_windows(runs, page, monkeypatch):
    text = call(monkeypatch, page, f"runs=[{','.join(runs)}]")
    assert text.startswith("before")
    assert text.endswith("after\n")
    rows = [line for line in text.splitlines() if "`square`" in line]
    assert [row.split("|")[1].strip() for row in rows] == ["`alibi`", "`sincos`"]
    dynamics = load_stage(Path(runs[0], "square/dynamics/2026-01-01/best.ckpt"), Dynamics)
    films = contexts.films_for(dynamics, times=2, clips=3, seed=0)
    trained, longer = contexts.windows(dynamics, films, times=2, seed=0)
    assert trained["copy_psnr_1"] == longer["copy_psnr_1"]  # the same frames
    assert trained["psnr_1"] != longer["psnr_1"]
    assert contexts.cell("psnr_1", [(trained, longer)]) in rows[1]
    assert dynamics.context_length == 4


@pytest.mark.parametrize("other", ["times=3", "clips=2", "seed=1"])
def test_other_options_find_something_else(runs, page, monkeypatch, other):
    rows = [
        [line for line in call(monkeypatch, page, f"runs=[{runs[0]}]", *arguments).splitlines() if "`square`" in line]
        for arguments in ([], [other])
    ]
    assert rows[0] != rows[1]


def test_a_figure_is_that_of_the_longer_window_and_its_gain():
    pairs = [(20.0, 20.5), (21.0, 20.0), (None, 1.0)]
    worlds = [({"psnr_1": trained}, {"psnr_1": longer}) for trained, longer in pairs]
    assert contexts.cell("psnr_1", worlds) == "20.50 (+0.50) · 20.00 (-1.00) · –"


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("runs=nowhere", "runs=nowhere: give a list, as runs=[…]"),
        ("runs=[nowhere]", "no finished dynamics of data=square in nowhere/"),
        ("times=1 runs=[nowhere]", "times=1: must be a whole number of at least 2"),
        ("page=other.md runs=[nowhere]", "other.md must hold the lines"),
        ("times=4 runs=[RUN]", "times=4: windows of 16 frames and 16 to imagine are more than the longest held-out"),
    ],
)
def test_a_mistake_is_named_without_a_traceback(runs, page, monkeypatch, capsys, argument, named):
    with pytest.raises(SystemExit):
        call(monkeypatch, page, *argument.replace("RUN", runs[0]).split())
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1
