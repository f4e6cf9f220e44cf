import runpy
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import contexts
from tinyworlds.command import CONF

from ..square import record

NAME = contexts.SECTION
EMPTY = f"before\n<!-- {NAME}: written by a command, do not edit -->\n<!-- end of {NAME} -->\nafter\n"


@pytest.fixture
def runs(dynamics, tmp_path: Path) -> list[str]:
    """Two worlds of random weights, one of them with other weights and positions."""
    store = record(tmp_path / "square.h5", length=26)
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


def call(monkeypatch: pytest.MonkeyPatch, page: Path, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["contexts", f"page={page}", "datasets=[square]", "clips=3", *arguments])
    runpy.run_path(str(CONF.parent / "benchmarks/contexts.py"), run_name="imported")["main"]()
    return page.read_text()


def test_each_kind_of_positions_has_a_row_with_both_windows(runs, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(EMPTY)
    text = call(monkeypatch, page, f"runs=[{','.join(runs)}]")
    assert text.startswith("before")
    assert text.endswith("after\n")
    rows = [line for line in text.splitlines() if "`square`" in line]
    assert [row.split("|")[1].strip() for row in rows] == ["`alibi`", "`sincos`"]
    trained, longer = contexts.windows(Path(runs[0], "square/dynamics/2026-01-01/best.ckpt"), times=2, clips=3, seed=0)
    assert trained["copy_psnr_1"] == longer["copy_psnr_1"]  # the same frames
    assert trained["psnr_1"] != longer["psnr_1"]
    assert contexts.cell("psnr_1", [(trained, longer)]) in rows[1]


def test_a_figure_is_that_of_the_longer_window_and_its_gain():
    pairs = [
        ({"psnr_1": 20.0}, {"psnr_1": 20.5}),
        ({"psnr_1": 21.0}, {"psnr_1": 20.0}),
        ({"psnr_1": None}, {"psnr_1": 1.0}),
    ]
    assert contexts.cell("psnr_1", pairs) == "20.50 (+0.50) · 20.00 (-1.00) · –"


@pytest.mark.parametrize(
    ("argument", "named"),
    [
        ("runs=nowhere", "runs=nowhere: give a list, as runs=[one,another]"),
        ("runs=[nowhere]", "no finished dynamics of data=square in nowhere/"),
        ("times=1 runs=[nowhere]", "times=1: must be a whole number of at least 2"),
        ("page=other.md runs=[nowhere]", "other.md must hold the lines"),
    ],
)
def test_a_mistake_is_named_without_a_traceback(tmp_path, monkeypatch, capsys, argument, named):
    page = tmp_path / "page.md"
    page.write_text(EMPTY)
    with pytest.raises(SystemExit):
        call(monkeypatch, page, *argument.split())
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1
