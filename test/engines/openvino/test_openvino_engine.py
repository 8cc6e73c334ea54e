"""The ``openvino`` engine against a tiny Qwen3-VL that the tests export: real inference, compared with transformers."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest

import openvino_export
import tiny_qwen3vl
from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Cancel,
    Chunk,
    EngineCrashed,
    EngineNotReady,
    ImageInput,
    Message,
    ModelNotFound,
    Options,
    PromptTooLong,
    Request,
    Stage,
    Unsupported,
)
from qwen3vl_ros.engines.openvino import engine as module
from qwen3vl_ros.engines.openvino import files
from qwen3vl_ros.engines.openvino.engine import OpenvinoEngine
from qwen3vl_ros.engines.openvino.files import ImageLimits
from qwen3vl_ros.engines.openvino.pipeline_process import PipelineProcess
from tiny_model_tests import CONVERSATIONS, GREEDY, TinyModelTests, ask, noise_image, stream, text_of, user

pytest_plugins = ["tiny_model_fixtures"]

SOON = 30.0
"""Seconds that a test waits for what is due at once."""


@pytest.fixture(scope="module")
def new_engine(exported: Path) -> Iterator[Callable[..., OpenvinoEngine]]:
    engines: list[OpenvinoEngine] = []

    def new(folder: Path = exported, **config: Any) -> OpenvinoEngine:
        engines.append(OpenvinoEngine(str(folder), properties=openvino_export.EXACT, **config))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("openvino")]


@pytest.fixture(scope="module")
def engine(new_engine: Callable[..., OpenvinoEngine]) -> OpenvinoEngine:
    return new_engine()


@pytest.fixture(scope="module")
def another(engine: OpenvinoEngine) -> OpenvinoEngine:
    """The same: it keeps nothing from one answer to the next."""
    return engine


@pytest.fixture(scope="module")
def small(new_engine: Callable[..., OpenvinoEngine]) -> OpenvinoEngine:
    """One with a short context."""
    return new_engine(context_length=256, max_image_tokens=5000)


@pytest.fixture(scope="module")
def thinker(
    exported: Path, new_engine: Callable[..., OpenvinoEngine], tmp_path_factory: pytest.TempPathFactory
) -> OpenvinoEngine:
    folder = tmp_path_factory.mktemp("thinking") / "model"
    openvino_export.with_chat_template(exported, folder, tiny_qwen3vl.THINKING_CHAT_TEMPLATE)
    return new_engine(folder)


@pytest.fixture(scope="module")
def one_by_one(new_engine: Callable[..., OpenvinoEngine]) -> OpenvinoEngine:
    """As on an NPU: AUTO has no continuous batching either."""
    return new_engine(device="AUTO")


@pytest.fixture
def held(engine: OpenvinoEngine) -> Iterator[None]:
    """The pipeline's process of ``engine`` does nothing, as during a long step."""
    with _held(engine):
        yield


@contextlib.contextmanager
def _held(engine: OpenvinoEngine) -> Iterator[None]:
    process = engine._pipeline._child
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)  # does nothing to one that has ended


class TestTinyModel(TinyModelTests):
    """What OpenVINO GenAI read is known from its tokenizer, and how much of it from what it counted."""

    stages: ClassVar = [Stage.ENCODE, Stage.PREFILL, Stage.DECODE]
    thoughts = (12, 2)
    parted_by = "\u200b"

    def prompt_of(self, engine: OpenvinoEngine, *messages: Message) -> list[Any]:
        prompt = engine._prompts.build(messages)
        tokens: list[int] = engine._tokenizer.encode(prompt.text).input_ids.data[0].tolist()
        assert tokens.count(engine._tokenizer.get_vocab()[b"<|image_pad|>"]) == len(prompt.images)
        assert prompt.tokens == len(tokens) + prompt.image_tokens - len(prompt.images)
        usage = stream(engine, *messages)[-1].usage
        assert usage is not None
        assert usage.prompt_tokens == prompt.tokens  # the pipeline's own count, and the one before any work
        return tokens

    def check_answer(self, engine: OpenvinoEngine, chunks: list[Chunk], prompt: list[int], answer: list[int]) -> None:
        assert chunks[-1].finish_reason == "length"


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_one_by_one_answers_are_those_of_batches(name: str, engine: OpenvinoEngine, one_by_one: OpenvinoEngine) -> None:
    assert one_by_one.describe().concurrency == 1
    chunks = stream(one_by_one, *CONVERSATIONS[name])
    assert text_of(chunks) == ask(engine, *CONVERSATIONS[name])
    assert (chunks[-1].usage.encode_time is not None) == bool(chunks[-1].usage.image_tokens)


