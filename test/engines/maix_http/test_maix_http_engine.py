"""The ``maix_http`` engine against a stand-in for the board's service that has all of its faults."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from fake_maix_service import DONE, MODEL, FakeMaixService, Script, event
from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Cancel,
    Chunk,
    Engine,
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
from qwen3vl_ros.engines.conformance import EngineConformance
from qwen3vl_ros.engines.maix_http import service as maix_http_service
from qwen3vl_ros.engines.maix_http.engine import MaixHttpEngine
from qwen3vl_ros.engines.maix_http.tokens import likely_tokens, most_tokens

PATIENCE = 60.0
NAMED = "Qwen3-VL-2B-Instruct-GPTQ-Int4-AX630C-P320-CTX448"


@pytest.fixture
def new_service() -> Iterator[Callable[..., FakeMaixService]]:
    services: list[FakeMaixService] = []

    def new(**config: Any) -> FakeMaixService:
        services.append(FakeMaixService(**config))
        return services[-1]

    yield new
    for service in services:
        service.close()


@pytest.fixture
def service(new_service: Callable[..., FakeMaixService]) -> FakeMaixService:
    return new_service()


@pytest.fixture
def new_engine(new_service: Callable[..., FakeMaixService]) -> Iterator[Callable[..., MaixHttpEngine]]:
    """Depends on the services, so that engines are closed first: they wait for their last answer's end."""
    engines: list[MaixHttpEngine] = []

    def new(service: FakeMaixService, **config: Any) -> MaixHttpEngine:
        engines.append(MaixHttpEngine(service.url, **{"first_token_timeout": 30.0, "token_timeout": 30.0, **config}))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(service: FakeMaixService, new_engine: Callable[..., MaixHttpEngine]) -> MaixHttpEngine:
    return new_engine(service)


def noise_image(size: int = 448, seed: int = 0) -> Image:
    """Smooth shapes and a little noise, as cameras see them."""
    y, x = np.mgrid[:size, :size]
    planes = [120 + 90 * np.sin((x + 30 * i) / 40.0) * np.cos(y / (30.0 + i)) for i in range(3)]
    noise = np.random.default_rng(seed).normal(0, 3, (size, size, 3))
    return np.clip(np.stack(planes, axis=-1) + noise, 0, 255).astype(np.uint8)


def request(*content: str | Image, system: str = "", schema: Any = None, **options: Any) -> Request:
    messages = (Message("user", content or ("What is it?",)),)
    if system:
        messages = (Message("system", (system,)), *messages)
    return Request(messages, Options(**options), schema)


def stream(engine: MaixHttpEngine, *content: str | Image, **options: Any) -> list[Chunk]:
    return list(engine.generate(request(*content, **options), Cancel()))


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def ask(engine: MaixHttpEngine, *content: str | Image, **options: Any) -> str:
    return text_of(stream(engine, *content, **options))


def be_patient(engine: MaixHttpEngine) -> None:
    """Give the service time again, after a failure that was to come soon."""
    engine._first_token_timeout = engine._token_timeout = PATIENCE


def finish_of(chunks: list[Chunk]) -> str | None:
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    return chunks[-1].finish_reason


class Running:
    """An answer on a thread of its own."""

    def __init__(self, engine: MaixHttpEngine, *content: str | Image, **options: Any) -> None:
        self.cancel = Cancel()
        self._chunks: list[Chunk] = []
        self._error: EngineError | None = None
        self._thread = threading.Thread(target=self._run, args=(engine, request(*content, **options)))
        self._thread.start()

    def _run(self, engine: MaixHttpEngine, request: Request) -> None:
        try:
            self._chunks.extend(engine.generate(request, self.cancel))
        except EngineError as error:
            self._error = error

    def chunks(self) -> list[Chunk]:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._chunks


# What it is


