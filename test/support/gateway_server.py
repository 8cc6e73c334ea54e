"""The gateway on a free port of this machine, in front of a backend whose answers a test writes. No ROS graph."""

from __future__ import annotations

import base64
import dataclasses
import io
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import PIL.Image
import uvicorn
from qwen3vl_ros.action import AskImage

from qwen3vl_ros.client.answer import Answer, Usage
from qwen3vl_ros.client.answer_future import AnswerFuture, Phase
from qwen3vl_ros.client.exceptions import BadRequest, Cancelled, ServerUnavailable, VlmError
from qwen3vl_ros.client.goal import build_goal
from qwen3vl_ros.client.tasks import Task
from qwen3vl_ros.gateway.app import create_app
from qwen3vl_ros.gateway.backend import (
    CameraStatus,
    CorrectionRefused,
    NodeStatus,
    Snapshot,
    Unavailable,
    UnknownCamera,
)
from qwen3vl_ros.gateway.settings import Access, Settings, access
from qwen3vl_ros.gateway.watches import EventReport, WatchesReport, WatchReport

PATIENCE = 60.0
"""Seconds after which something that should have happened has not."""

USAGE = Usage(prompt_tokens=80, cached_tokens=64, completion_tokens=2, first_token_time=0.1, total_time=0.25)


class Asked:
    """One question that reached the backend, and what is answered to it."""

    def __init__(self, prompt: str, arguments: Mapping[str, Any]) -> None:
        self.prompt = prompt
        self.arguments = arguments
        self.goal = build_goal(prompt, **arguments)  # as the client does: wrong types end here
        self.cancelled = threading.Event()
        self.question = AnswerFuture(self, prompt, arguments["timeout"], 5.0, 5.0)
        self.question.mark_sent()
        self.question.mark_accepted()
        self._text = ""
        self._sequence = 0

    def say(self, delta: str = "", *, stage: int = AskImage.Feedback.STAGE_DECODE, **fields: Any) -> None:
        self._text += delta
        feedback = AskImage.Feedback(stage=stage, sequence=self._sequence, delta=delta, text=self._text)
        for name, value in fields.items():
            setattr(feedback, name, value)
        self._sequence += 1
        self.question.add_feedback(feedback)

    def answer(self, text: str | None = None, **fields: Any) -> None:
        text = self._text if text is None else text
        whole = Answer(text, usage=USAGE, finish_reason="stop", engine="scripted", model="tiny")
        self.question.end(dataclasses.replace(whole, **fields), None)

    def fail(self, error: VlmError) -> None:
        self.question.end(None, error)

    # What the question needs of who carries it.

    def cancel(self, future: AnswerFuture) -> None:
        self.cancelled.set()
        self.fail(Cancelled("A client cancelled the question."))

    def check_may_block(self) -> None:
        """It may."""

    def explain_stopped(self) -> None:
        """It goes on."""

    def explain_overdue(self, future: AnswerFuture, phase: Phase) -> VlmError:
        return ServerUnavailable("the test's backend did not answer")


class ScriptedWatches:
    """Keeps the watches that were added, and one event; ``away``: whether the node does not answer."""

    def __init__(self) -> None:
        self.added: dict[str, Any] = {}
        self.muted: set[str] = set()
        self.away = False

    def report(self) -> WatchesReport:
        if self.away:
            raise ServerUnavailable("No node serves /vlm/list_watches.")
        known = [
            WatchReport(name, watch.prompt, watch.cameras, False, name in self.muted, 0, 0, 0, 0, 0.0, "", "")
            for name, watch in self.added.items()
        ]
        event = EventReport(7, "door", "on", True, "The door is open.", 12.5, "Yes", 0.9, ["after"])
        return WatchesReport(known, [event])

    def add(self, watch: Any) -> str:
        if watch.watch_id in self.added:
            raise BadRequest(f"watch_id: {watch.watch_id!r} is another watch")
        name = watch.watch_id or f"page_{len(self.added)}"
        self.added[name] = watch
        return name

    def remove(self, watch_id: str) -> bool:
        return self.added.pop(watch_id, None) is not None

    def mute(self, watch_id: str, muted: bool) -> bool:
        (self.muted.add if muted else self.muted.discard)(watch_id)
        return watch_id in self.added

    def image(self, number: int, name: str) -> bytes:
        return image_file(64, 48, "JPEG") if (number, name) == (7, "after") else b""