def test_one_by_one_answers_wait_for_each_other_and_can_be_cancelled(
    engine: OpenvinoEngine, one_by_one: OpenvinoEngine
) -> None:
    expected = ask(engine, user("Two."))
    endless = Options(temperature=2.0, top_k=0, top_p=1.0, seed=3, max_tokens=3000)
    cancel = Cancel()
    first = one_by_one.generate(Request((user("One."),), endless, {"type": "string", "minLength": 5000}), cancel)
    while not next(first).text:
        pass
    second = one_by_one.generate(Request((user("Two."),), GREEDY), Cancel())
    assert next(second).stage == Stage.PREFILL
    cancel.set()
    assert [chunk.finish_reason for chunk in first][-1] == "cancelled"
    assert text_of(list(second)) == expected


def test_small_image_counts_as_what_the_model_enlarges_it_to(
    exported: Path, tmp_path: Path, new_engine: Callable[..., OpenvinoEngine]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    file = folder / "preprocessor_config.json"
    # As in Qwen3-VL's own.
    sizes = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "min_pixels": None, "max_pixels": None}
    file.write_text(json.dumps(json.loads(file.read_text()) | sizes))
    engine = new_engine(folder)
    for width, height, tokens in ((32, 32, 64), (320, 64, 4 * 18), (288, 256, 72), (96, 224, 6 * 13)):
        usage = stream(engine, user(noise_image(width, height), "?"), options=Options(max_tokens=1))[-1].usage
        assert usage.image_tokens == tokens
        assert usage.prompt_tokens == engine._prompts.build((user(noise_image(width, height), "?"),)).tokens


def test_repetition_penalty_discourages_tokens_seen(engine: OpenvinoEngine) -> None:
    options = Options(temperature=0.0, repetition_penalty=2.0, max_tokens=24)
    assert ask(engine, user("Tell me."), options=options) != ask(engine, user("Tell me."))


def test_unset_options_are_the_models_own(
    exported: Path, tmp_path: Path, new_engine: Callable[..., OpenvinoEngine]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    file = folder / "generation_config.json"
    own = {"do_sample": True, "temperature": 1.7, "top_k": 7, "top_p": 0.9, "repetition_penalty": 1.2}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    sampling = new_engine(folder)
    explicit = Options(temperature=1.7, top_k=7, top_p=0.9, repetition_penalty=1.2, seed=5, max_tokens=24)
    got = ask(sampling, user("Tell me."), options=Options(seed=5, max_tokens=24))
    assert got == ask(sampling, user("Tell me."), options=explicit)
    assert got != ask(sampling, user("Tell me."))


def test_every_token_that_the_model_says_ends_an_answer_does(
    exported: Path, tmp_path: Path, engine: OpenvinoEngine, new_engine: Callable[..., OpenvinoEngine]
) -> None:
    usual = "".join(c.text for c in stream(engine, user("Tell me."), options=Options(temperature=0.0, max_tokens=1)))
    first = engine._tokenizer.get_vocab()[usual.encode()]
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    file = folder / "generation_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"eos_token_id": [config["eos_token_id"], first]}))
    last = stream(new_engine(folder), user("Tell me."))[-1]
    assert (last.finish_reason, last.usage.completion_tokens) == ("stop", 1)


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 3},
        "seen": {"type": "boolean"},
    },
    "required": ["name", "count", "tags", "seen"],
    "additionalProperties": False,
}


def test_answer_follows_the_schema(engine: OpenvinoEngine) -> None:
    ended = 0
    for seed in range(10):
        options = Options(max_tokens=300, temperature=2.0, top_k=0, top_p=1.0, seed=seed)
        chunks = stream(engine, user(noise_image(64, 64), "JSON, please."), options=options, schema=SCHEMA)
        if chunks[-1].finish_reason == "stop":
            jsonschema.validate(json.loads(text_of(chunks)), SCHEMA)
            ended += 1
    assert ended >= 5