def test_it_knows_the_limits_from_the_name_of_the_model(new_service: Any, new_engine: Any) -> None:
    listed = new_engine(new_service(model="AXERA-TECH/Some-VL-P128-CTX1024")).describe()
    assert (listed.prompt_limit, listed.context_length) == (128, 1024)
    configured = new_engine(new_service(), model=f"/root/models/{NAMED}-maixcam2/model.mud").describe()
    assert (configured.prompt_limit, configured.context_length) == (320, 448)
    assert NAMED in configured.details["limits"]


def test_parameters_win_over_names(service: FakeMaixService, new_engine: Any) -> None:
    engine = new_engine(service, model=NAMED, prompt_limit=1000, context_length=2000, input_size=384, fit="cover")
    description = engine.describe()
    assert (description.prompt_limit, description.context_length) == (1000, 2000)
    assert (description.image_input.size, description.image_input.fit) == ((384, 384), "cover")
    assert (description.max_images, description.concurrency) == (1, 1)


def test_the_maixcam2s_service_does_not_say_its_limits_and_gets_them_anyway(engine: MaixHttpEngine) -> None:
    description = engine.describe()
    assert (description.prompt_limit, description.context_length) == (320, 448)
    assert "prompt_limit" in description.details["limits"]
    assert description.image_input.size == (448, 448)


def test_limits_of_an_unknown_model_are_unknown_and_its_prompts_are_sent(new_service: Any, new_engine: Any) -> None:
    engine = new_engine(new_service(model="Other-VL"))
    assert engine.describe().prompt_limit is None
    assert ask(engine, "word " * 2000) == "Hello there"


def test_the_service_must_run_the_model_that_was_asked_for(service: FakeMaixService) -> None:
    with pytest.raises(ModelNotFound, match=r"runs AXERA-TECH/Qwen3-VL-2B.*, not InternVL"):
        MaixHttpEngine(service.url, model="InternVL-1B")


# What is sent


