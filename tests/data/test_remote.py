import functools
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tinyworlds.data.datamodules import Video
from tinyworlds.data.remote import local_path

from .conftest import WriteStore, extraction, numbers_of
from .test_datamodules import OPTIONS


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and notes what was got of it."""

    got: list[str]

    def do_GET(self) -> None:
        self.got.append(self.path)
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], str]]:
    """Serves a folder on this machine; gives its address."""
    servers = []

    def start(folder: Path) -> str:
        monkeypatch.setattr(Quiet, "got", [], raising=False)
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def opened(address: str, folder: Path) -> Video:
    data = Video(copies=str(folder), extraction=extraction(), **OPTIONS | {"path": address, "clip_length": 2})
    data.prepare_data()
    data.setup()
    return data


def lengths_of(data: Video) -> list[int]:
    frames = data.store
    return np.diff([*frames.episode_starts, frames.num_frames]).tolist()


def test_stores_in_memory_are_copied_once(write_store: WriteStore, memory: MemoryFileSystem, tmp_path: Path) -> None:
    for name, length in (("b", 5), ("a", 7)):
        memory.put_file(str(write_store(length)), f"/games/pong/{name}.h5")
    data = opened("memory://games/pong/*.h5", tmp_path / "copies")
    assert lengths_of(data) == [7, 5]
    assert data.description["path"] == str(tmp_path / "copies" / "*.h5")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "copies").iterdir()}
    assert {path.name for path in made} == {"a.h5", "b.h5"}
    memory.put_file(str(write_store(9)), "/games/pong/c.h5")
    assert lengths_of(opened("memory://games/pong/*.h5", tmp_path / "copies")) == [7, 5, 9]
    assert all(path.stat().st_mtime_ns == time for path, time in made.items())


def test_folders_are_kept_apart(write_store: WriteStore, memory: MemoryFileSystem, tmp_path: Path) -> None:
    for name, length in (("pong", 5), ("doom", 7)):
        memory.put_file(str(write_store(length)), f"/games/{name}/frames.h5")
    assert lengths_of(opened("memory://games/*/frames.h5", tmp_path / "copies")) == [7, 5]
    assert (tmp_path / "copies" / "doom" / "frames.h5").is_file()


@pytest.mark.parametrize("name", ["*.h5", "game.h5"])
def test_stores_come_over_http(
    write_store: WriteStore, serve: Callable[[Path], str], tmp_path: Path, name: str
) -> None:
    (tmp_path / "served").mkdir()
    path = write_store(5, 7).rename(tmp_path / "served" / "game.h5")
    address = f"{serve(tmp_path / 'served')}/{name}"
    for _ in range(2):
        data = opened(address, tmp_path / "copies")
        assert numbers_of(data.store.read(0, 12)).tolist() == list(range(12))
    assert (tmp_path / "copies" / "game.h5").read_bytes() == path.read_bytes()
    assert Quiet.got.count("/game.h5") == 1


def test_other_files_than_those_at_the_address_are_named(
    write_store: WriteStore, memory: MemoryFileSystem, tmp_path: Path
) -> None:
    memory.put_file(str(write_store(5, 5)), "/games/a.h5")
    opened("memory://games/*.h5", tmp_path / "copies")
    write_store(200).rename(tmp_path / "copies" / "b.h5")
    with pytest.raises(ValueError, match=r"copies/b\.h5 is not what is at data\.path=memory://games/\*\.h5: move"):
        opened("memory://games/*.h5", tmp_path / "copies")
    memory.put_file(str(tmp_path / "copies" / "b.h5"), "/games/b.h5")
    assert lengths_of(opened("memory://games/*.h5", tmp_path / "copies")) == [5, 5, 200]
    memory.put_file(str(write_store(5, 5)), "/games/b.h5")
    with pytest.raises(ValueError, match=r"copies/b\.h5 is not what is at"):
        opened("memory://games/*.h5", tmp_path / "copies")


def test_a_copy_that_broke_off_leaves_nothing(
    write_store: WriteStore, memory: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.put_file(str(write_store(5)), "/games/a.h5")
    info = memory.info
    monkeypatch.setattr(memory, "info", lambda path: info(path) | {"size": info(path)["size"] + 1})
    with pytest.raises(ValueError, match=r"a\.h5 came in part: start again"):
        opened("memory://games/a.h5", tmp_path / "copies")
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize(
    ("address", "error", "sentence"),
    [
        ("memory://games/*.h5", FileNotFoundError, r"no store at memory://games/\*\.h5, or it cannot be reached"),
        ("memory://games/none.h5", FileNotFoundError, r"no store at memory://games/none\.h5"),
        ("http://127.0.0.1:1/*.h5", ValueError, r"http://127\.0\.0\.1:1/\*\.h5 cannot be read: .*connect"),
        ("unheardof://games/a.h5", ValueError, r"unheardof://games/a\.h5 cannot be read: Protocol not known"),
        ("memory://games/a.mp4", ValueError, r"data\.path=memory://games/a\.mp4: at an address there must be stores"),
        ("memory://games/a.h5?key=1", ValueError, "at an address there must be stores"),
        ("memory://games/**/.h5", ValueError, "at an address there must be stores"),
        ("memory://a.h5", ValueError, "at an address there must be stores"),
        ("memory://games/**/*.h5", ValueError, r"data\.path=memory://games/\*\*/\*\.h5: \*\* is of no known depth"),
    ],
)
def test_what_cannot_be_copied_is_named(
    memory: MemoryFileSystem, tmp_path: Path, address: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        opened(address, tmp_path / "copies")
    assert not (tmp_path / "copies").exists()


def test_no_name_leads_elsewhere(write_store: WriteStore, memory: MemoryFileSystem, tmp_path: Path) -> None:
    memory.put_file(str(write_store(5)), "/games/a;b.h5")
    with pytest.raises(ValueError, match=r"odd name 'a;b\.h5'"):
        opened("memory://games/*.h5", tmp_path / "copies")
    for name in ("..", ".h5", "*/../a.h5", "*/.a.h5"):
        with pytest.raises(ValueError, match="must be stores"):
            local_path(f"memory://games/{name}", tmp_path)


def test_no_store_is_lost_for_its_name(write_store: WriteStore, memory: MemoryFileSystem, tmp_path: Path) -> None:
    for folder in "ab":
        memory.put_file(str(write_store(5)), f"/games/{folder}/frames.h5")
    with pytest.raises(ValueError, match=r"games/\[ab\]/\*\.h5 has stores of one name in several folders: give \*"):
        opened("memory://games/[ab]/*.h5", tmp_path / "copies")
    assert not (tmp_path / "copies").exists()


def test_those_that_begin_at_once_copy_each_store_once(
    write_store: WriteStore, serve: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served").mkdir()
    for name in "ab":
        write_store(5, 7).rename(tmp_path / "served" / f"{name}.h5")
    address = f"{serve(tmp_path / 'served')}/*.h5"
    listed = threading.Barrier(2)  # no store is given away before both have seen that none is here
    lists = itertools.count()
    given = Quiet.do_GET

    def do_get(self: Quiet) -> None:
        if self.path == "/" and next(lists) < 2:
            listed.wait(timeout=60)
        given(self)

    monkeypatch.setattr(Quiet, "do_GET", do_get)
    with ThreadPoolExecutor(2) as both:
        for data in both.map(opened, [address] * 2, [tmp_path / "copies"] * 2):
            assert lengths_of(data) == [5, 7, 5, 7]
    assert [path for path in Quiet.got if path != "/"] == ["/a.h5", "/b.h5"]