def test_schema_is_remembered_and_one_that_cannot_be_followed_ends_no_other_answer(engine: OpenvinoEngine) -> None:
    """In ``step`` the library's failure would end them all."""
    options = Options(temperature=0.0, max_tokens=200)
    running = engine.generate(Request((user("Count."),), options, SCHEMA), Cancel())
    while not next(running).text:
        pass
    refused: list[BaseException] = []

    def refuse() -> None:
        try:
            ask(engine, user("JSON."), schema={"$ref": "#/nowhere"})
        except BadRequest as error:
            refused.append(error)

    thread = threading.Thread(target=refuse)
    thread.start()
    assert next(other for other in list(running)[-1:]).finish_reason in ("stop", "length")
    thread.join(SOON)
    assert refused
    assert ask(engine, user("Count."), options=options, schema=SCHEMA)


def test_prompt_that_does_not_fit_is_refused_with_both_numbers_before_any_work(small: OpenvinoEngine) -> None:
    image = noise_image(320, 320)
    with _held(small), pytest.raises(PromptTooLong, match=r"\b(2\d\d|3\d\d) tokens, 200 of them .* 256\b"):
        stream(small, user(image, image, "x" * 100))
    assert ask(small, user("Tell me."))


def test_more_requests_than_concurrency_are_all_answered(new_engine: Callable[..., OpenvinoEngine]) -> None:
    engine = new_engine(concurrency=2, n_batch=16)
    questions = [user(noise_image(64, 64, number), f"Question {number}") for number in range(5)]
    alone = [ask(engine, question) for question in questions]
    answers = [engine.generate(Request((question,), GREEDY), Cancel()) for question in questions]
    for answer in answers:
        next(answer)
    assert [text_of(list(answer)) for answer in answers] == alone


def test_long_prompt_is_read_between_the_tokens_of_others(new_engine: Callable[..., OpenvinoEngine]) -> None:
    """By counting, not by the clock: with parts of 32 tokens a prompt of some 1000 takes some 30 steps."""
    engine = new_engine(n_batch=32)
    long = user(" ".join(map(str, range(250))))
    assert engine._prompts.build((long,)).tokens > 800
    options = Options(temperature=2.0, top_k=0, top_p=1.0, seed=3, max_tokens=1000)
    cancel = Cancel()
    running = engine.generate(Request((user("Tell me."),), options, {"type": "string", "minLength": 5000}), cancel)
    while not next(running).text:
        pass
    (run,) = engine._pipeline._runs.values()
    unread = run.events.qsize()
    assert ask(engine, long, options=Options(temperature=0.0, max_tokens=1)) is not None
    assert run.events.qsize() - unread >= 20  # tokens that came meanwhile
    cancel.set()
    assert [chunk.finish_reason for chunk in running] == ["cancelled"]


@pytest.mark.parametrize("image", [True, False], ids=["image", "text"])
def test_cancel_before_the_first_token_is_reported_at_once(image: bool, engine: OpenvinoEngine, held: None) -> None:
    cancel = Cancel()
    message = user(noise_image(64, 64), "?") if image else user("?")
    answer = engine.generate(Request((message,), GREEDY), cancel)
    assert next(answer).stage == (Stage.ENCODE if image else Stage.PREFILL)
    timer = threading.Timer(0.05, cancel.set)  # while the next line waits
    timer.start()
    last = next(answer)  # though the pipeline is stuck
    timer.join()
    assert last.finish_reason == "cancelled"
    assert (last.usage.completion_tokens, last.usage.first_token_time) == (0, None)
    assert next(answer, None) is None


def test_request_is_refused_at_once_while_the_pipeline_is_busy(engine: OpenvinoEngine, held: None) -> None:
    with pytest.raises(BadRequest, match="no messages"):
        stream(engine)
    with pytest.raises(BadImage):
        stream(engine, user(noise_image(33, 32)))


