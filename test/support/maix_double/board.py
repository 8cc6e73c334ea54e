"""The board around MaixPy: the language model's service and systemd, as far as nn.Qwen3VL meets them.

The service is that of AXERA's ax-llm for Qwen3-VL: settings stick, a stop before the first token is forgotten, it goes
on when its client is gone, and answers 400 while it is busy.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

DOUBLE = Path(__file__).resolve().parent
PATIENCE = 60.0
FILES = ("embed.bin", "post.axmodel", "vision.axmodel", "post_config.json")


class Answer:
    """What the model says to one question. ``hold``: before which piece, or pieces, it is held back."""

    def __init__(self, pieces: tuple[bytes, ...], hold: int | tuple[int, ...] | None = None) -> None:
        self.pieces = pieces
        gates = () if hold is None else (hold,) if isinstance(hold, int) else hold
        self.gates = {gate: threading.Event() for gate in gates}
        self.said = 0
        self.stopped = False

    def go_on(self) -> None:
        """Through the gates that it has not passed."""
        for gate in self.gates.values():
            gate.set()


@dataclass(frozen=True)
class Asked:
    text: str
    image: np.ndarray | None
    settings: dict[str, float]
    roles: tuple[str, ...]


class Board:
    """``starts``, ``stops``: of the service, how often. ``stop_requests``: to end an answer.

    ``owners``: process ids, one for each model that was made and not released.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.active = False
        self.ready = True
        self.can_start = True
        self.refuses = False
        self.stoppable = True
        self.starts = self.stops = self.stop_requests = 0
        self.owners: list[int] = []
        self.settings: dict[str, float] = {}
        self.asked: list[Asked] = []
        self.answers: list[Answer] = []
        self.running: Answer | None = None
        board = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(*board.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                chunks = board.post(self.path, body)
                if chunks is None:
                    self.reply(400, b'{"error":"LLM is running"}')
                    return
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.close_connection = True
                connected = True
                with contextlib.closing(chunks):
                    for chunk in chunks:
                        try:
                            if connected:
                                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                        except OSError:
                            connected = False
                            if self.path == "/double/tokens":
                                return  # the model was in the process that is gone; the service goes on to the end
                if connected:
                    self.wfile.write(b"0\r\n\r\n")

            def reply(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # clients that went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.go_on()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def objects(self) -> int:
        """How many models of MaixPy there are; those of a process go with it."""
        return sum(Path(f"/proc/{pid}").exists() for pid in self.owners)

    def will_say(self, *pieces: str | bytes, hold: int | tuple[int, ...] | None = None) -> Answer:
        """Have the next question answered with ``pieces``."""
        answer = Answer(tuple(p.encode() if isinstance(p, str) else p for p in pieces), hold)
        self.answers.append(answer)
        return answer

    def go_on(self) -> None:
        """Hold nothing back any more."""
        for answer in (*self.answers, self.running):
            if answer is not None:
                answer.go_on()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        with self.changed:
            while not condition():
                assert time.monotonic() < deadline
                self.changed.wait(0.1)  # processes end without a word

    @contextmanager
    def change(self) -> Iterator[None]:
        with self.changed:
            yield
            self.changed.notify_all()

    def get(self, path: str) -> tuple[int, bytes]:
        with self.change():
            if path == "/v1/models":
                return (200 if self.active and self.ready else 503), b"{}"
            if path == "/v1/stop":
                self.stop_requests += 1
                if self.running is not None and self.stoppable and self.running.said > 0:
                    self._stop(self.running)
                return 200, b"{}"
            if path == "/double/systemctl/start":
                self.starts += self.can_start and not self.active
                self.active = self.can_start
                return (200 if self.can_start else 500), b""
            if path == "/double/systemctl/stop":
                self.stops += self.active
                self.active = False
                if self.running is not None:
                    self._stop(self.running)
                    self.running = None
                return 200, b""
            what, _, pid = path.partition("?")
            {"/double/born": self.owners.append, "/double/gone": self.owners.remove}[what](int(pid))
            return 200, b""

    def _stop(self, answer: Answer) -> None:
        answer.stopped = True
        answer.go_on()

    def post(self, path: str, body: dict[str, Any]) -> Generator[bytes, None, None] | None:
        with self.change():
            if path == "/v1/chat/completions" and (self.refuses or self.running is not None):
                return None
            content = body["messages"][0]["content"]
            image = Path(content[1]["image_url"])
            self.settings.update({k: v for k, v in body.items() if k not in ("messages", "stream")})
            self.asked.append(
                Asked(
                    content[0]["text"],
                    np.array(PIL.Image.open(image)) if image.exists() else None,
                    dict(self.settings),
                    tuple(message["role"] for message in body["messages"]),
                )
            )
            self.running = self.answers.pop(0) if self.answers else Answer((b"fine",))
            return self._say(self.running, path)

    def _say(self, answer: Answer, path: str) -> Generator[bytes, None, None]:
        try:
            for i, piece in enumerate(answer.pieces):
                if i in answer.gates:
                    assert answer.gates[i].wait(PATIENCE)
                if answer.stopped:
                    break
                yield piece if path == "/double/tokens" else _event({"content": piece.decode()})
                with self.change():
                    answer.said += 1
        finally:
            with self.change():
                if self.running is answer:
                    self.running = None
        if path != "/double/tokens":
            yield _event({"finish_reason": "stop"})


def _event(delta: dict[str, str]) -> bytes:
    return json.dumps({"choices": [{"delta": delta}]}, ensure_ascii=False).encode()


def install(board: Board, folder: Path, kind: str) -> str:
    """The files of a model; returns the path of its description."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).touch()
    service = f"llm_service_url = {board.url}\nllm_service = qwen3_vl.service\n" if kind == "Qwen3VL" else ""
    (folder / "model.mud").write_text(
        f"[basic]\ntype = axmodel\nmodel_npu = text_p320_l%d.axmodel\n\n[extra]\nmodel_type = {kind.lower()}\n"
        f"tokenizer_url = {board.url}\n{service}tokens_embed = embed.bin\npost_model = post.axmodel\n"
        "vpm_resampler_model = vision.axmodel\npost_config_path = post_config.json\nvpm_len = 196\nimg_w = 448\n"
        "img_h = 448\n"
    )
    return str(folder / "model.mud")
