"""Every engine keeps the contract: the conformance suite on the engines of this package, and on the example of one."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import broken_engines
from fake_maix_service import FakeMaixService, Script
from fake_openai_server import Exchange, FakeServer
from maix_double.board import DOUBLE, Answer, Board, install
from qwen3vl_ros.engines import registry
from qwen3vl_ros.engines.base import Chunk, Engine, EngineError, Message, Request
from qwen3vl_ros.engines.conformance import EngineConformance
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.engines.maix.engine import MaixEngine
from qwen3vl_ros.engines.maix_http.engine import MaixHttpEngine
from qwen3vl_ros.engines.openai.engine import OpenaiEngine
from qwen3vl_ros.engines.process import EngineProcess, EngineSpec, Health, State

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "engine_package"
sys.path.append(str(EXAMPLE))
from mean_colour import MeanColourEngine  # noqa: E402

SENTENCE = "Œuvre: 猫 und 🦊, ½ Żółw in the blue box"
WORDS = ("Œu", "vre: ", "猫 ", "und ", "🦊 ", "in ", "the ", "blue ", "box")
PIECES = tuple("".join(WORDS).encode()[start : start + 4] for start in range(0, 48, 4))
FOR_EVER = "Go on for ever."


@pytest.mark.model
class TestLlama(EngineConformance):
    """With the shipped model. It answers in one word, so a grammar makes it speak longer."""

    engine_class = LlamaEngine

    @pytest.fixture(scope="class")
    def config(self, share: Path) -> Mapping[str, Any]:
        # One thread: two that wait for each other crawl when something else has the second core.
        return {"model": str(share / "models" / "tabletop"), "n_threads": 1}

    def long_request(self, engine: Engine) -> Request:
        return self.request(engine, "Say it.", schema={"const": SENTENCE})

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.long_request(engine)


class TestOpenai(EngineConformance):
    """With a server that does what it is asked, and cuts its events in the middle of characters."""

    engine_class = OpenaiEngine
    context_length = 500

    @pytest.fixture(scope="class")
    def config(self) -> Iterator[Mapping[str, Any]]:
        server = FakeServer(self.answer)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                patch.delenv(name, raising=False)
                patch.delenv(name.lower(), raising=False)
            yield {"base_urls": (server.url,), "context_length": self.context_length, "api_key_env": ""}
        server.close()

    def answer(self, exchange: Exchange) -> None:
        body = exchange.json
        prompt = json.dumps(body["messages"])
        if len(prompt.split()) > self.context_length:
            message = (
                f"This model's maximum context length is {self.context_length} tokens. However, you requested "
                f"{len(prompt.split())} tokens in the messages. Please reduce the length of the messages."
            )
            exchange.reply(400, {"error": {"message": message, "type": "BadRequestError", "code": 400}})
            return
        number = re.search(rf"{re.escape(self.question)} (\d)", prompt)  # of `numbered_request`
        words = (*WORDS, *number.groups()) if number else WORDS
        words = words if "response_format" not in body else ('{"colour": ', '"red"', "}")
        limit = min(body.get("max_tokens", len(words)), len(words))
        exchange.stream()
        for word in words[:limit]:
            event = json.dumps({"choices": [{"index": 0, "delta": {"content": word}}]}, ensure_ascii=False).encode()
            middle = event.index(word[0].encode()) + 1
            exchange.raw(b"data: " + event[:middle])
            exchange.raw(event[middle:] + b"\n\n")
        if FOR_EVER in prompt:
            exchange.wait_for_disconnect()
            return
        usage = {"prompt_tokens": 30, "completion_tokens": limit}
        exchange.finish("stop" if limit == len(words) else "length", usage)

    def endless_request(self, engine: Engine) -> Request:
        return self.request(engine, FOR_EVER)

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.long_request(engine)


class Book(deque[Any]):
    """What a board's doubles take the next answer from: it is written when the question is known."""

    def __init__(self, write: Callable[[], Any]) -> None:
        super().__init__([None])
        self._write = write

    def popleft(self) -> Any:
        return self._write()

    def pop(self, _: int = 0) -> Any:
        return self._write()


