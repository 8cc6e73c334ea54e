"""A server whose every byte a test decides: HTTP/1.1 on a loopback port, one thread per connection."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0

ONE_MODEL = json.dumps({"object": "list", "data": [{"id": "model-a", "object": "model"}]})


class Exchange:
    """One request, and the means to answer it. Headers by lower-case name."""

    def __init__(self, connection: socket.socket, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        self._connection = connection
        self.method = method
        self.path = path
        self.headers = headers
        self.body = body
        self.closing = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def reply(self, status: int, body: str | bytes | dict[str, Any], **headers: str) -> None:
        """A whole answer; keywords are headers, with _ for -."""
        kind = "application/json" if isinstance(body, dict) else "text/plain"
        content = (
            json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
        )
        fields = {"content_type": kind, "content_length": str(len(content)), **headers}
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
        self.send(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode() + content)

    def stream(self) -> None:
        """The head of an event stream that ends with :meth:`end`."""
        self.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    def raw(self, data: bytes) -> None:
        """Bytes of the event stream."""
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def event(self, value: Any) -> None:
        self.raw(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")

    def token(self, text: str, **other: Any) -> None:
        self.event({"choices": [{"index": 0, "delta": {"content": text, **other}, "finish_reason": None}]})

    def finish(self, reason: str = "stop", usage: dict[str, Any] | None = None) -> None:
        """Finish reason, counts, [DONE], and the end of the stream."""
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if usage is not None:
            self.event({"choices": [], "usage": usage})
        self.event(b"[DONE]")
        self.end()

    def end(self) -> None:
        """The end of the stream; the connection stays."""
        self.send(b"0\r\n\r\n")

    def answer(self, *tokens: str, usage: dict[str, Any] | None = None) -> None:
        """A whole stream."""
        self.stream()
        for token in tokens:
            self.token(token)
        self.finish(usage=usage)

    def events(self, *values: Any) -> None:
        """A stream of these events that ends without [DONE]."""
        self.stream()
        for value in values:
            self.event(value)
        self.end()

    def hang(self) -> None:
        """Say nothing until the client goes away."""
        self.wait_for_disconnect()

    def close(self) -> None:
        """The connection ends in order, after what was sent."""
        self.closing = True

    def reset(self) -> None:
        """The connection breaks."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.closing = True

    def wait_for_disconnect(self, seconds: float = PATIENCE) -> bool:
        """Whether the client went away in time."""
        self._connection.settimeout(seconds)
        try:
            return self._connection.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False


class FakeServer:
    """``on_ask`` answers ``POST .../chat/completions`` and may be replaced at any time; ``on_list`` the list of models.

    ``exchanges`` has every request in order, ``n_connections`` how many connections brought them.
    """

    def __init__(
        self, on_ask: Callable[[Exchange], None] = lambda e: e.answer("yes"), tls: ssl.SSLContext | None = None
    ) -> None:
        self.on_ask = on_ask
        self.on_list: Callable[[Exchange], None] = lambda e: e.reply(200, ONE_MODEL, content_type="application/json")
        self.exchanges: list[Exchange] = []
        self.asked: queue.Queue[Exchange] = queue.Queue()
        self.n_connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/v1"
        self._tls = tls
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def questions(self) -> list[Exchange]:
        """Every question so far."""
        return [exchange for exchange in self.exchanges if exchange.method == "POST"]

    def close(self) -> None:
        """Refuse connections from now on, and end the open ones."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE)
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.n_connections += 1
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # The client may go away at any time.
        with contextlib.suppress(OSError), connection:
            if self._tls:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._open.add(connection)
            with connection, connection.makefile("rb") as incoming:
                while exchange := _read(connection, incoming):
                    self.exchanges.append(exchange)
                    if exchange.path.endswith("/models"):
                        self.on_list(exchange)
                    else:
                        self.asked.put(exchange)
                        self.on_ask(exchange)
                    if exchange.closing:
                        break
        self._open.discard(connection)


def _read(connection: socket.socket, incoming: Any) -> Exchange | None:
    request = incoming.readline().split()
    if len(request) != 3 or not request[2].startswith(b"HTTP/"):  # the end, or the handshake of TLS
        return None
    headers = {}
    while line := incoming.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    body = incoming.read(int(headers.get("content-length", 0)))
    return Exchange(connection, request[0].decode(), request[1].decode(), headers, body)
