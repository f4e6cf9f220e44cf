from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from teaching.__main__ import FIGURES, FOLDER, main

SAME = 2.0
"""Grey levels by which a figure may differ on another processor, which rounds otherwise, on average."""


def test_every_figure_is_shown_and_small() -> None:
    pages = "".join(page.read_text() for page in FOLDER.parent.glob("*.md"))
    assert [name for name in FIGURES if f"pictures/{name}" not in pages] == []
    assert sum((FOLDER / name).stat().st_size for name in FIGURES) < 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_what_the_code_draws_today(name: str, tmp_path: Path) -> None:
    FIGURES[name](tmp_path / name)
    with Image.open(tmp_path / name) as drawn, Image.open(FOLDER / name) as kept:
        assert (drawn.size, getattr(drawn, "n_frames", 1)) == (kept.size, getattr(kept, "n_frames", 1))
        last = getattr(drawn, "n_frames", 1) - 1
        drawn.seek(last)
        kept.seek(last)
        difference = np.abs(np.array(drawn.convert("RGB"), int) - np.array(kept.convert("RGB")))
    assert difference.mean() < SAME, "make figures draws it again"


def test_a_figure_that_is_not_known_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["teaching", "attention.png"])
    with pytest.raises(
        SystemExit, match=r"^error: there is no figure attention\.png: choose of attention_masks\.png, "
    ):
        main()