class TestMaixHttp(EngineConformance):
    """With a double of the board's service, faults included."""

    engine_class = MaixHttpEngine

    @pytest.fixture(scope="class")
    def config(self) -> Iterator[Mapping[str, Any]]:
        service = FakeMaixService()

        def write() -> Script:
            return Script(pieces=PIECES, hold_at=5 if FOR_EVER in service.questions[-1].text else None)

        service.scripts = Book(write)
        yield {"base_url": service.url}
        service.close()

    def endless_request(self, engine: Engine) -> Request:
        return self.request(engine, FOR_EVER)

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.long_request(engine)


@pytest.mark.slow
class MaixConformance(EngineConformance):
    """With a double of MaixPy and of the board around it."""

    engine_class = MaixEngine
    model_class = ""

    @pytest.fixture(scope="class")
    def config(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Any]]:
        board = Board()
        board.answers = Book(lambda: self.answer_to(board.asked[-1].text))  # type: ignore[assignment]
        folder = tmp_path_factory.mktemp("maix") / "Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448"
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(DOUBLE))
            yield {"model": install(board, folder, self.model_class), "model_class": self.model_class}
        board.close()

    def answer_to(self, question: str) -> Answer:
        raise NotImplementedError

    def endless_request(self, engine: Engine) -> Request:
        return self.request(engine, FOR_EVER)

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.long_request(engine)


class TestMaixQwen3VL(MaixConformance):
    model_class = "Qwen3VL"

    def answer_to(self, question: str) -> Answer:
        return Answer(tuple(word.encode() for word in WORDS), hold=5 if FOR_EVER in question else None)


class TestMaixInternVL(MaixConformance):
    """It looks whether it was cancelled when a token comes, so they come all the time."""

    model_class = "InternVL"

    def answer_to(self, question: str) -> Answer:
        return Answer(PIECES * 10_000 if FOR_EVER in question else PIECES)


class TestMeanColour(EngineConformance):
    """The example of a third party's engine."""

    engine_class = MeanColourEngine

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.request(engine)


def test_example_package_is_found_by_its_entry_point_and_answers_in_the_engine_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `pip install examples/engine_package`, whose metadata this writes."""
    metadata = tmp_path / "mean_colour_engine-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-colour-engine\nVersion: 1\n")
    project = (EXAMPLE / "pyproject.toml").read_text()
    found = re.search(rf'^\[project\.entry-points\."{registry.GROUP}"\]\n(\w+) = "([\w.:]+)"$', project, re.MULTILINE)
    assert found is not None
    (metadata / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{found[1]} = {found[2]}\n")
    for path in (EXAMPLE, tmp_path):
        monkeypatch.syspath_prepend(str(path))

    assert registry.load("mean_colour") is MeanColourEngine
    changes: queue.Queue[Health] = queue.Queue()
    items: queue.Queue[Chunk | EngineError] = queue.Queue()
    process = EngineProcess(EngineSpec("mean_colour", {"max_side": 8}), changes.put)
    try:
        while (health := changes.get(timeout=60)).state is not State.READY:
            assert health.state is not State.FAILED, health.message
        red = np.full((8, 8, 3), (200, 30, 30), np.uint8)
        process.submit(Request((Message("user", (red, "Which colour?")),)), items.put)
        text = ""
        while not isinstance(item := items.get(timeout=60), EngineError) and item.finish_reason is None:
            text += item.text
        assert not isinstance(item, EngineError), item
        assert "red" in text + item.text
    finally:
        process.close()


@pytest.mark.slow
def test_suite_notices_every_broken_promise(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    tests = [f"broken_engines.py::{name}" for name in broken_engines.MUST_FAIL]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--tb=line", f"--junitxml={report}", "-p", "no:cacheprovider", *tests],
        cwd=Path(broken_engines.__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert report.exists(), run.stdout + run.stderr
    cases = ElementTree.parse(report).findall(".//testcase")
    assert len(cases) == len(tests), run.stdout
    passed = [case.attrib for case in cases if case.find("failure") is None and case.find("error") is None]
    assert not passed, run.stdout
