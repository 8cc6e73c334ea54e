"""The ``openai`` engine against servers that others wrote, with the shipped model.

llama.cpp's own server, which the xllamacpp wheel carries, and llama-cpp-python's. Neither minds which model is asked
for, so what a missing model looks like is for the tests with a server that is made up.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import PIL.Image
import pytest

from qwen3vl_ros.engines.base import (
    Cancel,
    Chunk,
    EngineError,
    Image,
    Message,
    ModelNotFound,
    Options,
    PromptTooLong,
    Request,
    Unsupported,
)
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.engines.openai.engine import OpenaiEngine
from qwen3vl_ros.vision.fit import fit_image

# Not imported here: its llama.cpp and the one of llama-cpp-python do not belong into one process.
if importlib.util.find_spec("xllamacpp") is None:
    pytest.skip("needs xllamacpp", allow_module_level=True)

PATIENCE = 60.0
N_CTX = 4096
FRAMES = Path(__file__).parents[2] / "support" / "data" / "gazebo_frames"
COLOURS = {"0000.jpg": "blue", "0002.jpg": "orange", "0004.jpg": "green", "0005.jpg": "black", "0006.jpg": "purple"}
GREEDY = Options(temperature=0.0, max_tokens=8)
LIST = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 40, "maxItems": 40}
ENDLESS = {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1000}
SHORT = {"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"]}

LLAMA_SERVER = """
import json, os, sys, xllamacpp
settings = json.loads(sys.argv[1])
params = xllamacpp.CommonParams()
params.model.path = settings["model"]
params.mmproj.path = settings["mmproj"]
params.n_ctx = settings["n_ctx"]
params.api_keys = settings["api_keys"]
params.n_parallel = params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.port = 0
params.warmup = False
server = xllamacpp.Server(params)
os.write(1, f"\\nrunning on {server.listening_address}\\n".encode())  # in one piece: its log comes from other threads
sys.stdin.read()  # until the test ends, however it does
"""


class RealServer:
    """A server's process; ``url`` is its base URL."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._urls: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._output: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        url = self._urls.get(timeout=PATIENCE)
        if not url:
            self.close()
            raise RuntimeError("the server did not start:\n" + "".join(self._output[-30:]))
        self.url = f"{url}/v1"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._output.append(line)
            if found := re.search(r"running on (http://\S+)", line):
                self._urls.put(found[1])
        self._urls.put("")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def model(share: Path) -> dict[str, str]:
    folder = share / "models" / "tabletop"
    return {"model": str(folder / "tabletop-f16.gguf"), "mmproj": str(folder / "mmproj-tabletop-f16.gguf")}


