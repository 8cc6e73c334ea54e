"""A stand-in for the MaixCAM2's service, down to the bytes and the faults: AXERA's ax-llm, Qwen3-VL variant.

As there, one thread generates into one queue that all requests read from, settings stay as the last request left them,
and whoever hangs up leaves the queue to the next one. What the model "says" is a script.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import PIL.Image

PATIENCE = 30.0
MODEL = "AXERA-TECH/Qwen3-VL-2B-Instruct-GPTQ-Int4"


@dataclass
class Script:
    """What one question meets.

    ``hold_at``: wait before that piece until :meth:`FakeMaixService.release` or a stop; ``deaf``: until the release
    whatever happens, and a stop before it is forgotten. ``hang``: the encoder failed. ``raw``: these bytes follow the
    headers, each in an HTTP chunk of its own, instead of what pieces would make; then, over and over, ``drip``.
    ``status``, ``kind`` and ``body``: no stream at all.
    """

    pieces: Sequence[str | bytes] = ("Hello", " there")
    hold_at: int | None = None
    deaf: bool = False
    hang: bool = False
    end: Literal["complete", "unmarked", "cut", "reset", "open"] = "complete"
    raw: Sequence[bytes] | None = None
    drip: bytes = b""
    status: int = 200
    kind: str = "text/event-stream"
    body: bytes = b""


@dataclass
class Question:
    """What a question asked for, as the model got it. ``settings``: those in force while it answered."""

    body: dict[str, Any]
    text: str = ""
    image: PIL.Image.Image | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def event(content: str | bytes | None = None, finish: str | None = None) -> bytes:
    """One server-sent event; ``content`` goes in as it is, even half a character."""
    text = content.encode() if isinstance(content, str) else content
    delta = b'{"role":"assistant"}' if text is None else b'{"content":"' + text + b'"}'
    if finish:
        delta = b"{}"
    reason = json.dumps(finish).encode()
    return (
        b'data: {"choices":[{"delta":' + delta + b',"finish_reason":' + reason + b',"index":0}],"created":1,'
        b'"id":"cmpl-1","model":"' + MODEL.encode() + b'","object":"chat.completion.chunk"}\n\n'
    )


DONE = b"data: [DONE]\n\n"


class FakeMaixService:
    """Listens on ``url`` from the beginning to :meth:`close`."""

    def __init__(self, port: int = 0, model: str = MODEL, wants_object: bool = False) -> None:
        self.models: tuple[int, str, bytes] = (
            200,
            "application/json",
            json.dumps({"object": "list", "data": [{"id": model, "object": "model"}]}).encode(),
        )
        self.scripts: deque[Script] = deque()
        self.answers: dict[str, Script] = {}  # to questions, by their text, once the scripts are used up
        self.questions: list[Question] = []
        self.refused = 0
        self.paths: list[str] = []
        self.headers: list[str] = []
        self._wants_object = wants_object
        self._settings: dict[str, Any] = {}
        self._queue: deque[bytes] = deque()
        self._running = False
        self._stop = False
        self._released = False
        self._closing = False
        self._change = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._start(self._accept)

    def wait(self, condition: Callable[[], Any]) -> None:
        """Until ``condition`` of this service's state holds."""
        with self._change:
            assert self._change.wait_for(condition, PATIENCE)

    def wait_held(self) -> None:
        """Until a script waits for its release."""
        self.wait(lambda: self._held)

    _held = False

    def release(self) -> None:
        self._set(_released=True)

    @property
    def stops(self) -> int:
        return self.paths.count("GET /v1/stop")

    @property
    def running(self) -> bool:
        return self._running

    def occupy(self) -> None:
        """Another client's question is being answered."""
        self._set(_running=True)

    def vacate(self) -> None:
        self._set(_running=False)

    def leave_tokens(self, *pieces: str) -> None:
        """Another client hung up in the middle of its answer."""
        self._queue.extend(piece.encode() for piece in pieces)

    def close(self) -> None:
        self._set(_closing=True, _running=False)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._change:
            for connection in self._sockets:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _set(self, **state: Any) -> None:
        with self._change:
            for name, value in state.items():
                setattr(self, name, value)
            self._change.notify_all()

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._change:
                self._sockets.add(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with suppress(OSError, EOFError):
                self._answer(connection)
        finally:
            with self._change:
                self._sockets.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket) -> None:
        received = connection.makefile("rb")
        request = received.readline().decode()
        if not request:
            return
        length = 0
        while line := received.readline().decode().strip():
            self.headers.append(line)
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        body = received.read(length)
        path = " ".join(request.split()[:2])
        with self._change:
            self.paths.append(path)
            self._change.notify_all()
        if path == "GET /v1/models":
            _respond(connection, *self.models)
        elif path == "GET /v1/stop":
            self._set(_stop=True)
            _respond(connection, 200, "application/json", b'{"status": "ok"}')
        elif path == "POST /v1/chat/completions":
            self._chat(connection, json.loads(body))
        else:
            _respond(connection, 404, "text/plain", b"")

    def _chat(self, connection: socket.socket, body: dict[str, Any]) -> None:
        def refuse(message: str) -> None:
            _respond(connection, 400, "application/json", json.dumps({"error": message}).encode())

        with self._change:
            if self._running:
                self.refused += 1
                self._change.notify_all()
                return refuse("LLM is running")
            self._take_settings(body)
            messages = body["messages"]
            if self._wants_object != isinstance(messages, dict):
                return refuse("Invalid request format")
            question = Question(body, settings=dict(self._settings))
            for message in [messages] if self._wants_object else messages:
                if message["role"] == "user":
                    _read_content(message["content"], question)
            self.questions.append(question)
            script = self.scripts.popleft() if self.scripts else self.answers.get(question.text, Script())
            if script.status != 200 or script.body:
                return _respond(connection, script.status, script.kind, script.body)
            self._running, self._stop, self._released = True, False, False
            self._change.notify_all()
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nCache-Control: no-cache\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        if script.raw is not None:
            self._send_raw(connection, script)
        elif script.hang:
            _chunk(connection, event())
            connection.recv(1)  # until the client hangs up; it runs for ever
        else:
            self._start(self._generate, script)
            self._stream(connection, script)
        return None

    def _take_settings(self, body: dict[str, Any]) -> None:
        """As set_llm_config() there, with LLMPostprocess: values it does not like are skipped, top-k ends top-p."""
        now = self._settings
        if "temperature" in body:
            now["temperature"] = body["temperature"] if body["temperature"] > 0 else None
        if "repetition_penalty" in body and body["repetition_penalty"] - 1 >= 0.0001:
            now["repetition_penalty"] = body["repetition_penalty"]
        if "top-p" in body:
            now["top_k"], now["top_p"] = None, body["top-p"] if 0 < body["top-p"] < 1 else None
        if "top-k" in body:
            now["top_p"], now["top_k"] = None, body["top-k"] if body["top-k"] > 0 else None

    def _generate(self, script: Script) -> None:
        for number, piece in enumerate(script.pieces):
            with self._change:
                if number == script.hold_at:
                    self._held = True
                    self._change.notify_all()
                    self._change.wait_for(
                        lambda: self._released or self._closing or (self._stop and not script.deaf), PATIENCE
                    )
                    self._held = False
                    if script.deaf:
                        self._stop = False
                if self._stop or self._closing:
                    break
                self._queue.append(piece.encode() if isinstance(piece, str) else piece)
                self._change.notify_all()
        self._set(_running=False)

    def _stream(self, connection: socket.socket, script: Script) -> None:
        _chunk(connection, event())
        while True:
            with self._change:
                self._change.wait_for(lambda: self._queue or not self._running, PATIENCE)
                if not self._queue:
                    break
                piece = self._queue.popleft()
            _chunk(connection, event(piece))
        if script.end == "unmarked":
            _chunk(connection, event(finish="stop"))
            connection.recv(1)
        else:
            _chunk(connection, event(finish="stop") + DONE)
            connection.sendall(b"0\r\n\r\n")

    def _send_raw(self, connection: socket.socket, script: Script) -> None:
        assert script.raw is not None
        try:
            for piece in script.raw:
                _chunk(connection, piece)
            with self._change:
                while script.drip and not self._closing:
                    _chunk(connection, script.drip)
                    self._change.wait(0.02)
            if script.end == "open":
                connection.recv(1)
            if script.end == "complete":
                connection.sendall(b"0\r\n\r\n")
            if script.end == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            self._set(_running=False)


def _read_content(content: str | list[dict[str, Any]], question: Question) -> None:
    """The last text, and the image if it can be read: nobody is told when it cannot."""
    if isinstance(content, str):
        question.text = content
        return
    for part in content:
        if part["type"] == "text":
            question.text = part["text"]
        else:
            head, _, data = part["image_url"].partition(",")
            assert head == "data:image/jpeg;base64"
            with suppress(OSError):
                question.image = PIL.Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
                question.image.load()


def _chunk(connection: socket.socket, data: bytes) -> None:
    connection.sendall(b"%x\r\n%s\r\n" % (len(data), data))


def _respond(connection: socket.socket, status: int, kind: str, body: bytes) -> None:
    connection.sendall(
        b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (status, kind.encode(), len(body), body)
    )
