"""A small server that speaks the Hugging Face Hub's HTTP API as far as huggingface_hub asks it for bundles."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_" + "w" * 34  # may write
READER = "hf_" + "r" * 34  # may read
LARGE = (".onnx", ".npz", ".data")  # go through LFS


@dataclass
class Repository:
    """Commits by hash, newest last, each with its files; branches by name."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main", message: str = "") -> str:
        """Add a commit that holds these files; return its hash."""
        commit = hashlib.sha1(f"{len(self.commits)} {sorted(files)}".encode(), usedforsecurity=False).hexdigest()
        self.commits[commit], self.branches[branch], self.messages[commit] = files, commit, message
        return commit

    def resolve(self, revision: str) -> str | None:
        """Return the commit of a branch or commit."""
        return self.branches.get(revision, revision if revision in self.commits else None)


class HubServer(ThreadingHTTPServer):
    """The server; tests read and change its repositories, and see what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        """Uploaded LFS objects by SHA-256."""
        self.requests: list[str] = []
        """Method, path and, if there is one, range of each request."""
        self.cut: dict[str, int] = {}
        """Bytes after which an answer with a file ends, by path of the file."""
        self.failing: int | None = None
        """Status of all answers, such as 503."""

    def publish(self, name: str, bundle: Path, branch: str = "main") -> str:
        """Make a repository of a directory, or add a commit to it; return the commit's hash."""
        files = {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
        return self.repositories.setdefault(name, Repository()).commit(files, branch)


class Handler(BaseHTTPRequestHandler):
    """Answers one request after the other."""

    server: HubServer
    protocol_version = "HTTP/1.1"
    routes = (
        ("GET", r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?", "_info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", "_tree"),
        ("HEAD|GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "_file"),
        ("POST", r"/api/repos/create", "_create"),
        ("POST", r"/api/validate-yaml", "_validate"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "_preupload"),
        ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "_batch"),
        ("PUT", r"/large/([0-9a-f]{64})", "_large"),
        ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", "_branch"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "_commit"),
    )

    def _route(self) -> None:
        path = urlsplit(self.path).path
        seen = f"{self.command} {unquote(path)}"
        self.server.requests.append(seen + (f" {self.headers['Range']}" if self.headers["Range"] else ""))
        self.body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        self.may_write, self.may_read = token == TOKEN, token in {TOKEN, READER}
        if self.server.failing is not None:
            self._send(self.server.failing, {"error": "busy"})
            return
        for methods, pattern, name in self.routes:
            if self.command in methods.split("|") and (match := re.fullmatch(pattern, path)):
                if self.command == "POST" and not self.may_write:
                    self._send(403 if self.may_read else 401, {"error": "no"}, {"X-Error-Message": "no right to write"})
                else:
                    getattr(self, name)(*[part and unquote(part) for part in match.groups()])
                return
        self._send(404, {"error": f"not spoken here: {seen}"})

    do_GET = do_HEAD = do_POST = do_PUT = _route  # noqa: N815 - http.server's names

    def _send(
        self, status: int, content: Any, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:length])
            self.close_connection |= length is not None

    def _find(self, name: str, revision: str | None) -> tuple[Repository, str] | None:
        """Return a repository and a commit of it, or answer that there is none."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.may_read):
            self._send(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        commit = repository.resolve(revision or "main")
        if commit is None:
            self._send(404, {"error": "no revision"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return repository, commit

    def _info(self, name: str, revision: str | None) -> None:
        if found := self._find(name, revision):
            repository, commit = found
            siblings = [{"rfilename": path} for path in repository.commits[commit]]
            self._send(
                200, {"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings}
            )

    def _tree(self, name: str, revision: str) -> None:
        if found := self._find(name, revision):
            repository, commit = found
            self._send(200, [describe(path, data) for path, data in repository.commits[commit].items()])

    def _file(self, name: str, revision: str, path: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        repository, commit = found
        if path not in repository.commits[commit]:
            self._send(404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        data = repository.commits[commit][path]
        item = describe(path, data)
        etag = item["lfs"]["oid"] if "lfs" in item else item["oid"]
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        length = self.server.cut.get(path) if self.command == "GET" else None
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or ""):
            first, last = int(asked[1]), int(asked[2] or len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self._send(206, data[first : last + 1], headers, length)
        else:
            self._send(200, data, headers, length)

    def _create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        url = {"url": f"{self.server.url}/{name}"}
        if name in self.server.repositories:
            self._send(409, {**url, "error": "You already created this model repo"})
            return
        private = asked.get("private") or asked.get("visibility") == "private"
        self.server.repositories[name] = repository = Repository(private=private)
        repository.commit({".gitattributes": b"*.onnx filter=lfs\n"}, message="initial commit")
        self._send(200, url)

    def _validate(self) -> None:
        content = json.loads(self.body)["content"]
        if "license: nonsense" in content:
            self._send(400, {"errors": [{"message": '"license" must be one of [apache-2.0, mit]'}], "warnings": []})
            return
        missing = [] if content.startswith("---\n") else [{"message": "empty or missing yaml metadata in repo card"}]
        self._send(200, {"errors": [], "warnings": missing})

    def _preupload(self, name: str, revision: str) -> None:
        if found := self._find(name, revision):
            repository, commit = found
            files = []
            for item in json.loads(self.body)["files"]:
                stored = repository.commits[commit].get(item["path"])
                known = {} if stored is None else describe(item["path"], stored)
                mode = "lfs" if item["path"].endswith(LARGE) else "regular"
                oid = known["lfs"]["oid"] if "lfs" in known else known.get("oid")
                files.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._send(200, {"files": files})

    def _batch(self, _: str) -> None:
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.server.large:
                item["actions"] = {"upload": {"href": f"{self.server.url}/large/{item['oid']}"}}
        self._send(200, {"transfer": "basic", "objects": objects})

    def _large(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._send(400, {"error": "hash"})
            return
        self.server.large[oid] = self.body
        self._send(200, {})

    def _branch(self, name: str, branch: str) -> None:
        if found := self._find(name, None):
            repository, commit = found
            known = branch in repository.branches
            repository.branches.setdefault(branch, commit)
            self._send(409 if known else 200, {"error": "exists"} if known else {})

    def _commit(self, name: str, revision: str) -> None:
        found = self._find(name, revision)
        if found is None:
            return
        repository, parent = found
        files, message = dict(repository.commits[parent]), ""
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                self._send(400, {"error": f"not spoken here: {line['key']}"})
                return
        commit = repository.commit(files, revision, message)
        url = f"{self.server.url}/{name}/commit/{commit}"
        self._send(200, {"success": True, "commitOid": commit, "commitUrl": url})

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


def describe(path: str, data: bytes) -> dict[str, Any]:
    """Return an entry of a tree, as the Hub lists it."""
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry = {"type": "file", "path": path, "size": len(data), "oid": oid}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server that processes started by the test take for the Hub, with an empty cache and no token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-home"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")  # the server speaks LFS
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()
