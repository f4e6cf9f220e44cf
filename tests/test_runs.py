import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tinyworlds.runs import LOCK, check_same, claimed, continued, discard, run_folder, save_config, unfinished

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


def begun(folder: Path, **values: object) -> Path:
    """A run that was killed."""
    with claimed(folder) as kept:
        save_config(OmegaConf.create(values), kept)
        (kept / "last.ckpt").touch()
    return kept


def test_runs_that_are_damaged_or_can_not_be_written_to_are_passed_over(tmp_path):
    config = OmegaConf.create({"seed": 1})
    mine, foreign = begun(tmp_path / "2026-01-01", seed=1), begun(tmp_path / "2026-01-02", seed=1)
    for number, damage in enumerate(("seed: [", "seed: ${nowhere}", "- seed", "\0")):
        (begun(tmp_path / f"2026-01-03-{number}", seed=1) / "config.yaml").write_text(damage)
    assert unfinished(tmp_path, config, needs="last.ckpt") == foreign
    (foreign / LOCK).unlink()
    (foreign / LOCK).mkdir()  # root could write to anything else
    assert unfinished(tmp_path, config, needs="last.ckpt") == mine
    for hold in (continued, claimed):
        with pytest.raises(ValueError, match=f"{foreign} can't be written to: Is a directory"), hold(foreign):
            pass


def test_a_run_goes_on_when_its_store_has_moved(tmp_path):
    folder = begun(
        tmp_path / "run", data={"path": "/old/disk/game.h5", "copies": "/old/disk/game"}, data_dir="/old/disk"
    )
    here = {"data": {"path": "/new/game.h5", "copies": "/new/game"}, "data_dir": "/new"}
    check_same(folder, OmegaConf.create(here))
    with pytest.raises(ValueError, match=r"data.path=/old/disk/game.h5 there, /new/other.h5 here"):
        check_same(folder, OmegaConf.merge(here, {"data": {"path": "/new/other.h5"}}))


def test_a_run_goes_on_when_the_class_of_its_data_has_another_name(tmp_path):
    folder = begun(tmp_path / "run", data={"_target_": "tinyworlds.data.datamodules.AtariPong", "name": "atari_pong"})
    check_same(folder, OmegaConf.create({"data": {"_target_": "tinyworlds.data.Atari", "name": "atari_pong"}}))
    with pytest.raises(ValueError, match=r"data\.name=atari_pong there, atari_boxing here"):
        check_same(folder, OmegaConf.create({"data": {"_target_": "tinyworlds.data.Atari", "name": "atari_boxing"}}))


def test_a_run_of_all_stages_is_found_through_links(tmp_path):
    runs = tmp_path / "runs"
    runs.symlink_to("disk")
    for stage in ("all", "dynamics"):
        begun(tmp_path / f"disk/video/{stage}/now", seed=1)
        named = run_folder(str(tmp_path / f"disk/video/{stage}/now"), record=runs / "video/all")
        assert named == runs / "video/all/now"


def test_folders_that_come_and_go_are_one_process_alone(tmp_path):
    """Processes that are refused again and again, after which nothing is left of their folder."""

    def refused() -> None:
        for _ in range(100):
            with claimed(tmp_path / "runs/now") as folder:
                owner = folder / "owner"
                owner.touch(exist_ok=False)
                owner.unlink()

    assert [end_of(child) for child in [start(refused) for _ in range(4)]] == [0] * 4
    assert not (tmp_path / "runs").exists()
