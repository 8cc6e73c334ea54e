"""A small HTTP server that speaks the parts of the Hub's API that huggingface_hub uses, and the cache beside it."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPO = "Qwen/Qwen3-VL-2B-Instruct-GGUF"
COMMIT = "52d6c8ffea26cc873ac5ad116f8631268d7eb503"
NAMES = [
    ".gitattributes", "README.md", "Qwen3VL-2B-Instruct-F16.gguf", "Qwen3VL-2B-Instruct-Q4_K_M.gguf",
    "Qwen3VL-2B-Instruct-Q8_0.gguf", "mmproj-Qwen3VL-2B-Instruct-F16.gguf", "mmproj-Qwen3VL-2B-Instruct-Q8_0.gguf",
]  # fmt: skip
MODEL, MMPROJ = "Qwen3VL-2B-Instruct-Q4_K_M.gguf", "mmproj-Qwen3VL-2B-Instruct-F16.gguf"


class Hub(http.server.ThreadingHTTPServer):
    """Serves repositories, by name; ``files`` are those of REPO.

    ``damaged``: files sent with wrong bytes. ``cut``: where a reply breaks off. ``sizes``: what it says they are.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {name: hashlib.sha256(name.encode()).digest() * 1000 for name in NAMES}
        self.files[MODEL] *= 400  # longer than what the library keeps in memory, 10 MiB
        self.repos = {REPO: self.files}
        self.sizes: dict[str, int] = {}
        self.damaged: set[str] = set()
        self.cut: dict[str, int] = {}
        self.downloads: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        repo = next((repo for repo in self.server.repos if f"/{repo}/" in path), "")
        files = self.server.repos.get(repo, {})
        if path == f"/api/models/{repo}/revision/main":
            siblings = [self._sibling(name, content) for name, content in files.items()]
            self._json({"id": repo, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(f"/{repo}/resolve/{COMMIT}/") and (name := path.rsplit("/", 1)[1]) in files:
            self._file(name, files[name])
        elif repo:
            self._json({"error": "Invalid rev id"}, 404, "RevisionNotFound")
        else:
            self._json({"error": "Repository not found"}, 404, "RepoNotFound")

    def _sibling(self, name: str, content: bytes) -> dict[str, object]:
        size = self.server.sizes.get(name, len(content))
        sibling: dict[str, object] = {"rfilename": name, "size": size, "blobId": "0" * 40}
        if name.endswith(".gguf"):
            sha256 = hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 135}
        return sibling

    def _json(self, content: object, status: int = 200, error: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _file(self, name: str, content: bytes) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        begin = 0
        wanted = self.headers.get("Range", "")
        if self.command == "GET":
            self.server.downloads.append((name, wanted))
        if name in self.server.damaged:
            content = b"?" + content[1:]
        if wanted:
            begin = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-Etag", f'"{sha256}"')
        self.send_header("ETag", f'"{sha256}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        end = self.server.cut.pop(name, len(content))
        self.wfile.write(content[begin:end])
        if end < len(content):
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True


@contextmanager
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, and an environment in which commands use it, with a cache of their own."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cached(tmp_path: Path, name: str, repo: str = REPO) -> Path:
    """Where a downloaded file is."""
    return tmp_path / "home/hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / COMMIT / name
