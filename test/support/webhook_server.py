"""A web server on this machine that is told about events, and answers as a test says."""

from __future__ import annotations

import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PATIENCE = 30.0


class Server:
    """Answers each post with the next of ``statuses``, then with 204, and keeps what was posted."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.posts: queue.Queue[tuple[str, dict[str, str], bytes]] = queue.Queue()
        self.go_on = threading.Event()
        self.go_on.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.posts.put((self.path, dict(self.headers), body))
                server.go_on.wait(PATIENCE)
                self.send_response(server.statuses.pop(0) if server.statuses else 204)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.address = f"http://robot:hidden@127.0.0.1:{self._server.server_port}/events"

    def next(self) -> tuple[str, dict[str, str], bytes]:
        return self.posts.get(timeout=PATIENCE)

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