class ScriptedBackend:
    """Answers with ``script``, which may leave a question open for the test to go on with: :meth:`next_asked`."""

    def __init__(self) -> None:
        self.script: Callable[[Asked], None] = says_red
        self.now = NodeStatus(
            "ready", engine="scripted", model="tiny", queue_capacity=8, tasks=("locate",), tools="hermes"
        )
        self.seen: tuple[CameraStatus, ...] = (CameraStatus("front", "/front/image", 30.0, 0.02),)
        self.kept = ScriptedWatches()
        self._asked: queue.Queue[Asked] = queue.Queue()
        self.corrections: list[tuple[str, str]] = []

    def rewrite(self, script: Callable[[Asked], None] | None = None) -> None:
        """Answer with ``script`` from now on, "red" without one, and forget what was asked before."""
        self.script = script or says_red
        self._asked = queue.Queue()

    def send(self, prompt: str, **arguments: Any) -> AnswerFuture:
        asked = Asked(prompt, arguments)
        self._asked.put(asked)
        self.script(asked)
        return asked.question

    def next_asked(self) -> Asked:
        return self._asked.get(timeout=PATIENCE)

    def status(self) -> NodeStatus:
        return self.now

    def cameras(self) -> tuple[CameraStatus, ...]:
        return self.seen

    def snapshot(self, name: str, width: int | None) -> Snapshot:
        if name == "dark":
            raise Unavailable("no frame on /dark/image for 3.0 s: is the camera running?")
        if name != "front":
            raise UnknownCamera(f"there is no camera {name!r}; there are 'front', 'dark'")
        return Snapshot(image_file(width or 64, 48, "JPEG"), (12, 34), 0.056, 64, 48)

    def correct(self, goal_id: str, text: str) -> None:
        if not self.now.records:
            raise CorrectionRefused("the node records nothing: set its parameter record.directory")
        if goal_id != "1" * 32:
            raise CorrectionRefused(f"there is no answer {goal_id!r} in the recording")
        self.corrections.append((goal_id, text))

    def watches(self) -> ScriptedWatches:
        return self.kept

    def tasks(self) -> list[Task]:
        return [Task("locate", "Where things are.", "what", (), "regions", 1, (), "/robot/tasks.yaml")]


def says_red(asked: Asked) -> None:
    asked.say("r")
    asked.say("ed")
    asked.answer()


def stays_open(asked: Asked) -> None:
    """The test says what happens."""


@dataclasses.dataclass(frozen=True)
class Server:
    """The gateway as its clients see it."""

    url: str
    backend: ScriptedBackend
    port: int

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, **options)


@contextmanager
def serving(backend: ScriptedBackend | None = None, token: str = "", **settings: Any) -> Iterator[Server]:
    """Serve until the block ends; every open question is over then."""
    backend = backend or ScriptedBackend()
    chosen = Settings(**({"rate_limit": 0, "concurrency": 100} | settings))
    allowed = Access(token, frozenset()) if token else access(chosen, {})
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(backend, chosen, allowed),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    port = listening.getsockname()[1]
    try:
        yield Server(f"http://127.0.0.1:{port}", backend, port)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()
    assert not thread.is_alive()


def image_file(width: int = 64, height: int = 48, form: str = "PNG") -> bytes:
    """A file with an image of noise."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def data_url(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def question(*content: Any, **fields: Any) -> dict[str, Any]:
    """A request with one turn: texts, and images as files."""
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(part)}}
        if isinstance(part, bytes)
        else {"type": "text", "text": part}
        for part in content or ("What colour is the box?",)
    ]
    return {"messages": [{"role": "user", "content": parts}], **fields}


def events(response: httpx.Response) -> Iterator[Any]:
    """The data of a stream's events, parsed; comments as strings; [DONE] as that."""
    for line in response.iter_lines():
        if line.startswith(":"):
            yield line
        elif line.startswith("data: "):
            yield line[6:] if line == "data: [DONE]" else _json(line[6:])


def _json(text: str) -> Any:
    import json

    return json.loads(text)