def test_image_question_and_every_setting_are_sent(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    image = noise_image()
    chunks = stream(engine, image, "What is it?")
    assert text_of(chunks) == "Hello there"
    question = service.questions[0]
    assert question.text == "What is it?"
    assert question.image is not None and question.image.size == (448, 448)
    loss = np.abs(np.asarray(question.image).astype(int) - image)
    assert loss.mean() < 1.5 and loss.max() < 12
    assert isinstance(question.body["messages"][0]["content"][1]["image_url"], str)
    settings = {key: value for key, value in question.body.items() if key not in ("messages", "model", "stream")}
    assert settings == {"temperature": 0.7, "top-p": 0.8, "top-k": 20, "repetition_penalty": 1.0002}
    assert (question.body["model"], question.body["stream"]) == (MODEL, True)


@pytest.mark.parametrize(
    ("options", "in_force"),
    [
        ({}, {"temperature": 0.7, "top_k": 20}),
        ({"temperature": 1.5, "top_k": 7}, {"temperature": 1.5, "top_k": 7}),
        ({"top_p": 0.3}, {"temperature": 0.7, "top_p": 0.3}),
        ({"top_p": 0.3, "top_k": 0}, {"temperature": 0.7, "top_p": 0.3}),
        ({"top_p": 0.3, "top_k": 9}, {"temperature": 0.7, "top_k": 9}),
        ({"top_p": 1.0}, {"temperature": 0.7, "top_k": 20}),
        ({"top_p": 1.0, "top_k": 0}, {"temperature": 0.7, "top_p": 0.9999}),
        ({"temperature": 0.0, "top_p": 0.3}, {"temperature": 0.01, "top_k": 1}),
        ({"repetition_penalty": 1.3}, {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.3}),
    ],
)
def test_settings_of_earlier_requests_do_not_stick(
    service: FakeMaixService, engine: MaixHttpEngine, options: dict[str, Any], in_force: dict[str, Any]
) -> None:
    ask(engine, temperature=1.9, top_p=0.123, repetition_penalty=1.9)
    ask(engine, temperature=0.0, top_k=3)
    ask(engine, **options)
    settings = {key: value for key, value in service.questions[-1].settings.items() if value is not None}
    assert settings == {"repetition_penalty": 1.0002, **in_force}


def test_a_system_prompt_goes_in_front_of_the_question(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    ask(engine, "What is it?", noise_image(), "Be quick.", system="You are a robot.")
    assert service.questions[0].text == "You are a robot.\n\nWhat is it?\nBe quick."
    assert "system_prompt" in engine.describe().supports
    assert engine.describe().details["system_prompt"] == "put in front of the question"


def test_a_question_without_an_image_does_not_see_the_last_one(
    service: FakeMaixService, engine: MaixHttpEngine
) -> None:
    ask(engine, noise_image(), "What is it?")
    assert ask(engine, "What is two and two?") == "Hello there"
    seen = service.questions[1].image
    assert seen is not None and np.ptp(np.asarray(seen)) == 0


def test_a_service_that_wants_one_message_and_no_list_gets_it(new_service: Any, new_engine: Any) -> None:
    service = new_service(wants_object=True)
    engine = new_engine(service)
    assert ask(engine, "one") == ask(engine, "two") == "Hello there"
    assert [question.text for question in service.questions] == ["one", "two"]
    assert service.paths.count("POST /v1/chat/completions") == 3


def test_no_proxy_is_used(service: FakeMaixService, new_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ask(new_engine(service, load_timeout=5.0)) == "Hello there"
    assert "127.0.0.1:12346" not in MaixHttpEngine.probe(base_url=service.url)


# What is refused, before it is sent


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        (request("word " * 200), PromptTooLong, r"about 4\d\d tokens, 196 of them for the image, .* reads 320 "),
        (request("sehr lang " * 60), PromptTooLong, "reads 320"),
        (request("漢" * 200), PromptTooLong, "reads 320"),
        (request("short", system="long " * 100), PromptTooLong, "shorter system prompt"),
        (request("two", noise_image(), noise_image()), BadImage, "one image, not 2"),
        (request("unfitted", noise_image(640)), BadImage, "448x448"),
        (request("grey", np.zeros((448, 448), np.uint8)), BadImage, "448x448"),
        (request("  "), BadRequest, "empty"),
        (request("half \ud800 pair"), BadRequest, "surrogate"),
        (request("x", seed=1), Unsupported, "^seed"),
        (request("x", min_p=0.1), Unsupported, "^min_p"),
        (request("x", repetition_penalty=0.9), Unsupported, "^repetition_penalty"),
        (request("x", max_tokens=0), BadRequest, "^max_tokens"),
        (request("x", schema={"type": "object"}), Unsupported, "^response_schema"),
        (
            Request((Message("user", ("one",)), Message("assistant", ("yes",)), Message("user", ("two",)))),
            Unsupported,
            "^messages: .* fresh conversation",
        ),
        (Request((Message("system", ("only",)),)), Unsupported, "^messages"),
    ],
)
def test_what_the_service_cannot_honour_is_refused_before_it_is_sent(
    service: FakeMaixService, engine: MaixHttpEngine, asked: Request, error: type[EngineError], words: str
) -> None:
    with pytest.raises(error, match=words):
        list(engine.generate(asked, Cancel()))
    assert "POST /v1/chat/completions" not in service.paths


def test_a_prompt_is_measured_with_its_image_against_both_limits(service: FakeMaixService, new_engine: Any) -> None:
    words = "word " * 150
    assert ask(new_engine(service, input_size=320), words) == "Hello there"  # 100 tokens for the image
    with pytest.raises(PromptTooLong):
        ask(new_engine(service), words)
    with pytest.raises(PromptTooLong, match="reads 239 "):
        ask(new_engine(service, input_size=320, context_length=240), words)


# Real counts with Qwen's vocabulary: how, see engines/maix_http/tokens.py.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Describe this image.", 4),
        ("How many people are there? Answer with a number only.", 12),
        ('Locate every red cup as JSON: [{"bbox_2d": [x1, y1, x2, y2], "label": "cup"}]', 33),
        ("请描述图中有什么", 5),
        ("图片中有几个人\uff1f只回答数字。", 8),
        ("Lies den Text auf dem Schild vor und übersetze ihn ins Englische.", 19),
        ("この画像に何が写っていますか\uff1f一文で答えてください。", 16),
        ("Сколько людей на изображении? Ответь одним числом.", 16),
    ],
)
def test_the_estimate_of_a_prompt_is_on_the_safe_side_and_not_far_off(text: str, tokens: int) -> None:
    assert tokens <= most_tokens(text) <= 2 * tokens
    assert 0.7 * tokens <= likely_tokens(text) <= 1.8 * tokens


