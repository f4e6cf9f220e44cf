import subprocess
import sys
from pathlib import Path

import pytest

from tinyworlds.nn import native

SOURCE = 'extern "C" int answer() { return %d; }'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source file, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "answer.cpp"
    path.write_text(SOURCE % 42)
    return path


def built(folder: Path) -> list[Path]:
    return sorted((folder / "cache/tinyworlds").iterdir())


def test_a_library_is_compiled_once_and_again_when_its_source_changes(source, tmp_path):
    assert native.library.__wrapped__(source).answer() == 42
    (first,) = built(tmp_path)
    made = first.stat().st_mtime_ns
    assert native.library.__wrapped__(source).answer() == 42
    assert first.stat().st_mtime_ns == made
    source.write_text(SOURCE % 43)
    assert native.library.__wrapped__(source).answer() == 43
    assert len(built(tmp_path)) == 2


def test_what_is_included_counts_as_source(source, tmp_path):
    (tmp_path / "number.h").write_text("#define NUMBER 42")
    source.write_text('#include "number.h"\nextern "C" int answer() { return NUMBER; }')
    assert native.library.__wrapped__(source).answer() == 42
    (tmp_path / "number.h").write_text("#define NUMBER 43")
    assert native.library.__wrapped__(source).answer() == 43


def test_what_does_not_compile_is_no_library_and_leaves_nothing(source, tmp_path):
    source.write_text("no C++")
    with pytest.warns(UserWarning, match=r"can't compile answer\.cpp.*error: .no. does not name a type"):
        assert native.library.__wrapped__(source) is None
    assert built(tmp_path) == []


def test_a_compiler_that_is_named_is_used(source, tmp_path, monkeypatch):
    script = tmp_path / "own-cxx"
    script.write_text('#!/bin/sh\ntouch "$(dirname "$0")/used"\nexec c++ "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert native.library.__wrapped__(source).answer() == 42
    assert (tmp_path / "used").exists()


def test_a_compiler_without_openmp_compiles_for_one_thread(source, tmp_path, monkeypatch):
    script = tmp_path / "own-cxx"
    script.write_text('#!/bin/sh\ncase " $* " in *" -fopenmp "*) exit 1;; esac\nexec c++ "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    assert native.library.__wrapped__(source).answer() == 42


def test_a_damaged_library_is_made_anew(source, tmp_path):
    native.library.__wrapped__(source)
    (path,) = built(tmp_path)
    path.unlink()  # it is in use here
    path.write_bytes(b"damaged")
    assert native.library.__wrapped__(source).answer() == 42


def test_where_there_is_no_cache_a_library_is_kept_for_this_process_alone(source, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    assert native.library.__wrapped__(source).answer() == 42
    assert Path(native._of_this_process().name).is_dir()


def test_two_processes_that_compile_at_once_both_get_it(source):
    script = "import sys; from pathlib import Path; from tinyworlds.nn import native; " + (
        "assert native.library(Path(sys.argv[1])).answer() == 42"
    )
    processes = [subprocess.Popen([sys.executable, "-c", script, str(source)]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
