import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest

from tinyworlds.data.hub import fetch_store
from tinyworlds.data.store import CHUNK_FRAMES, FrameStore

from .conftest import numbered_frames


def public_file(path: Path, count: int = 50) -> Path:
    """As the public files are: frames alone, chunked by h5py's guess."""
    with h5py.File(path, "w") as file:
        file.create_dataset("frames", data=numbered_frames(range(count), 32, 32), compression="lzf")
    return path


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a Hugging Face Hub that has one file."""
    content = public_file(tmp_path / "on the hub.h5").read_bytes()

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            found = self.path == "/datasets/AlmondGod/tinyworlds/resolve/main/picodoom_frames.h5"
            self.send_response(200 if found else 404)
            if found:
                self.send_header("ETag", '"an-etag"')
                self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content) if found else 0))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_public_file_is_downloaded_and_rewritten(hub: str, tmp_path: Path) -> None:
    # The address of the hub is read when its client is imported: another process.
    path = tmp_path / "data" / "picodoom.h5"
    fetch = (
        "import pathlib, tinyworlds.data.hub as hub; "
        f"hub.fetch_store('AlmondGod/tinyworlds', 'picodoom_frames.h5', pathlib.Path({str(path)!r}))"
    )
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", fetch], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with FrameStore(path) as store:
        assert store.source == "AlmondGod/tinyworlds/picodoom_frames.h5"
        np.testing.assert_array_equal(store.read(0, 50), numbered_frames(range(50), 32, 32))
    with h5py.File(path) as file:
        assert file["frames"].chunks == (CHUNK_FRAMES, 32, 32, 3)
    assert [file.name for file in path.parent.glob("*.h5")] == ["picodoom.h5"]


def test_a_file_placed_by_hand_is_used_and_stays(tmp_path: Path) -> None:
    public_file(tmp_path / "sonic_frames.h5")
    fetch_store("AlmondGod/tinyworlds", "sonic_frames.h5", tmp_path / "sonic.h5")
    with FrameStore(tmp_path / "sonic.h5") as store:
        assert store.num_frames == 50
    assert (tmp_path / "sonic_frames.h5").exists()


def test_a_failed_download_says_how_to_place_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        fetch_store("AlmondGod/tinyworlds", "sonic_frames.h5", tmp_path / "sonic.h5")
    sentence = str(caught.value)
    assert "https://huggingface.co/datasets/AlmondGod/tinyworlds/resolve/main/sonic_frames.h5" in sentence
    assert str(tmp_path / "sonic_frames.h5") in sentence
    assert "\n" not in sentence
    assert not list(tmp_path.glob("*.h5"))
