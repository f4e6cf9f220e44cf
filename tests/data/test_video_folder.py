import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tinyworlds.data.store import FrameStore
from tinyworlds.data.video import extract_shard, videos_in

from .conftest import FRAMES, extraction

SETTINGS = {"fps": 240, "size": 64}


@pytest.fixture
def films(video: Path, tmp_path: Path) -> Path:
    """A folder of seven videos, and of other things."""
    folder = tmp_path / "films"
    folder.mkdir()
    for name in "abcdefg":
        shutil.copy(video, folder / f"{name}.mp4")
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").write_text("no video")
    (folder / "folder.mp4").mkdir()
    return folder


def extract(films: Path, out: Path | None, shard: int = 0, shards: int = 1, **settings: object) -> None:
    extract_shard(extraction(**settings), videos_in(films, out), shard=shard, shards=shards)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("shards", [1, 3, 10])
def test_shards_together_are_all_videos_each_once(films: Path, tmp_path: Path, shards: int) -> None:
    made: list[str] = []
    for shard in range(shards):
        extract(films, tmp_path / f"{shard}", shard, shards, fps=5)
        made += names(tmp_path / f"{shard}") if (tmp_path / f"{shard}").exists() else []
    assert sorted(made) == [f"{name}.h5" for name in "abcdefg"]


def test_stores_are_beside_the_videos_or_in_folders_as_these_are(films: Path, tmp_path: Path) -> None:
    assert videos_in(films, None)[films / "b.mp4"] == films / "b.h5"
    (tmp_path / "others").mkdir()
    (films / "a.mp4").rename(tmp_path / "others" / "a.m2v")
    found = videos_in(tmp_path / "*" / "[ab].m*", tmp_path / "out")
    assert found == {
        films / "b.mp4": tmp_path / "out/films/b.h5",
        tmp_path / "others/a.m2v": tmp_path / "out/others/a.h5",
    }


def test_a_folder_may_have_any_name(films: Path, tmp_path: Path) -> None:
    odd = films.rename(tmp_path / "films [2020] *")
    assert videos_in(odd, None) == {odd / f"{name}.mp4": odd / f"{name}.h5" for name in "abcdefg"}


@pytest.mark.parametrize("path", ["films", "films/*.mp4"])
def test_jobs_without_out_leave_stores_beside_the_videos(
    films: Path, entry_point: Callable[..., None], path: str
) -> None:
    before = names(films)
    entry_point("src/tinyworlds/data/video.py", "-m", f"path={path}", "fps=2", "shard=range(0,2)", "shards=2")
    assert names(films) == sorted([*before, *(f"{name}.h5" for name in "abcdefg")])
    assert names(films.parent) == ["films", "multirun"]


def test_videos_of_one_name_are_refused(films: Path, video: Path) -> None:
    shutil.copy(video, films / "a.MKV")
    with pytest.raises(ValueError, match=r"a\.MKV and .*a\.mp4 would both be .*a\.h5: rename one"):
        videos_in(films, None)


def test_a_folder_without_videos_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no video is in"):
        videos_in(tmp_path, None)


@pytest.mark.parametrize(
    ("shard", "shards", "sentence"), [(0, 0, "shards=0"), (-1, 2, "shard=-1"), (2, 2, "shard=2: there are shards=2")]
)
def test_an_impossible_shard_is_named(films: Path, tmp_path: Path, shard: int, shards: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        extract(films, tmp_path / "out", shard, shards)


def test_what_was_extracted_is_skipped_and_with_other_settings_refused(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    extract(films, out, 1, 2, fps=5)
    made = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    extract(films, out, fps=5)
    assert {path.name for path in made} == {"b.h5", "d.h5", "f.h5"}
    assert all(path.stat().st_mtime_ns == made[path] for path in made)
    said = capsys.readouterr().out
    assert f"shard 0, 2 of 7: {films}/b.mp4 is in {out}/b.h5 already" in said
    assert f"shard 0, 3 of 7: 15 frames of {films}/c.mp4 in {out}/c.h5" in said
    for path in out.glob("[ac-g].h5"):
        path.unlink()
    with pytest.raises(ValueError, match=r"b\.h5 was made with fps=5, but the config asks for fps=10"):
        extract(films, out, 0, 2, fps=10)  # b.mp4 is of the other shard
    assert names(out) == ["b.h5"]


def test_bad_videos_are_named_after_all_others_were_extracted(films: Path, tmp_path: Path) -> None:
    (films / "b.mp4").write_bytes(b"no video" * 100)
    (films / "c.mp4").write_bytes((films / "c.mp4").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"2 of 7 videos of shard 0 were left out: .*b\.mp4 cannot.*; .*c\.mp4 cannot"):
        extract(films, tmp_path / "out", fps=5)
    assert names(tmp_path / "out") == [f"{name}.h5" for name in "adefg"]


@pytest.mark.slow
def test_jobs_that_were_killed_go_on_to_the_same_stores(films: Path, tmp_path: Path) -> None:
    """The second time a video is bad besides, which keeps no job from its videos."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tinyworlds.data.video", f"path={films}", f"out={out}"]
    command += [f"{name}={value}" for name, value in SETTINGS.items()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(f"{out}/b.h5" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert 2 <= len(finished) < 7

    (films / "g.mp4").rename(tmp_path / "g.mp4")
    (films / "g.mp4").write_bytes(b"no video")
    command[3:3] = ["-m", "shard=range(0,2)", "shards=2"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert f"error: 1 of 4 videos of shard 0 were left out: {films}/g.mp4 cannot be read as a video" in again.stderr
    assert "Traceback" not in again.stderr
    assert names(out) == [f"{name}.h5" for name in "abcdef"]
    (tmp_path / "g.mp4").rename(films / "g.mp4")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())

    extract(films, tmp_path / "unbroken", **SETTINGS, crop={"top": 0, "bottom": None, "left": 0, "right": None})
    for path in (tmp_path / "unbroken").iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    with FrameStore(out / "g.h5") as store:
        assert store.num_frames == FRAMES * 8
