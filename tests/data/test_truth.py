import ast
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.truth import true_actions

from .conftest import WriteStore

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"


def test_actions_are_those_taken_after_each_frame(write_store: WriteStore) -> None:
    assert true_actions(write_store(6, 6), 4, 8).tolist() == [1, 2, 0, 1]


def test_a_store_without_actions_is_named(write_store: WriteStore) -> None:
    with pytest.raises(ValueError, match=r"frames\.h5 holds no true actions"):
        true_actions(write_store(6, action_names=None), 0, 6)


def test_actions_beyond_the_file_are_refused(write_store: WriteStore) -> None:
    with pytest.raises(ValueError, match="has 6 actions"):
        true_actions(write_store(6), 2, 7)


def module_file(name: str) -> Path | None:
    base = SOURCE.joinpath(*name.split("."))
    return next((file for file in (base / "__init__.py", base.with_suffix(".py")) if file.exists()), None)


def imports(file: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it and in either form."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports are not followed here"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "tinyworlds" and module_file(name)}


def reachable(entries: set[str]) -> set[str]:
    """The modules that importing `entries` runs, packages above them included."""
    found: set[str] = set()
    waiting = set(entries)
    while waiting:
        name = waiting.pop()
        file = module_file(name)
        if name in found or file is None:
            continue
        found.add(name)
        waiting |= imports(file) | {name.rpartition(".")[0]} - {""}
    return found


def configured_modules() -> set[str]:
    targets = set()
    for file in (ROOT / "conf").rglob("*.yaml"):
        targets |= set(re.findall(r"_target_:\s*(tinyworlds[\w.]+)", file.read_text()))
    return {target.rpartition(".")[0] for target in targets}


def test_nothing_that_training_reaches_can_read_true_actions() -> None:
    modules = reachable(imports(ROOT / "train.py") | configured_modules())
    assert {"tinyworlds.data.store", "tinyworlds.data.clips", "tinyworlds.data.datamodules"} <= modules
    assert "tinyworlds.data.truth" not in modules


def test_the_walk_would_find_an_import_of_the_truth(tmp_path: Path) -> None:
    for line in ("from tinyworlds.data.truth import true_actions", "from tinyworlds.data import truth"):
        (tmp_path / "entry.py").write_text(f"def f():\n    {line}\n")
        assert "tinyworlds.data.truth" in reachable(imports(tmp_path / "entry.py"))


def test_only_the_truth_reads_the_actions_of_a_file() -> None:
    reading = re.compile(r"""(\[|file\.get\(|Rows\(.*|dataset\(file, )["']actions["']""")
    files = [file.name for file in SOURCE.rglob("*.py") if reading.search(file.read_text())]
    assert sorted(files) == ["recording.py", "truth.py"]  # the first, of the log of a session in a learned world


def batches(path: Path) -> list[torch.Tensor]:
    data = ClipDataModule(
        name="test",
        path=str(path),
        clip_length=4,
        clip_stride=1,
        batch_size=8,
        num_workers=0,
        cache_tokens=False,
        val_fraction=0.2,
        seed=3,
    )
    data.setup()
    return [*data.train_dataloader(), *data.val_dataloader()]


def test_no_batch_depends_on_the_true_actions(write_store: WriteStore, tmp_path: Path) -> None:
    original = write_store(20, 20, 20)
    scrambled, removed = tmp_path / "scrambled.h5", tmp_path / "removed.h5"
    for path in (scrambled, removed):
        shutil.copy(original, path)
        with h5py.File(path, "r+") as file:
            del file["actions"]
    with h5py.File(scrambled, "r+") as file:
        file["actions"] = np.random.default_rng(0).integers(0, 99, 60)
    expected = batches(original)
    assert len(expected) > 5
    for path in (scrambled, removed):
        for ours, theirs in zip(expected, batches(path), strict=True):
            assert torch.equal(ours, theirs)