# What comes back


def test_the_stream_has_its_stages_and_ends_with_usage(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(("One", " two", " three")))
    chunks = stream(engine, noise_image(), "Count.")
    assert [chunk.stage for chunk in chunks] == [Stage.ENCODE, *[Stage.DECODE] * 4]
    assert finish_of(chunks) == "stop"
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.image_tokens, usage.completion_tokens) == (196, 3)
    assert 196 + 15 < usage.prompt_tokens < 196 + 40
    assert usage.bytes_sent == int(
        next(h for h in service.headers if h.lower().startswith("content-length")).split()[1]
    )
    assert usage.first_token_time is not None and usage.total_time is not None
    assert 0 < usage.first_token_time <= usage.total_time


def test_lines_and_characters_that_are_cut_anywhere_come_out_whole(
    service: FakeMaixService, engine: MaixHttpEngine
) -> None:
    text = "Grüße, 世界 🙂!"
    data = text.encode()
    whole = b"".join(event(data[i : i + 1]) for i in range(len(data)))
    body = event() + whole + event(finish="stop") + DONE
    service.scripts.append(Script(raw=[body[i : i + 1] for i in range(len(body))]))
    assert ask(engine) == text
    service.scripts.append(Script(raw=[body.replace(b"\n", b"\r\n")]))
    assert ask(engine) == text


def test_tokens_are_counted_from_the_text_and_not_from_what_the_service_says(
    service: FakeMaixService, engine: MaixHttpEngine
) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":123456,"total_tokens":123467}}\n\n'
    service.scripts.append(Script(raw=[event(), event("one two three"), event(" four"), usage, DONE]))
    last = stream(engine)[-1]
    assert last.usage is not None
    assert last.usage.completion_tokens == 4
    assert last.usage.prompt_tokens > 196


def test_max_tokens_ends_the_answer_and_stops_the_service(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(("one two", " three", " four", " five"), hold_at=3))
    chunks = stream(engine, max_tokens=3)
    assert (text_of(chunks), finish_of(chunks)) == ("one two three", "length")
    assert ask(engine) == "Hello there"
    assert service.stops > 0


def test_a_stop_string_ends_the_answer_and_stops_the_service(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(("one E", "N", "D two", " three"), hold_at=3))
    chunks = stream(engine, stop=("END",))
    assert (text_of(chunks), finish_of(chunks)) == ("one ", "stop")
    assert ask(engine) == "Hello there"
    assert service.stops > 0


def test_an_answer_that_fills_the_context_says_so(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(["word "] * 230))
    assert finish_of(stream(engine)) == "length"


def test_an_answer_without_a_word_is_an_error(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(()))
    with pytest.raises(EngineError, match="without a word"):
        ask(engine)
    assert ask(engine) == "Hello there"


def test_a_complete_answer_needs_no_mark_after_it(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(raw=[event(), event("Yes"), event(finish="stop")]))
    assert ask(engine) == "Yes"
    service.scripts.append(Script(("Yes",), end="unmarked"))
    assert ask(engine) == "Yes"
    assert ask(engine) == "Hello there"
    assert service.stops == 0


