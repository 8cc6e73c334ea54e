"""A small HTTP server that speaks the parts of ModelScope's API that modelscope-hub uses to list and download."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit


class ModelScopeServer(http.server.ThreadingHTTPServer):
    """Serves ``repos``: files by name, by repository. ``damaged``: files sent with wrong bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.damaged: set[str] = set()
        self.downloads: list[tuple[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ModelScopeServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        repo = next((repo for repo in self.server.repos if address.path.startswith(f"/api/v1/models/{repo}/")), "")
        files = self.server.repos.get(repo, {})
        if address.path.endswith("/repo/files") and repo:
            listed = [
                {"Path": name, "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest(), "Type": "blob"}
                for name, content in files.items()
            ]
            self._json({"Code": 200, "Success": True, "Data": {"Files": listed}})
        elif address.path.endswith("/repo") and query.get("FilePath") in files:
            self._file(query["FilePath"], files[query["FilePath"]])
        else:
            self._json({"Code": 10010205001, "Success": False, "Message": "not found"}, 404)

    def _json(self, content: object, status: int = 200) -> None:
        self._reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, content: bytes) -> None:
        wanted = self.headers.get("Range", "")
        if self.command == "GET":
            self.server.downloads.append((name, wanted))
        if name in self.server.damaged:
            content = b"?" + content[1:]
        if not wanted:
            self._reply(200, content, {"Accept-Ranges": "bytes"})
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = int(last) + 1 if last else len(content)
        part = content[int(first) : end]
        self._reply(206, part, {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(content)}"})

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextmanager
def serving() -> Iterator[ModelScopeServer]:
    """A server, on a thread of its own."""
    server = ModelScopeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
