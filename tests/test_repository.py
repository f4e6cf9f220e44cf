import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from huggingface_hub import constants

from tinyworlds import repository
from tinyworlds.repository import DamagedError, fetch, files, upload

from .hub_server import Hub, Repo

LARGE = bytes(range(256)) * 1000
FILES = {"frames.h5": LARGE, "config.json": b'{"small": true}\n'}


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(repository, "SECONDS_BETWEEN_TRIES", 0)
    hub.repos["datasets/someone/game"] = Repo(dict(FILES))
    return hub


def get(file: str = "frames.h5", repo: str = "someone/game", revision: str | None = None) -> bytes:
    return fetch(repo, file, kind="dataset", revision=revision, place="anywhere").read_bytes()


def cached(tmp_path: Path) -> list[Path]:
    """The contents in the Hub's cache."""
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.parent.name == "blobs"]


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_what_is_on_the_hub_and_is_fetched_once(hub, file):
    assert get(file) == FILES[file]
    assert get(file) == FILES[file]
    fetched = [path for method, path, _ in hub.asked if method == "GET"]
    assert len([path for path in fetched if path.startswith("/cdn/") or file == "config.json"]) == 1


def test_what_was_fetched_serves_offline_and_when_the_hub_fails(hub, monkeypatch):
    get()
    for status in (408, 429, 503):
        hub.faults.status = status
        assert get() == LARGE
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert get() == LARGE
    assert len(hub.asked) == asked


@pytest.mark.parametrize("times", [1, 2])
def test_a_dropped_connection_is_gone_on_with(hub, times):
    hub.faults.drops, hub.faults.drop_after = times, 100_000
    assert get() == LARGE
    starts = [headers.get("range") for headers in hub.contents()]
    assert starts == [None, "bytes=100000-", "bytes=200000-"][: times + 1]


@pytest.mark.parametrize("ignore_range", [False, True])
def test_an_interrupted_download_is_gone_on_with_by_the_next(hub, monkeypatch, ignore_range):
    monkeypatch.setattr("time.sleep", interrupt)  # Ctrl-C between two attempts
    hub.faults.drops, hub.faults.drop_after = 1, 100_000
    with pytest.raises(KeyboardInterrupt):
        get()
    hub.faults.ignore_range = ignore_range
    assert get() == LARGE
    assert [headers.get("range") for headers in hub.contents()] == [None, "bytes=100000-"]


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


def test_a_killed_process_is_gone_on_with_and_what_it_fetched_serves_offline(hub, tmp_path):
    """In processes of their own, with the environment that a user sets."""
    fetching = "import sys; from tinyworlds.repository import fetch; "
    fetching += "print(fetch('someone/game', 'frames.h5', kind='dataset', place=''))"
    environment = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    hub.faults.pause = threading.Event()
    with subprocess.Popen([sys.executable, "-c", fetching], env=environment) as first:
        while not (parts := list(tmp_path.rglob("*.incomplete"))) or parts[0].stat().st_size == 0:
            assert first.poll() is None
        first.kill()
    hub.faults.pause.set()
    for offline in "01":
        environment["HF_HUB_OFFLINE"] = offline
        run = subprocess.run([sys.executable, "-c", fetching], env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert Path(run.stdout.splitlines()[-1]).read_bytes() == LARGE
    assert [headers.get("range", "")[:6] for headers in hub.contents()] == ["", "bytes="]


def test_a_connection_that_stays_away_ends_the_download_and_what_came_is_kept(hub, monkeypatch):
    monkeypatch.setattr(repository, "PATIENCE", 0)
    hub.faults.drops, hub.faults.drop_after = 9, 100_000
    with pytest.raises(FileNotFoundError, match=r"frames\.h5 of someone/game could not be downloaded"):
        get()
    hub.faults.drops = 0
    assert get() == LARGE
    assert hub.contents()[-1]["range"] == "bytes=100000-"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("change", ["tampered", "shorter", "longer"])
def test_another_content_than_promised_is_refused_and_not_kept(hub, tmp_path, file, change):
    true = FILES[file]
    wrong = {"tampered": true[:-1] + b"x", "shorter": true[:-1], "longer": true + b"x" * 10**6}
    hub.faults.content = wrong[change]
    with pytest.raises(DamagedError, match=f"{file}, is damaged and was removed"):
        get(file)
    assert cached(tmp_path) == []
    hub.faults.content = None
    assert get(file) == true


def test_a_continued_download_of_another_content_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", interrupt)
    hub.faults.drops, hub.faults.drop_after, hub.faults.content = 1, 1000, b"x" * len(LARGE)
    with pytest.raises(KeyboardInterrupt):
        get()
    hub.faults.content = None
    with pytest.raises(DamagedError):
        get()
    assert cached(tmp_path) == []
    assert get() == LARGE


def test_a_download_that_cannot_be_gone_on_with_is_refused_and_not_kept(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", interrupt)
    hub.faults.drops, hub.faults.drop_after = 1, 1000
    with pytest.raises(KeyboardInterrupt):
        get()
    hub.faults.content = LARGE[:500]
    with pytest.raises(DamagedError, match="it has 1000 bytes"):
        get()
    assert cached(tmp_path) == []
    hub.faults.content = None
    assert get() == LARGE


@pytest.mark.parametrize("offline", [False, True])
def test_a_cached_file_that_was_changed_is_refused(hub, tmp_path, monkeypatch, offline):
    get()
    (blob,) = cached(tmp_path)
    blob.write_bytes(LARGE[:-1] + b"x")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(DamagedError, match="cached, is damaged"):
        get()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert get() == LARGE


def test_a_revision_is_fetched_by_its_commit(hub):
    repo = hub.repos["datasets/someone/game"]
    assert get("config.json") == FILES["config.json"]
    before = repo.commit
    repo.files["config.json"] = b"newer"
    assert get("config.json", revision=repo.commit) == b"newer"
    asked = len(hub.asked)
    assert get("config.json", revision=before) == FILES["config.json"]
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ({"repo": "someone/nothing"}, "no dataset someone/nothing, or it takes a login: log in with `hf auth login`"),
        ({"repo": "someone/secret"}, "no dataset someone/secret, or it takes a login"),
        ({"repo": "someone/gated"}, "access must be asked for on http://127.0.0.1"),
        ({"file": "other.h5"}, "no such file"),
        ({"revision": "v9"}, "no such revision"),
    ],
)
def test_a_refusal_says_why(hub, what, said):
    hub.repos["datasets/someone/secret"] = Repo(dict(FILES), private=True)
    hub.repos["datasets/someone/gated"] = Repo(dict(FILES), gated=True)
    with pytest.raises(FileNotFoundError, match=said) as caught:
        get(**what)
    assert "\n" not in str(caught.value)