def test_cancelled_request_is_not_begun(engine: OpenvinoEngine) -> None:
    with _held(engine):
        cancel = Cancel()
        answer = engine.generate(Request((user("Tell me everything."),), Options(temperature=0.0)), cancel)
        next(answer)
        cancel.set()
        assert [chunk.finish_reason for chunk in answer] == ["cancelled"]
        after = engine.generate(Request((user("Tell me."),), GREEDY), Cancel())
        next(after)
    assert text_of(list(after)) == ask(engine, user("Tell me."))
    assert not engine._pipeline._runs


def test_cancel_while_tokens_come_ends_the_answer_and_the_work(engine: OpenvinoEngine) -> None:
    options = Options(temperature=2.0, top_k=0, top_p=1.0, seed=3, max_tokens=3000)
    cancel = Cancel()
    chunks = []
    for chunk in engine.generate(Request((user("Tell me."),), options, {"type": "string", "minLength": 5000}), cancel):
        chunks.append(chunk)
        if len(chunks) == 6:
            cancel.set()
    assert len(chunks) == 7
    assert chunks[-1].finish_reason == "cancelled"
    # A schema that is new is looked at while nothing else runs: the cancelled answer does not any more.
    assert ask(engine, user("Yes or no?"), schema={"enum": ["yes", "no"]}) in ('"yes"', '"no"')


def test_cancel_before_the_start_does_no_work(engine: OpenvinoEngine, held: None) -> None:
    cancel = Cancel()
    cancel.set()
    (last,) = engine.generate(Request((user(noise_image(64, 64), "?"),), GREEDY), cancel)
    assert last.finish_reason == "cancelled"
    assert last.usage.prompt_tokens > 0
    assert not engine._pipeline._runs


def test_death_of_the_pipeline_ends_running_answers_and_it_comes_back(
    new_engine: Callable[..., OpenvinoEngine],
) -> None:
    engine = new_engine()
    expected = ask(engine, user("One."))
    with _held(engine):
        answer = engine.generate(Request((user("One."),), GREEDY), Cancel())
        next(answer)
        engine._pipeline._child.kill()
        with pytest.raises(EngineCrashed, match=r"died of SIGKILL .*ask again"):
            list(answer)
        with pytest.raises(EngineNotReady, match="started again"):  # it takes seconds
            ask(engine, user("One."))
    assert engine._pipeline._loaded.get(timeout=2 * SOON) is None
    assert ask(engine, user("One.")) == expected


def test_closing_does_not_wait_for_the_work_that_is_left(new_engine: Callable[..., OpenvinoEngine]) -> None:
    engine = new_engine()
    answer = engine.generate(Request((user("Tell me."),), Options(temperature=0.0)), Cancel())
    next(answer)
    process = engine._pipeline._child
    process.send_signal(signal.SIGSTOP)  # and it could not even notice
    engine.close()
    assert process.returncode == -signal.SIGKILL
    engine.close()


def test_image_that_is_too_thin_for_the_model_is_refused(engine: OpenvinoEngine) -> None:
    with pytest.raises(BadImage, match=r"\.$"):
        stream(engine, user(noise_image(32 * 201, 32), "What is this?"))


def test_one_token_image_that_openvino_would_mix_up_with_others_is_refused(engine: OpenvinoEngine) -> None:
    assert stream(engine, user(noise_image(32, 32), "?"))[-1].usage.image_tokens == 1
    with pytest.raises(BadImage, match="Enlarge it"):
        stream(engine, user(noise_image(32, 32), noise_image(320, 320), "?"))


def test_images_are_asked_for_as_model_and_context_allow(engine: OpenvinoEngine, small: OpenvinoEngine) -> None:
    assert engine.describe().image_input == ImageInput(32, 300, default_tokens=300)  # as preprocessor_config.json says
    assert small.describe().image_input == ImageInput(32, 255, default_tokens=255)
    with pytest.raises(BadImage, match="at most 300 tiles"):
        stream(engine, user(noise_image(32 * 301, 32), "?"))


def test_a_question_may_have_more_of_an_image_than_the_default(new_engine: Callable[..., OpenvinoEngine]) -> None:
    few = new_engine(max_image_tokens=100)
    assert few.describe().image_input == ImageInput(32, 300, default_tokens=100)
    assert stream(few, user(noise_image(20 * 32, 10 * 32), "?"))[-1].usage.image_tokens == 200