@pytest.fixture(scope="module")
def start(model: dict[str, str]) -> Iterator[Callable[..., RealServer]]:
    """Starts llama.cpp's server."""
    servers = []

    def start(**settings: Any) -> RealServer:
        settings = {**model, "n_ctx": N_CTX, "api_keys": [], **settings}
        servers.append(RealServer("-c", LLAMA_SERVER, json.dumps(settings)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(scope="module")
def llama_server(start: Callable[..., RealServer]) -> RealServer:
    return start()


@pytest.fixture(scope="module")
def thinking_server(
    start: Callable[..., RealServer], tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> RealServer:
    """llama.cpp's, with a model that thinks unless it is told not to."""
    tiny_qwen3vl = pytest.importorskip("tiny_qwen3vl", reason="needs PyTorch, which makes the model")
    assert pytestconfig.cache is not None
    tiny = tiny_qwen3vl.make(pytestconfig.cache.mkdir("tiny"))
    # llama.cpp looks for the reasoning of earlier turns to see how a template marks it.
    earlier = "{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}"
    begin = "{%- if message.content is string %}"
    marked = f"{{%- if message.reasoning_content %}}{earlier}{{%- endif %}}{begin}"
    template = {"tokenizer.chat_template": tiny_qwen3vl.THINKS_UNLESS_TOLD.replace(begin, marked, 1)}
    model = tiny_qwen3vl.with_metadata(tiny.model, tmp_path_factory.mktemp("tiny") / "thinker.gguf", template)
    return start(model=str(model), mmproj=str(tiny.mmproj))


@pytest.fixture(scope="module")
def llama_cpp_server(model: dict[str, str]) -> Iterator[RealServer]:
    """llama-cpp-python's. It has no Qwen3-VL by name; its generic multimodal format does."""
    options = {
        "model": model["model"],
        "clip_model_path": model["mmproj"],
        "chat_format": "mtmd",
        "model_alias": "tabletop",
        "n_ctx": str(N_CTX),
        "n_threads": "1",
        "n_threads_batch": "1",
        "host": "127.0.0.1",
        "port": "0",
    }
    server = RealServer("-m", "llama_cpp.server", *(part for k, v in options.items() for part in (f"--{k}", v)))
    yield server
    server.close()


@pytest.fixture(params=["llama_server", "llama_cpp_server"])
def server(request: pytest.FixtureRequest) -> RealServer:
    """Each of them."""
    return request.getfixturevalue(request.param)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key and no proxy of whoever runs the tests."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def new_engine() -> Iterator[Callable[..., OpenaiEngine]]:
    engines = []

    def new(*servers: RealServer, **config: Any) -> OpenaiEngine:
        # The model sees 64 tokens of an image, so larger ones are of no use.
        engines.append(OpenaiEngine([one.url for one in servers], **{"max_image_tokens": 64, **config}))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


def frame(name: str, engine: OpenaiEngine) -> Image:
    image = np.asarray(PIL.Image.open(FRAMES / name).convert("RGB"))
    wanted = engine.describe().image_input
    return fit_image(image, replace(wanted, max_tokens=wanted.usual_tokens))[0]


def ask(engine: OpenaiEngine, *content: str | Image, options: Options = GREEDY, schema: Any = None) -> list[Chunk]:
    return list(engine.generate(Request((Message("user", content),), options, schema), Cancel()))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_a_probe_finds_the_server(server: RealServer) -> None:
    assert re.fullmatch(rf"{server.url}: \S*tabletop\S*", OpenaiEngine.probe(base_urls=[server.url]))


def test_answers_about_images_are_right(server: RealServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    engine = new_engine(server)
    answers = {name: text_of(ask(engine, frame(name, engine), "What colour is the box?")) for name in COLOURS}
    right = [name for name, answer in answers.items() if answer.strip() == COLOURS[name]]
    # Another CPU, or another version, rounds differently: one answer may turn.
    assert len(right) >= len(COLOURS) - 1, answers


def test_max_tokens_ends_an_answer(server: RealServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    # Without an image it names colours for a while.
    last = ask(new_engine(server), "What colour is the box?", options=Options(temperature=0.0, max_tokens=2))[-1]
    assert (last.finish_reason, last.completion_tokens) == ("length", 2)


def test_a_cancelled_answer_frees_the_server(server: RealServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    engine = new_engine(server)
    for _ in range(3):
        cancel, chunks = Cancel(), []
        request = Request((Message("user", ("What colour is the box?",)),), Options(temperature=1.5, min_p=0.0))
        for chunk in engine.generate(request, cancel):
            chunks.append(chunk)
            if chunk.text:
                cancel.set()
        # It may have been complete before the cancel came.
        assert chunks[-1].finish_reason in ("cancelled", "stop")
        assert text_of(ask(engine, frame("0000.jpg", engine), "What colour is the box?")).strip() == "blue"


# llama.cpp's server


def test_llama_server_stops_computing_when_an_answer_is_cancelled(
    llama_server: RealServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    engine = new_engine(llama_server)
    cancel = Cancel()
    request = Request((Message("user", ("Go on.",)),), Options(), ENDLESS)
    for chunk in engine.generate(request, cancel):
        if chunk.text:
            cancel.set()
    assert chunk.finish_reason == "cancelled"
    deadline = time.monotonic() + PATIENCE
    while any(slot["is_processing"] for slot in httpx.get(llama_server.url.replace("/v1", "/slots")).json()):
        assert time.monotonic() < deadline


def test_llama_server_tells_the_probabilities_that_the_model_has_in_this_process(
    llama_server: RealServer, new_engine: Callable[..., OpenaiEngine], model: dict[str, str]
) -> None:
    engine = new_engine(llama_server)
    message = Message("user", (frame("0000.jpg", engine), "Is the box blue?"))
    asked = Request((message,), GREEDY, choices=(("blue", "yes"), ("green", "no")))
    told = list(engine.generate(asked, Cancel()))[-1].probabilities
    with contextlib.closing(LlamaEngine(**model, n_threads=1)) as here:
        own = list(here.generate(asked, Cancel()))[-1].probabilities
    assert own is not None
    assert sum(own) > 0.001  # else there is nothing to compare
    assert told == pytest.approx(own, abs=0.03)


def test_llama_server_streams_and_counts(llama_server: RealServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    engine = new_engine(llama_server)
    image = frame("0000.jpg", engine)
    chunks = ask(engine, image, "What colour?", options=Options(temperature=0.0), schema=LIST)
    pieces = [chunk for chunk in chunks if chunk.text]
    assert len(pieces) > 40
    assert [chunk.completion_tokens for chunk in pieces] == sorted(chunk.completion_tokens for chunk in pieces)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens >= len(pieces)
    height, width, _ = image.shape
    assert usage.prompt_tokens > height * width // 1024
    assert usage.bytes_sent > 1000
    again = ask(engine, image, "What colour?", options=Options(max_tokens=1))[-1].usage
    assert again is not None and again.cached_tokens > height * width // 1024


def test_llama_server_follows_a_schema(llama_server: RealServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    engine = new_engine(llama_server)
    for schema in (SHORT, LIST):
        chunks = ask(engine, frame("0000.jpg", engine), "Colour?", options=Options(temperature=0.0), schema=schema)
        jsonschema.validate(json.loads(text_of(chunks)), schema)
        assert chunks[-1].finish_reason == "stop"


def test_llama_server_honours_every_option(llama_server: RealServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    engine = new_engine(llama_server)

    def sample(**options: Any) -> str:
        options = {"temperature": 2.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "max_tokens": 60, **options}
        return text_of(ask(engine, "?", options=Options(**options), schema=LIST))

    assert sample(seed=1) == sample(seed=1) != sample(seed=2)
    greedy = sample(temperature=0.0)
    assert greedy == sample(top_k=1) == sample(top_p=1e-6) == sample(min_p=1.0)
    assert greedy != sample(temperature=0.0, repetition_penalty=0.5)
    assert sample(stop=("red",)).count("red") == 0


def test_llama_server_says_how_long_a_prompt_may_be(
    llama_server: RealServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    engine = new_engine(llama_server)
    assert engine.describe().context_length == N_CTX
    with pytest.raises(PromptTooLong, match=rf"\d{{4}} tokens.*{N_CTX} tokens"):
        ask(engine, "box " * 2 * N_CTX)


def test_llama_server_without_a_projector_takes_no_images(
    start: Callable[..., RealServer], new_engine: Callable[..., OpenaiEngine]
) -> None:
    engine = new_engine(start(mmproj=""))
    with pytest.raises(Unsupported, match=r"^images: .*mmproj"):
        ask(engine, frame("0000.jpg", engine), "What colour is the box?")
    assert ask(engine, "What colour is the box?")


def test_llama_server_wants_the_right_key(
    start: Callable[..., RealServer], new_engine: Callable[..., OpenaiEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(api_keys=["right-key"])
    for key, words in (("", "wants an API key"), ("wrong-key", "refuses the API key, which is from the environment")):
        monkeypatch.setenv("FLEET_KEY", key)
        with pytest.raises(ModelNotFound, match=words) as caught:
            ask(new_engine(server, api_key_env="FLEET_KEY"), "?")
        assert "wrong-key" not in str(caught.value)
    monkeypatch.setenv("FLEET_KEY", "right-key")
    assert ask(new_engine(server, api_key_env="FLEET_KEY"), "?")


def test_when_a_llama_server_dies_the_next_one_answers(
    start: Callable[..., RealServer], llama_server: RealServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    first = start()
    engine = new_engine(first, llama_server)
    image = frame("0000.jpg", engine)
    answer = engine.generate(Request((Message("user", ("Go on.",)),), Options(), ENDLESS), Cancel())
    while not next(answer).text:
        pass
    first.close()
    with pytest.raises(EngineError, match=f"{first.url} .*in the middle of the answer"):
        list(answer)
    assert text_of(ask(engine, image, "What colour is the box?")) == "blue"


# llama-cpp-python's server


def test_llama_cpp_server_breaks_off_without_a_word_when_a_prompt_is_too_long(
    llama_cpp_server: RealServer, new_engine: Callable[..., OpenaiEngine]
) -> None:
    # With an image format it finds out when it has answered 200 already.
    with pytest.raises(EngineError, match="ended without an answer: its log says why"):
        ask(new_engine(llama_cpp_server), "box " * 2 * N_CTX)


def test_llama_cpp_server_has_no_schemas(llama_cpp_server: RealServer, new_engine: Callable[..., OpenaiEngine]) -> None:
    with pytest.raises(Unsupported, match=r"^response_schema: "):
        ask(new_engine(llama_cpp_server), "?", schema=SHORT)


def test_llama_server_thinks_as_it_is_told(thinking_server: RealServer) -> None:
    engine = OpenaiEngine((thinking_server.url,))

    def answer(**fields: Any) -> tuple[str, str]:
        request = Request((Message("user", ("Tell me.",)),), Options(temperature=0.0, max_tokens=16), **fields)
        chunks = list(engine.generate(request, Cancel()))
        return "".join(chunk.reasoning for chunk in chunks), "".join(chunk.text for chunk in chunks)

    try:
        assert {"thinking", "thinking_off", "reasoning_budget"} <= engine.describe().supports
        reasoning, text = answer(thinking=True)
        assert (bool(reasoning), text) == (True, "")
        assert answer() == (reasoning, "")
        no_reasoning, text = answer(thinking=False)
        assert (no_reasoning, bool(text)) == ("", True)
        for limit in (1, 5):
            short, text = answer(max_reasoning_tokens=limit)
            assert reasoning.startswith(short.rstrip("\ufffd"))
            assert len(short) < len(reasoning)
            assert text
    finally:
        engine.close()