@pytest.mark.parametrize("end", ["cut", "reset", "complete"])
def test_an_answer_that_breaks_off_is_an_error(service: FakeMaixService, engine: MaixHttpEngine, end: Any) -> None:
    service.scripts.append(Script(raw=[event(), event("I see a")], end=end))
    with pytest.raises(EngineError, match="broke off"):
        ask(engine)
    assert ask(engine) == "Hello there"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (Script(status=200, kind="text/html", body=b"<html>Router</html>"), "text/html"),
        (Script(status=502, kind="text/html", body=b"<html>Bad Gateway</html>"), "status 502"),
        (Script(status=500, kind="application/json", body=b'{"error": {"message": "out of memory"}}'), "out of memory"),
        (Script(status=400, kind="application/json", body=b'{"error": "Invalid request format"}'), "Invalid request"),
        (Script(raw=[event(), b"data: <html>\n\n"]), "no piece of an answer"),
        (Script(raw=[event(), b"data: [1]\n\n"]), "no piece of an answer"),
        (Script(raw=[b'data: {"error": "NPU fault"}\n\n']), "NPU fault"),
    ],
)
def test_what_is_no_answer_is_an_error_with_its_words_and_the_next_question_is_answered(
    service: FakeMaixService, engine: MaixHttpEngine, script: Script, words: str
) -> None:
    service.scripts.append(script)
    with pytest.raises(EngineError, match=words):
        ask(engine)
    assert ask(engine) == "Hello there"


# Time


def test_a_service_that_hangs_after_a_failed_encode_is_found_out(
    service: FakeMaixService, new_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maix_http_service, "STOP_TIME", 0.2)
    monkeypatch.setattr(maix_http_service, "_RECOVERY_TIME", 0.5)
    engine = new_engine(service, first_token_timeout=0.5)
    service.scripts.append(Script(hang=True))
    with pytest.raises(EngineError, match=r"no token within 0\.5 s.* restart it with `systemctl restart"):
        ask(engine, noise_image(), "What is it?")
    with pytest.raises(EngineError, match=r"busy .* it hangs, .* restart it with `systemctl restart"):
        ask(engine)
    service.vacate()  # restarted
    be_patient(engine)
    assert ask(engine) == "Hello there"


def test_bytes_that_never_make_an_event_do_not_count_as_progress(
    service: FakeMaixService, new_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maix_http_service, "STOP_TIME", 0.2)
    engine = new_engine(service, token_timeout=0.5)
    service.scripts.append(Script(raw=[event(), event("I see")], drip=b"x"))
    with pytest.raises(EngineError, match=r"no further token within 0\.5 s"):
        ask(engine)
    be_patient(engine)
    assert ask(engine) == "Hello there"


def test_events_without_a_word_do_not_count_as_progress(
    service: FakeMaixService, new_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maix_http_service, "STOP_TIME", 0.2)
    engine = new_engine(service, first_token_timeout=0.5)
    service.scripts.append(Script(raw=[event()], drip=event("")))
    with pytest.raises(EngineError, match=r"no token within 0\.5 s"):
        ask(engine)
    be_patient(engine)
    assert ask(engine) == "Hello there"


# Cancelling, and others who ask


def test_cancel_ends_the_answer_and_the_next_one_has_none_of_it(
    service: FakeMaixService, engine: MaixHttpEngine
) -> None:
    service.scripts.append(Script(("old",) * 5, hold_at=2))
    running = Running(engine)
    service.wait_held()
    running.cancel.set()
    chunks = running.chunks()
    assert finish_of(chunks) == "cancelled"
    assert text_of(chunks) in ("", "old", "oldold")
    assert chunks[-1].usage is not None
    assert ask(engine) == "Hello there"
    assert service.stops > 0


def test_a_cancel_while_the_image_is_encoded_is_repeated_until_it_counts(
    service: FakeMaixService, engine: MaixHttpEngine
) -> None:
    service.scripts.append(Script(("old",) * 500, hold_at=0, deaf=True))
    running = Running(engine, noise_image(), "What is it?")
    service.wait_held()
    running.cancel.set()
    assert finish_of(running.chunks()) == "cancelled"  # at once, whatever the service does
    service.wait(lambda: service.stops >= 2)
    service.release()
    assert ask(engine) == "Hello there"


