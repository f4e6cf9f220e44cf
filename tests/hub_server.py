"""A small Hugging Face Hub on 127.0.0.1, in the real one's protocol, that can be told to misbehave."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".h5", ".safetensors", ".pth")
"""Files with such a name are LFS files: served from another host, versioned by SHA-256."""


@dataclass
class Repo:
    """A repository: its files, and who may see it."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        """The newest commit, by which the files can be had later."""
        digest = hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()
        self.history[digest] = dict(self.files)
        return digest


@dataclass
class Faults:
    """What goes wrong when contents are fetched."""

    drops: int = 0  # so many answers end early
    drop_after: int = 0  # after so many bytes
    pause: threading.Event | None = None  # waited for after half of an answer
    content: bytes | None = None  # sent in place of the true one
    ignore_range: bool = False
    stall: float = 0  # seconds before an answer
    status: int = 0  # of every answer, where not 0


@dataclass
class Hub:
    """The server's state, and what it was asked: method, path, headers."""

    address: str = ""
    cdn: str = ""
    token: str = "hf_right"
    repos: dict[str, Repo] = field(default_factory=dict)  # by "models/user/name" or "datasets/user/name"
    faults: Faults = field(default_factory=Faults)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)

    before: Callable[[int], object] = int  # called with the number of each request

    def add(self, name: str, files: dict[str, bytes]) -> Repo:
        """Put a repository on the Hub."""
        self.repos[name] = Repo(dict(files))
        return self.repos[name]

    def contents(self) -> list[dict[str, str]]:
        """The headers of every request for the content of a large file."""
        return [headers for method, path, headers in self.asked if method == "GET" and path.startswith("/cdn/")]


def etag(path: str, content: bytes) -> str:
    """The Hub's version of a file."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):  # a client that was killed
            self.close_connection = True

    def _any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        self.hub.before(len(self.hub.asked))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        threading.Event().wait(self.hub.faults.stall)
        if self.hub.faults.status:
            return self._send(self.hub.faults.status)
        for pattern, answer in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                return answer(self, *found.groups())
        return self._send(404)

    do_GET = do_HEAD = do_POST = do_PUT = _any

    def _send(self, status: int, content: bytes | dict[str, Any] = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _repo(self, kind: str | None, name: str, *, write: bool = False) -> Repo | None:
        """The repository, where there is one that the client may read, or `write`; else it is told so."""
        repo = self.hub.repos.get(f"{kind or 'models'}/{name}")
        logged_in = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if repo is None or ((repo.private or write) and not logged_in):
            self._send(404 if logged_in else 401, X_Error_Code="RepoNotFound")
            return None
        if repo.gated:
            self._send(403, X_Error_Code="GatedRepo")
            return None
        return repo

    def resolve(self, kind: str | None, name: str, revision: str, path: str) -> None:
        if (repo := self._repo(kind, name)) is None:
            return None
        commit = repo.commit if revision == "main" else revision
        if commit not in repo.history:
            return self._send(404, X_Error_Code="RevisionNotFound")
        if path not in repo.history[commit]:
            return self._send(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = repo.history[commit][path]
        version = {"X-Repo-Commit": commit, "ETag": f'"{etag(path, content)}"'}
        if not path.endswith(LARGE):
            return self._content(content, version)
        self.hub.blobs[etag(path, content)] = content
        linked = {"X-Linked-Etag": version["ETag"], "X-Linked-Size": str(len(content))}
        return self._send(302, Location=f"{self.hub.cdn}/cdn/{etag(path, content)}", **version, **linked)

    def cdn(self, digest: str) -> None:
        self._content(self.hub.blobs[digest], {})

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        faults = self.hub.faults
        if self.command == "GET" and faults.content is not None:
            content = faults.content
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if first is None or faults.ignore_range:
            first, status = 0, 200
        else:
            first, status = int(first[1]), 206
            headers = headers | {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
            if first >= len(content):
                return self._send(416)
        body = content[first:]
        if self.command == "GET" and faults.drops > 0:
            faults.drops -= 1
            return self._send(status, body[: faults.drop_after], **headers, Content_Length=str(len(body)))
        if self.command == "GET" and faults.pause is not None:
            self._send(status, body[: len(body) // 2], **headers, Content_Length=str(len(body)))
            self.wfile.flush()
            faults.pause.wait()
            return self.wfile.write(body[len(body) // 2 :])
        return self._send(status, body, **headers)

    def info(self, kind: str, name: str, revision: str | None) -> None:
        if (repo := self._repo(kind, name)) is not None:
            siblings = [{"rfilename": path} for path in repo.files]
            self._send(200, {"id": name, "sha": repo.commit, "private": repo.private, "siblings": siblings, "tags": []})

    def create(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(401)
        wanted = json.loads(self.body)
        kind, name = wanted.get("type") or "model", f"{wanted['organization']}/{wanted['name']}"
        prefix = "" if kind == "model" else f"{kind}s/"
        self.hub.repos[f"{kind}s/{name}"] = Repo({}, private=wanted.get("visibility") == "private")
        return self._send(200, {"url": f"{self.hub.address}/{prefix}{name}", "id": name})

    def validate(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str) -> None:
        if self._repo(kind, name, write=True) is not None:
            paths = [file["path"] for file in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
            self._send(
                200, {"files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]}
            )

    def batch(self) -> None:
        objects = [
            o | {"actions": {"upload": {"href": f"{self.hub.address}/lfs/{o['oid']}", "header": {}}}}
            for o in json.loads(self.body)["objects"]
        ]
        self._send(200, {"transfer": "basic", "objects": objects})

    def put(self, digest: str) -> None:
        right = hashlib.sha256(self.body).hexdigest() == digest
        self.hub.blobs[digest] = self.body
        self._send(200 if right else 400)

    def commit(self, kind: str, name: str) -> None:
        if (repo := self._repo(kind, name, write=True)) is None:
            return
        for line in self.body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                repo.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                repo.files[item["value"]["path"]] = self.hub.blobs[item["value"]["oid"]]
        self._send(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{repo.commit}", "commitOid": repo.commit})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = (
    (rf"(?:GET|HEAD) /(?:(datasets)/)?{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
    (r"GET /cdn/(\w+)", Handler.cdn),
    (rf"GET /api/(models|datasets)/{NAME}(?:/revision/([^/]+))?", Handler.info),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.validate),
    (rf"POST /api/(models|datasets)/{NAME}/preupload/main", Handler.preupload),
    (r"POST /(?:datasets/)?[\w./-]+\.git/info/lfs/objects/batch", Handler.batch),
    (r"PUT /lfs/(\w+)", Handler.put),
    (rf"POST /api/(models|datasets)/{NAME}/commit/main", Handler.commit),
)


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub with nothing on it yet."""
    hub = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Serving", (Handler,), {"hub": hub})) as server:
        hub.address, hub.cdn = f"http://127.0.0.1:{server.server_port}", f"http://localhost:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield hub
        server.shutdown()