def test_a_token_opens_a_private_repository_and_stays_with_the_hub(hub, monkeypatch):
    hub.repos["datasets/someone/secret"] = Repo(dict(FILES), private=True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert get(repo="someone/secret") == LARGE
    (headers,) = hub.contents()
    assert "authorization" not in headers


@pytest.mark.parametrize("trouble", ["offline", "no server", "silent", "broken"])
def test_without_the_hub_the_file_can_be_placed_by_hand(hub, monkeypatch, trouble):
    if trouble == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if trouble == "no server":
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        )
    hub.faults.stall = 1.5 if trouble == "silent" else 0
    hub.faults.status = 500 if trouble == "broken" else 0
    with pytest.raises(FileNotFoundError) as caught:
        fetch("someone/game", "frames.h5", kind="dataset", place="at data/frames.h5")
    sentence = str(caught.value)
    assert "/datasets/someone/game/resolve/main/frames.h5 and place it at data/frames.h5" in sentence
    assert "\n" not in sentence


def test_a_network_that_swallows_everything_is_given_up(hub, monkeypatch):
    """Each of a host's addresses, and to look them up, takes as long as it likes."""
    waiting = threading.Event()
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: waiting.wait(60))
    monkeypatch.setattr(repository, "DEADLINE", 0.2)
    try:
        with pytest.raises(FileNotFoundError, match=r"no answer within 0\.2 s; or get it from .* and place it here"):
            fetch("someone/game", "frames.h5", kind="dataset", place="here")
        with pytest.raises(FileNotFoundError, match=r"no answer within 0\.2 s; or get them from"):
            files("someone/game", kind="dataset", place="here")
        with pytest.raises(ValueError, match=r"no answer within 0\.2 s"):
            upload("me/new", {"a.txt": b"a"}, kind="dataset", private=False, message="A file")
    finally:
        waiting.set()


@pytest.mark.parametrize("repo", ["game", "a/b/c", "../game", "some one/game", ""])
def test_what_is_no_repository_is_refused(repo):
    with pytest.raises(ValueError, match="is no repository of the Hub: give user/name"):
        fetch(repo, "frames.h5", kind="dataset", place="")


def test_the_files_of_a_repository_are_listed(hub):
    commit, paths = files("someone/game", kind="dataset", place="")
    assert commit == hub.repos["datasets/someone/game"].commit
    assert sorted(paths) == sorted(FILES)
    hub.faults.status = 500
    with pytest.raises(
        FileNotFoundError, match=r"could not be listed: .*/datasets/someone/game/tree/main and place them here"
    ):
        files("someone/game", kind="dataset", place="here")


def test_an_upload_makes_the_repository_and_adds_to_it(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    (tmp_path / "frames.h5").write_bytes(LARGE)
    content = {"frames.h5": tmp_path / "frames.h5", "README.md": b"---\nlicense: mit\n---\n"}
    address = upload("me/new", content, kind="dataset", private=True, message="First")
    assert address == f"{hub.address}/datasets/me/new"
    repo = hub.repos["datasets/me/new"]
    assert repo.private
    assert repo.files == {"frames.h5": LARGE, "README.md": content["README.md"]}
    upload("me/new", {"more.txt": b"more"}, kind="dataset", private=True, message="Second")
    assert set(repo.files) == {"frames.h5", "README.md", "more.txt"}


def test_nothing_is_published_that_was_to_be_private(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(ValueError, match="someone/game is public already"):
        upload("someone/game", {"secret.txt": b"secret"}, kind="dataset", private=True, message="")
    assert set(hub.repos["datasets/someone/game"].files) == set(FILES)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("token", "repo"), [(None, "me/new"), ("hf_wrong", "me/new"), (None, "someone/game")])
def test_an_upload_takes_a_login(hub, monkeypatch, token, repo, private):
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.repos["datasets/someone/game"].private = private
    with pytest.raises(ValueError, match="takes a login: log in with `hf auth login`"):
        upload(repo, {"a.txt": b"a"}, kind="dataset", private=False, message="A file")
    assert {name: set(repo.files) for name, repo in hub.repos.items()} == {"datasets/someone/game": set(FILES)}