def test_a_cancelled_answer_that_does_not_stop_is_dropped_and_its_tokens_reach_nobody(
    service: FakeMaixService, engine: MaixHttpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maix_http_service, "STOP_TIME", 0.2)
    service.scripts.append(Script(("old",) * 5, hold_at=1, deaf=True))
    running = Running(engine)
    service.wait_held()
    running.cancel.set()
    assert finish_of(running.chunks()) == "cancelled"
    following = Running(engine, "next")
    service.wait(lambda: service.refused > 0)
    service.leave_tokens("stale", "stale")
    service.release()
    assert text_of(following.chunks()) == "Hello there"
    assert service.questions[-1].text == "next"


def test_an_answer_that_nobody_listens_to_any_more_is_ended(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(("old",) * 5, hold_at=2))
    answer = engine.generate(request(), Cancel())
    assert next(answer).stage is Stage.ENCODE
    answer.close()
    assert ask(engine) == "Hello there"
    assert service.stops > 0


def test_a_cancel_before_the_question_sends_nothing(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    cancel = Cancel()
    cancel.set()
    assert finish_of(list(engine.generate(request(), cancel))) == "cancelled"
    assert ask(engine) == "Hello there"
    assert len(service.questions) == 1


def test_another_clients_question_is_waited_for_and_not_stopped(
    service: FakeMaixService, engine: MaixHttpEngine
) -> None:
    service.occupy()
    running = Running(engine)
    service.wait(lambda: service.refused >= 2)
    service.vacate()
    assert text_of(running.chunks()) == "Hello there"
    assert service.stops == 0


def test_another_clients_question_is_not_waited_for_for_ever(service: FakeMaixService, new_engine: Any) -> None:
    engine = new_engine(service, first_token_timeout=0.5)
    service.occupy()
    with pytest.raises(EngineError, match=r"busy for 0\.5 s with another client's question"):
        ask(engine)
    assert service.stops == 0
    service.vacate()
    be_patient(engine)
    assert ask(engine) == "Hello there"


def test_a_cancel_ends_the_wait_for_another_client(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.occupy()
    running = Running(engine)
    service.wait(lambda: service.refused >= 1)
    running.cancel.set()
    assert finish_of(running.chunks()) == "cancelled"
    assert service.stops == 0


def test_one_question_at_a_time(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(("old",) * 3, hold_at=1))
    running = Running(engine)
    service.wait_held()
    with pytest.raises(EngineError, match="one question at a time"):
        ask(engine)
    service.release()
    assert text_of(running.chunks()) == "oldoldold"


def test_closing_leaves_the_service_free_for_others(service: FakeMaixService, new_engine: Any) -> None:
    engine = new_engine(service)
    service.scripts.append(Script(("old",) * 5, hold_at=1))
    running = Running(engine)
    service.wait_held()
    running.cancel.set()
    running.chunks()
    engine.close()
    assert not service.running
    engine.close()


# Being there


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_service_that_comes_later_is_waited_for(new_service: Any) -> None:
    port = free_port()
    sentences: list[str] = []

    def progress(sentence: str) -> None:
        sentences.append(sentence)
        if len(sentences) == 1:
            new_service(port=port)

    engine = MaixHttpEngine(f"http://127.0.0.1:{port}/v1/", load_timeout=30.0, progress=progress)
    try:
        assert sentences[0] == f"waiting for http://127.0.0.1:{port}: connection refused, 0 of 30 s"
        assert ask(engine) == "Hello there"
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ((400, "application/json", b'{"error": "Model initing"}'), "Model initing"),
        ((503, "text/html", b"<html>"), "status 503"),
        ((200, "application/json", b'{"data": []}'), "lists no model"),
    ],
)
def test_a_service_that_never_gets_ready_is_given_up_with_what_was_seen(
    service: FakeMaixService, models: tuple[int, str, bytes], words: str
) -> None:
    service.models = models
    sentences: list[str] = []
    with pytest.raises(EngineNotReady, match=rf"not ready for 1 s: .*{words}.*systemctl status"):
        MaixHttpEngine(service.url, load_timeout=1.0, progress=sentences.append)
    assert words in sentences[0]
    with pytest.raises(EngineNotReady, match=words):
        MaixHttpEngine.probe(base_url=service.url)


