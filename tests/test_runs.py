import os
from pathlib import Path

from omegaconf import OmegaConf

from tinyworlds.runs import LOCK, claimed, continued, discard, save_config, unfinished

from .processes import end_of, start


def test_runs_that_begin_in_the_same_instant_get_folders_of_their_own(tmp_path):
    """Processes that are let go at once, each of which holds its folder until all have one."""
    go, let_go = os.pipe()
    names, tell = os.pipe()
    end, let_end = os.pipe()

    def run() -> None:
        os.close(let_go)
        os.close(let_end)
        os.read(go, 1)
        with claimed(tmp_path / "now") as folder:
            save_config(OmegaConf.create({"seed": os.getpid()}), folder)
            os.write(tell, f"{folder.name}\n".encode())
            os.read(end, 1)

    runs = [start(run) for _ in range(8)]
    os.close(let_go)
    os.close(tell)
    said = b""
    while said.count(b"\n") < len(runs):
        said += os.read(names, 1000)
    os.close(let_end)
    assert [end_of(run) for run in runs] == [0] * len(runs)
    assert sorted(said.decode().split()) == sorted(["now", *(f"now-{number}" for number in range(2, 9))])
    seeds = {OmegaConf.load(path).seed for path in tmp_path.glob("*/config.yaml")}
    assert seeds == set(runs)
    for handle in (go, names, end):
        os.close(handle)


def test_the_newest_run_of_a_config_that_nobody_trains_is_found(tmp_path):
    config = OmegaConf.create({"seed": 1, "data": {"num_workers": 0}})

    def make(name: str, **values: int) -> Path:
        with claimed(tmp_path / name) as folder:
            save_config(OmegaConf.merge(config, values), folder)
            (folder / "last.ckpt").touch()
        return folder

    old, new, _ = make("2026-01-01"), make("2026-01-02"), make("2026-01-03", seed=2)
    member = make("2026-01-04/0")
    (make("2026-01-05") / "result.json").touch()
    (make("2026-01-06") / "last.ckpt").unlink()

    def found() -> Path | None:
        return unfinished(tmp_path, OmegaConf.merge(config, {"data": {"num_workers": 2}}), needs="last.ckpt")

    assert found() == member
    with continued(member):
        assert found() == new
        with continued(new):
            assert found() == old
    assert found() == member


def test_what_something_was_kept_in_is_not_discarded(tmp_path):
    with claimed(tmp_path / "runs" / "kept") as kept, claimed(tmp_path / "runs" / "empty") as empty:
        (kept / "best.ckpt").touch()
    discard(kept, LOCK)
    assert (kept / "best.ckpt").exists()
    assert not empty.exists()  # refused before it began
    empty.mkdir()
    (empty / LOCK).touch()
    discard(empty)
    assert (empty / LOCK).exists()
    discard(empty, LOCK)
    assert not empty.exists()
