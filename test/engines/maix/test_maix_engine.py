"""The ``maix`` engine on a double of MaixPy, whose signatures are those of the real one's type stubs."""

from __future__ import annotations

import ast
import enum
import importlib
import importlib.metadata
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maix_double.board import DOUBLE, PATIENCE, Board, install
from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Cancel,
    Chunk,
    EngineError,
    EngineNotReady,
    Image,
    Message,
    ModelNotFound,
    Options,
    PromptTooLong,
    Request,
    Stage,
    Unsupported,
)
from qwen3vl_ros.engines.maix import engine as maix_engine
from qwen3vl_ros.engines.maix import process as maix_process
from qwen3vl_ros.engines.maix.engine import MaixEngine
from qwen3vl_ros.engines.process import EngineProcess, EngineSpec, State

BOTH = pytest.mark.parametrize("kind", ["Qwen3VL", "InternVL"])
IMAGE = np.random.default_rng(0).integers(0, 256, (448, 448, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def maixpy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The double is what ``import maix`` finds, here and in processes; nothing of it stays imported."""
    monkeypatch.syspath_prepend(str(DOUBLE))
    for name in [name for name in sys.modules if name.split(".")[0] == "maix"]:
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "maix"]:
        del sys.modules[name]


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board()
    yield board
    board.close()


@pytest.fixture
def model(board: Board, tmp_path: Path) -> Callable[[str], str]:
    names = {"Qwen3VL": "Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448-maixcam2", "InternVL": "InternVL2.5-1B"}
    return lambda kind: install(board, tmp_path / names[kind], kind)


@pytest.fixture
def start(board: Board, model: Callable[[str], str]) -> Iterator[Callable[..., MaixEngine]]:
    engines = []

    def start(kind: str = "Qwen3VL", **config: Any) -> MaixEngine:
        engines.append(MaixEngine(config.pop("model", "") or model(kind), model_class=kind, **config))
        return engines[-1]

    yield start
    board.go_on()
    for engine in engines:
        engine.close()
    assert board.objects == 0, "a model was not released"


def question(text: str = "What is there?", image: Image | None = IMAGE, **options: Any) -> Request:
    content = (text,) if image is None else (image, text)
    return Request((Message("user", content),), Options(**options))


def stream(engine: MaixEngine, request: Request | None = None, cancel: Cancel | None = None) -> list[Chunk]:
    return list(engine.generate(request or question(), cancel or Cancel()))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@pytest.fixture
def change_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has MaixPy's processes that start from now on run a line first, which changes ``host``."""

    def change(line: str) -> None:
        module = f"from qwen3vl_ros.engines.maix import host\n{line}\nmain = host.main\n"
        (tmp_path / "changed_host.py").write_text(module, encoding="utf-8")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(maix_process, "_HOST", "changed_host")

    return change


def ask(engine: MaixEngine, text: str = "What is there?", **options: Any) -> str:
    return text_of(stream(engine, question(text, **options)))


# An answer


@BOTH
def test_an_answer_comes_piece_by_piece_while_maixpy_is_at_it(
    board: Board, start: Callable[..., MaixEngine], kind: str
) -> None:
    engine = start(kind)
    answer = board.will_say("A ", "red ", "bus.", hold=1)
    chunks = engine.generate(question(), Cancel())
    seen = [next(chunks), next(chunks), next(chunks)]
    assert [chunk.stage for chunk in seen] == [Stage.ENCODE, Stage.PREFILL, Stage.DECODE]
    assert seen[-1].text == "A "
    answer.go_on()
    seen += chunks
    assert text_of(seen) == "A red bus."
    last = seen[-1]
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert last.usage.completion_tokens == last.completion_tokens >= 3
    assert last.usage.image_tokens == 196
    assert last.usage.prompt_tokens > 196
    assert (last.usage.encode_time is None) == (kind == "Qwen3VL")
    assert 0 < last.usage.first_token_time <= last.usage.total_time
    assert [chunk.finish_reason for chunk in seen[:-1]] == [None] * (len(seen) - 1)


@BOTH
def test_the_model_gets_the_image_as_it_is_and_instructions_before_the_question(
    board: Board, start: Callable[..., MaixEngine], kind: str
) -> None:
    engine = start(kind)
    image = IMAGE.copy()
    image.flags.writeable = False  # as in the worker, where it is shared memory
    messages = (Message("system", ("Be brief.",)), Message("user", ("Look: ", image, "what is it?")))
    for _ in range(2):
        assert text_of(stream(engine, Request(messages))) == "fine"
    for asked in board.asked:
        assert asked.text == "Be brief.\n\nLook: what is it?"
        assert asked.roles == ("user",)
        assert asked.image is not None
        assert np.array_equal(asked.image, IMAGE)


def test_a_question_without_an_image_does_not_meet_the_last_one(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start()
    ask(engine)
    chunks = stream(engine, question("Who are you?", None))
    assert chunks[-1].finish_reason == "stop"
    assert board.asked[-1].image is not None
    assert np.unique(board.asked[-1].image).tolist() == [128]


def test_internvl_answers_without_an_image(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start("InternVL")
    ask(engine)
    chunks = stream(engine, question("Who are you?", None))
    assert chunks[0].stage is Stage.PREFILL
    assert board.asked[-1].image is None
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.image_tokens == 0


def test_what_one_question_sets_the_next_does_not_find(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start()
    ask(engine)
    recommended = board.asked[-1].settings
    assert recommended == {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.0002}
    ask(engine, temperature=0.0)
    assert (board.asked[-1].settings["temperature"], board.asked[-1].settings["top_k"]) == (0.01, 1)
    ask(engine, temperature=1.5, top_p=0.5, top_k=7, repetition_penalty=1.3)
    assert board.asked[-1].settings == {"temperature": 1.5, "top_p": 0.5, "top_k": 7, "repetition_penalty": 1.3}
    ask(engine)
    assert board.asked[-1].settings == recommended


def test_a_character_in_two_pieces_comes_whole(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start("InternVL")
    bus = "红".encode()
    board.will_say(b"a ", bus[:1], bus[1:] + b" bus")
    assert ask(engine) == "a 红 bus"


# Ending an answer early


@BOTH
@pytest.mark.parametrize("hold", [0, 1])
def test_a_cancelled_answer_ends_at_once_and_the_next_needs_no_loading(
    board: Board, start: Callable[..., MaixEngine], kind: str, hold: int
) -> None:
    engine = start(kind)
    held = board.will_say("one ", "two ", "three ", hold=hold)
    cancel = Cancel()
    chunks = engine.generate(question(), cancel)
    seen = [next(chunks) for _ in range(2 + hold)]
    cancel.set()
    seen += chunks  # the model says nothing more, so this would wait for ever
    assert seen[-1].finish_reason == "cancelled"
    assert text_of(seen) == ("one " if hold else "")
    held.go_on()
    assert ask(engine) == "fine"
    assert ask(engine) == "fine"
    assert board.objects == 1
    assert (board.starts, board.stops) == ((1, 0) if kind == "Qwen3VL" else (0, 0))


def test_a_service_that_forgets_to_stop_is_told_again(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start()
    held = board.will_say("one", "two", hold=(0, 1))  # it forgets what it hears before the first token
    cancel = Cancel()
    chunks = engine.generate(question(), cancel)
    assert [next(chunks).stage, next(chunks).stage] == [Stage.ENCODE, Stage.PREFILL]
    board.wait_for(lambda: board.running is held)
    cancel.set()
    assert list(chunks)[-1].finish_reason == "cancelled"
    assert board.stop_requests == 1
    held.gates[0].set()
    assert ask(engine) == "fine"
    assert board.stop_requests > 1
    assert board.starts == 1


@BOTH
def test_an_answer_that_nobody_reads_on_leaves_the_engine_usable(
    board: Board, start: Callable[..., MaixEngine], kind: str
) -> None:
    engine = start(kind)
    held = board.will_say("one ", "two ", hold=1)
    chunks = engine.generate(question(), Cancel())
    while not next(chunks).text:
        pass
    with pytest.raises(EngineError, match="one request at a time"):
        stream(engine)
    chunks.close()
    held.go_on()
    assert ask(engine) == "fine"


@BOTH
def test_stop_strings_and_max_tokens_end_the_answer_on_the_board_too(
    board: Board, start: Callable[..., MaixEngine], kind: str
) -> None:
    engine = start(kind)
    pieces = ["I see ", "a bus", ". EN", "D and ", "more"]
    for options, text, finish in (
        ({"stop": ("END",)}, "I see a bus. ", "stop"),
        ({"max_tokens": 3}, "I see a bus", "length"),
    ):
        held = board.will_say(*pieces, hold=4)
        chunks = stream(engine, question(**options))
        assert chunks[-1].finish_reason == finish
        assert text_of(chunks) == text
        held.go_on()
    assert ask(engine) == "fine"
    assert board.starts == (kind == "Qwen3VL")


def test_an_answer_that_fills_the_context_was_cut_off(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start()
    board.will_say(*["word "] * 250)
    assert stream(engine)[-1].finish_reason == "length"


def test_an_answer_that_does_not_end_costs_the_service_a_restart(
    board: Board, start: Callable[..., MaixEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = start()
    board.stoppable = False
    held = board.will_say("one ", "two", hold=1)
    cancel = Cancel()
    chunks = engine.generate(question(), cancel)
    while not next(chunks).text:
        pass
    cancel.set()
    assert list(chunks)[-1].finish_reason == "cancelled"
    monkeypatch.setattr(maix_engine, "_END_TIMEOUT", 0.1)
    assert ask(engine) == "fine"
    assert (board.starts, board.stops) == (2, 1)
    assert held.stopped


def test_a_cancel_is_heard_while_the_model_is_loaded_anew(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start()
    board.refuses = True
    with pytest.raises(EngineError):
        ask(engine)
    board.refuses, board.ready = False, False
    cancel = Cancel()
    threading.Timer(0.2, cancel.set).start()
    assert stream(engine, cancel=cancel)[-1].finish_reason == "cancelled"
    board.ready = True
    assert ask(engine) == "fine"


# What goes wrong


def test_an_empty_answer_is_an_error_and_the_next_is_from_a_fresh_service(
    board: Board, start: Callable[..., MaixEngine]
) -> None:
    engine = start()
    board.refuses = True
    with pytest.raises(EngineError, match="empty"):
        ask(engine)
    board.refuses = False
    assert ask(engine) == "fine"
    assert (board.starts, board.stops, board.objects) == (2, 1, 1)


def test_a_service_that_is_gone_is_not_ready(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start()
    board.active = False
    with pytest.raises(EngineNotReady, match="systemctl status"):
        ask(engine)
    assert ask(engine) == "fine"


def test_an_answer_that_maixpy_gave_up_is_an_error(
    board: Board, start: Callable[..., MaixEngine], change_host: Callable[[str], None]
) -> None:
    change_host("from maix import nn; nn.READ_TIMEOUT, host._READ_TIMEOUT = 1.0, 1.5")
    engine = start()
    board.will_say("half an ", "answer", hold=1)
    with pytest.raises(EngineError, match="said nothing"):
        ask(engine)
    assert ask(engine) == "fine"
    assert (board.starts, board.stops) == (2, 1)


@BOTH
@pytest.mark.parametrize("wanted", [True, False])
def test_a_maixpy_that_dies_ends_one_answer_and_leaves_nothing_to_the_next(
    board: Board, start: Callable[..., MaixEngine], kind: str, wanted: bool
) -> None:
    engine = start(kind)
    board.stoppable = False
    board.will_say("one ", "two", hold=1)
    cancel = Cancel()
    chunks = engine.generate(question(), cancel)
    while not next(chunks).text:
        pass
    if not wanted:
        cancel.set()
        assert list(chunks)[-1].finish_reason == "cancelled"
    os.kill(board.owners[-1], signal.SIGKILL)
    if wanted:
        with pytest.raises(EngineError, match="SIGKILL"):
            list(chunks)
    assert ask(engine) == "fine"
    assert board.starts == (2 if kind == "Qwen3VL" else 0)


def test_what_maixpy_reports_is_an_error(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start("InternVL")
    with pytest.raises(EngineError, match="Encode msg failed"):
        ask(engine, "too long")
    assert ask(engine) == "fine"
    assert board.objects == 1


REFUSED: list[tuple[Request, type[Exception], str]] = [
    (question("word " * 200), PromptTooLong, r"\d+ tokens, 196 of them .* reads 320"),
    (question(image=IMAGE[:100]), BadImage, "448x448"),
    (question(seed=1), Unsupported, "^seed"),
    (question(min_p=0.1), Unsupported, "^min_p"),
    (question(repetition_penalty=0.5), Unsupported, "^repetition_penalty"),
    (question(max_tokens=0), BadRequest, "max_tokens"),
    (question(" "), BadRequest, "no question"),
    (question("\ud800"), BadRequest, "surrogate"),
    (Request((Message("user", ("?", IMAGE, IMAGE)),)), BadImage, "one image"),
    (Request((Message("user", ("?",)), Message("assistant", ("!",)))), Unsupported, "^sessions"),
    (Request(()), Unsupported, "^sessions"),
    (Request((Message("user", ("?",)),), response_schema={"type": "object"}), Unsupported, "^response_schema"),
]


def test_what_cannot_be_done_is_refused_before_anything_is_sent(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start()
    for request, error, words in REFUSED:
        with pytest.raises(error, match=words):
            stream(engine, request)
    assert not board.asked
    assert ask(engine) == "fine"


def test_internvl_refuses_sampling_that_it_would_ignore(board: Board, start: Callable[..., MaixEngine]) -> None:
    engine = start("InternVL")
    assert "temperature" not in engine.describe().supports
    with pytest.raises(Unsupported, match=r"^temperature"):
        ask(engine, temperature=0.5)
    assert not board.asked


# The model


def test_the_description_has_the_encoders_size_and_the_limits_of_the_name(start: Callable[..., MaixEngine]) -> None:
    description = start(fit="cover").describe()
    assert description.image_input.size == (448, 448)
    assert description.image_input.fit == "cover"
    assert (description.prompt_limit, description.context_length) == (320, 448)
    assert description.model == "Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448-maixcam2"


def test_a_renamed_qwen3vl_keeps_the_limits_of_the_only_one_there_is(
    board: Board, start: Callable[..., MaixEngine], tmp_path: Path
) -> None:
    description = start(model=install(board, tmp_path / "mine", "Qwen3VL")).describe()
    assert (description.prompt_limit, description.context_length) == (320, 448)


def test_an_engine_waits_for_another_that_is_about_to_end(
    board: Board, start: Callable[..., MaixEngine], model: Callable[[str], str]
) -> None:
    path = model("Qwen3VL")
    first = start(model=path)
    started = [threading.Event(), threading.Event()]
    second: list[MaixEngine] = []

    def progress(sentence: str) -> None:
        started[1].set()  # it loads

    def wait() -> None:
        started[0].set()
        second.append(start(model=path, progress=progress))

    thread = threading.Thread(target=wait)
    thread.start()
    assert started[0].wait(PATIENCE)
    assert ask(first) == "fine"
    assert not started[1].is_set()
    first.close()
    first.close()
    thread.join(PATIENCE)
    assert ask(second[0]) == "fine"
    assert (board.starts, board.stops) == (2, 1)


def test_a_model_that_somebody_keeps_is_not_ready(
    board: Board, start: Callable[..., MaixEngine], model: Callable[[str], str], change_host: Callable[[str], None]
) -> None:
    path = model("Qwen3VL")
    first = start(model=path)
    change_host("host._LOCK_TIMEOUT = 0.1")
    with pytest.raises(EngineNotReady, match="Another process uses"):
        start(model=path)
    assert ask(first) == "fine"


def test_a_model_that_does_not_load_in_time_is_not_ready(board: Board, start: Callable[..., MaixEngine]) -> None:
    board.ready = False
    said: list[str] = []
    with pytest.raises(EngineNotReady, match="load_timeout"):
        start(load_timeout=5.0, progress=said.append)
    assert said


def test_services_that_do_not_start_are_named(board: Board, start: Callable[..., MaixEngine]) -> None:
    board.can_start = False
    with pytest.raises(EngineNotReady, match="systemctl status"):
        start()


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("__version__ = '4.12.1'", r"4\.12\.1 has no nn\.Qwen3VL"),
        ("import libopencv_none", "libopencv_none.*maix_http"),
    ],
)
def test_a_maixpy_that_is_too_old_or_for_another_machine_says_so(
    start: Callable[..., MaixEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, words: str
) -> None:
    other = tmp_path / "other" / "maix"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text(package)
    (other / "nn.py").touch()
    (other / "err.py").touch()
    monkeypatch.syspath_prepend(str(other.parent))
    with pytest.raises(ModelNotFound, match=words):
        start()


@BOTH
def test_probing_finds_the_model_and_imports_nothing_native(model: Callable[[str], str], kind: str) -> None:
    path = model(kind)
    assert Path(path).parent.name in MaixEngine.probe(model=path, model_class=kind, fit="fill")
    assert not [name for name in sys.modules if name.split(".")[0] == "maix"]


def test_off_the_board_the_engine_says_where_to_go(
    model: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model("Qwen3VL")
    monkeypatch.setitem(sys.modules, "maix", None)
    for attempt in (MaixEngine.probe, MaixEngine):
        with pytest.raises(ModelNotFound, match="maix_http"):
            attempt(model=path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda mud: mud.unlink(), "There is no model description"),
        (lambda mud: mud.write_bytes(b"\xff\xfe"), "no description"),
        (lambda mud: mud.write_text("[basic]\ntype = axmodel\n"), "no description"),
        (lambda mud: mud.write_text(mud.read_text().replace("llm_service_url", "other")), "nn.InternVL"),
        (lambda mud: mud.write_text(mud.read_text().replace("vpm_len = 196", "")), "vpm_len"),
        (lambda mud: (mud.parent / "vision.axmodel").unlink(), "vision.axmodel"),
    ],
)
def test_a_model_that_is_not_there_or_not_whole_is_named(
    model: Callable[[str], str], spoil: Callable[[Path], Any], words: str
) -> None:
    mud = Path(model("Qwen3VL"))
    spoil(mud)
    for attempt in (MaixEngine.probe, MaixEngine):
        with pytest.raises(ModelNotFound, match=words) as error:
            attempt(model=str(mud))
        assert str(mud) in str(error.value)


# In the worker process


@pytest.fixture
def worker(board: Board, model: Callable[[str], str]) -> Iterator[tuple[EngineProcess, threading.Event]]:
    ready = threading.Event()
    process = EngineProcess(
        EngineSpec("maix", {"model": model("Qwen3VL"), "load_timeout": 60.0}),
        lambda health: ready.set() if health.state is State.READY else None,
    )
    yield process, ready
    process.close()
    board.wait_for(lambda: board.objects == 0)


def test_the_worker_hears_a_cancel_while_maixpy_holds_the_gil(
    board: Board, worker: tuple[EngineProcess, threading.Event]
) -> None:
    process, ready = worker
    assert ready.wait(PATIENCE)
    held = board.will_say("never", hold=0)
    ended = threading.Event()
    items: list[Chunk | EngineError] = []

    def deliver(item: Chunk | EngineError) -> None:
        items.append(item)
        if isinstance(item, EngineError) or item.finish_reason is not None:
            ended.set()

    call = process.submit(question(), deliver)
    board.wait_for(lambda: board.running is held)
    call.cancel()
    assert ended.wait(PATIENCE)
    assert isinstance(items[-1], Chunk)
    assert items[-1].finish_reason == "cancelled"
    held.go_on()


@pytest.mark.parametrize("end", ["close", "kill"])
def test_the_model_is_released_though_the_worker_goes_in_the_middle_of_an_answer(
    board: Board, worker: tuple[EngineProcess, threading.Event], end: str
) -> None:
    process, ready = worker
    assert ready.wait(PATIENCE)
    held = board.will_say("one ", "two ", "three", hold=1)
    process.submit(question(), lambda item: None)
    board.wait_for(lambda: held.said == 1)
    if end == "kill":
        process.kill("the test says so")
    process.close()
    held.go_on()
    board.wait_for(lambda: board.objects == 0)
    assert not board.active


# The double


def elsewhere(script: str, model: str) -> str:
    """What ``script`` prints, run with the double in a process of its own."""
    script = f"import sys; sys.path.insert(0, {str(DOUBLE)!r}); model = {model!r}\n" + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, check=True, text=True, timeout=PATIENCE
    )
    return done.stdout


def test_the_double_holds_the_gil_while_it_waits(board: Board, model: Callable[[str], str]) -> None:
    answer = board.will_say("one", "two", hold=1)
    # That nothing happens meanwhile has no event: 0.3 s are hundreds of turns, were the lock free.
    goes_on = threading.Thread(
        target=lambda: (board.wait_for(lambda: answer.said == 1), time.sleep(0.3), answer.go_on())
    )
    goes_on.start()
    script = """
        import threading, time
        from maix import nn
        turns, ended, seen = 0, False, []
        def count():
            global turns
            while not ended:
                turns += 1
                time.sleep(0.001)
        vlm = nn.InternVL(model)
        vlm.set_reply_callback(lambda obj, response: seen.append(turns))
        thread = threading.Thread(target=count)
        thread.start()
        vlm.send("What?")
        ended = True
        thread.join()
        print(len(seen), seen[-1] - seen[0])
    """
    assert elsewhere(script, model("InternVL")).split() == ["2", "0"]
    goes_on.join()


def test_the_double_breaks_on_cancel_as_maixpy_does(board: Board, model: Callable[[str], str]) -> None:
    board.will_say("one ", "two ", "three")
    script = "from maix import nn; vlm = nn.Qwen3VL(model); vlm.cancel(); print(vlm.send('What?').msg)"
    assert elsewhere(script, model("Qwen3VL")) == "one \n"


def _stubs(path: str) -> ast.Module:
    """A type stub of the real MaixPy, of which nothing is imported."""
    try:
        files = importlib.metadata.files("maixpy") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("maixpy has no wheel for this machine")
    (file,) = [file for file in files if str(file) == f"maix/_maix/{path}.pyi"]
    return ast.parse(Path(str(file.locate())).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "public"), [("nn", 6), ("image", 4), ("err", 4)])
def test_the_double_has_the_signatures_of_maixpy(name: str, public: int) -> None:
    double = importlib.import_module(f"maix.{name}")
    stubs = {
        node.name: node
        for node in _stubs("nn/__init__" if name == "nn" else name).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    }
    own = [value for value in vars(double).values() if getattr(value, "__module__", "") == double.__name__]
    own = [value for value in own if not value.__name__.startswith("_")]
    assert len(own) == public
    for value in own:
        stub = stubs.get(value.__name__)
        if stub is None:  # wheels for Python 3.11 are older than Qwen3VL
            stub = stubs[value.__name__.replace("Qwen3VL", "InternVL")]
        if isinstance(stub, ast.FunctionDef):
            assert _parameters_of(value) == _parameters_in(stub), stub.name
        else:
            _compare(value, stub)


def _compare(own: type, stub: ast.ClassDef) -> None:
    names = {name for base in own.__mro__ if base.__module__ == own.__module__ for name in vars(base)}
    methods = {node.name: node for node in stub.body if isinstance(node, ast.FunctionDef)}
    attributes = {ast.unparse(n.target): ast.unparse(n.annotation) for n in stub.body if isinstance(n, ast.AnnAssign)}
    if issubclass(own, enum.Enum):
        assert {member.name for member in own} <= set(attributes)
        return
    for name in names:
        if name.startswith("_") and (name != "__init__" or name not in methods):
            continue
        member = inspect.getattr_static(own, name)
        if isinstance(member, property):
            assert name in attributes, f"{stub.name} has no {name}"
        elif (stub.name, name) != ("InternVL", "is_ready") or own.__name__ == "InternVL":
            assert name in methods, f"{stub.name} has no {name}"
            assert _parameters_of(member) == _parameters_in(methods[name]), f"{stub.name}.{name}"
    if own.__name__.endswith("PostConfig"):
        assert {name: type(value).__name__ for name, value in vars(own()).items()} == attributes
    elif own.__name__.endswith("Resp"):
        assert {name for name in (*vars(own()), *names) if not name.startswith("_")} == set(attributes)


def _parameters_of(function: Callable[..., Any]) -> list[tuple[str, bool]]:
    """(name, whether there is a default) of each."""
    return [(p.name, p.default is not p.empty) for p in inspect.signature(function).parameters.values()]


def _parameters_in(stub: ast.FunctionDef) -> list[tuple[str, bool]]:
    required = len(stub.args.args) - len(stub.args.defaults)
    return [(argument.arg, i >= required) for i, argument in enumerate(stub.args.args)]