@pytest.mark.parametrize(
    "models",
    [
        (404, "text/plain", b""),
        (200, "text/html", b"<html>Router</html>"),
        (200, "application/json", b'{"hello": "world"}'),
        (401, "application/json", b'{"error": {"message": "Who are you?"}}'),
    ],
)
def test_something_else_at_that_address_is_a_persons_mistake(
    service: FakeMaixService, models: tuple[int, str, bytes]
) -> None:
    service.models = models
    with pytest.raises(ModelNotFound, match=rf"{service.url} is not the service of a model.* status {models[0]}"):
        MaixHttpEngine(service.url)
    with pytest.raises(ModelNotFound, match="base_url"):
        MaixHttpEngine.probe(base_url=service.url)


@pytest.mark.parametrize("url", ["", "10.0.0.7:12346", "ftp://10.0.0.7", "http://", "http://[1::"])
def test_an_address_that_is_none_says_what_one_looks_like(url: str) -> None:
    with pytest.raises(ModelNotFound, match=r"http://10\.0\.0\.7:12346"):
        MaixHttpEngine(url)


def test_a_service_that_went_away_is_not_ready_and_may_come_back(new_service: Any, new_engine: Any) -> None:
    service = new_service()
    engine = new_engine(service)
    service.close()
    with pytest.raises(EngineNotReady, match="connection refused"):
        ask(engine)
    new_service(port=service.port)
    assert ask(engine) == "Hello there"


def test_a_service_that_loads_again_is_not_ready(service: FakeMaixService, engine: MaixHttpEngine) -> None:
    service.scripts.append(Script(status=400, kind="application/json", body=b'{"error": "Model not init"}'))
    with pytest.raises(EngineNotReady, match="Model not init"):
        ask(engine)
    assert ask(engine) == "Hello there"


def test_the_probe_names_service_and_model_and_asks_nothing(service: FakeMaixService) -> None:
    assert MaixHttpEngine.probe(base_url=service.url, fit="contain") == f"{service.url}: {MODEL}"
    assert service.paths == ["GET /v1/models"]
    with pytest.raises(ModelNotFound, match="not InternVL"):
        MaixHttpEngine.probe(base_url=service.url, model="InternVL")


def test_the_probe_does_not_wait_for_who_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EngineNotReady, match="no answer within 1 s"):
            MaixHttpEngine.probe(base_url=url)
    with pytest.raises(EngineNotReady, match=r"connection refused.* firewall"):
        MaixHttpEngine.probe(base_url=f"http://127.0.0.1:{free_port()}")


def test_nothing_is_left_behind(new_service: Any) -> None:
    threads = set(threading.enumerate())
    service = new_service()
    engine = MaixHttpEngine(service.url)
    ask(engine)
    engine.close()
    service.close()
    assert set(threading.enumerate()) <= threads


class TestContract(EngineConformance):
    engine_class = MaixHttpEngine

    @pytest.fixture(scope="class")
    def config(self) -> Iterator[Mapping[str, Any]]:
        service = FakeMaixService()
        words = ("A red", " cup stands", " on a", " table", " beside a", " blue book", ".")
        service.answers = {
            self.question: Script(words),
            "What is there?": Script(words, hold_at=4),
            "Wer da?": Script(("Grün", b"e ", *(bytes([byte]) for byte in "Füße 🙂".encode()))),
        }
        yield {"base_url": service.url, "load_timeout": 30.0}
        service.close()

    def endless_request(self, engine: Engine) -> Request:
        return self.request(engine, "What is there?")

    def non_ascii_request(self, engine: Engine) -> Request:
        return self.request(engine, "Wer da?")