@pytest.mark.parametrize(
    "make", [OpenvinoEngine, lambda model: OpenvinoEngine.probe(model=model)], ids=["load", "probe"]
)
def test_missing_model_says_which_and_how_to_export_one(
    make: Callable[[str], Any], tmp_path: Path, exported: Path
) -> None:
    with pytest.raises(ModelNotFound, match=r"openvino\.model is empty.*`optimum-cli export openvino .*`"):
        make("")
    with pytest.raises(ModelNotFound, match=r"nowhere.*`optimum-cli export openvino .*`"):
        make(str(tmp_path / "nowhere"))
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model" / "openvino_vision_embeddings_pos_model.bin").unlink()
    with pytest.raises(ModelNotFound, match=r"vision_embeddings_pos_model\.bin is missing.*`optimum-cli"):
        make(str(tmp_path / "model"))


def test_other_kind_of_model_is_refused_by_its_name(tmp_path: Path, exported: Path) -> None:
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "qwen2_vl"}')
    with pytest.raises(ModelNotFound, match=r"qwen2_vl.* runs qwen3_vl"):
        OpenvinoEngine.probe(model=str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("openvino_language_model.bin", b"short"),
        ("openvino_language_model.xml", b"<html>Not found</html>"),
        ("openvino_tokenizer.xml", b""),
        ("config.json", b"{"),
        ("preprocessor_config.json", b"[]"),
    ],
)
def test_damaged_model_says_which_and_why(file: str, data: bytes, tmp_path: Path, exported: Path) -> None:
    shutil.copytree(exported, tmp_path / "model")
    (tmp_path / "model" / file).write_bytes(data)
    with pytest.raises(ModelNotFound, match=r"(export it|export the model) again") as caught:
        OpenvinoEngine(str(tmp_path / "model"))
    assert str(tmp_path / "model") in str(caught.value)


@pytest.mark.parametrize("device", ["GPU.7", "TPU", "", "HETERO:TPU,CPU", "cpu"])
def test_unknown_device_is_answered_with_the_known_ones(device: str, exported: Path) -> None:
    for make in (OpenvinoEngine, OpenvinoEngine.probe):
        with pytest.raises(ModelNotFound, match=rf"no device '{device}'.* CPU\b"):
            make(model=str(exported), device=device)


def test_probe_names_what_it_found(exported: Path) -> None:
    found = OpenvinoEngine.probe(model=str(exported), device="CPU", max_image_tokens=300, context_length=4096)
    assert str(exported) in found
    assert "CPU" in found


def test_npu_is_told_the_lengths_that_it_compiles_for(monkeypatch: pytest.MonkeyPatch, exported: Path) -> None:
    """On the CPU in its place: what OpenVINO itself makes of them needs the hardware."""
    told: list[Any] = []

    def pipeline(folder: str, device: str, scheduler: dict[str, int], properties: dict[str, Any]) -> PipelineProcess:
        told.extend((device, properties))
        return PipelineProcess(folder, "AUTO", scheduler, {})

    monkeypatch.setattr(module, "PipelineProcess", pipeline)
    monkeypatch.setattr(module, "check_device", lambda device: device)
    monkeypatch.setattr(module, "full_name", lambda device: "a test's NPU")
    engine = OpenvinoEngine(str(exported), device="NPU", context_length=2048)
    assert told == ["NPU", {"MAX_PROMPT_LEN": 1536, "MIN_RESPONSE_LEN": 512}]
    assert (engine.describe().prompt_limit, engine.describe().concurrency) == (1536, 1)
    # openvino_genai's pipeline for the NPU fails on a prompt of Qwen3-VL that has no image.
    assert "text_only" not in engine.describe().supports
    with pytest.raises(Unsupported, match=r"^text_only: "):
        stream(engine, user("Hello."))
    with pytest.raises(PromptTooLong, match=r"\b1536\b"):
        stream(engine, user(noise_image(64, 64), "x" * 1600))
    engine.close()


def test_limits_default_to_those_of_openvino_genai(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text("{}")
    assert files.image_limits(tmp_path) == ImageLimits(3136, 12845056)
