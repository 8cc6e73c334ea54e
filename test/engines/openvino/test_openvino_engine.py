"""The ``openvino`` engine against a tiny Qwen3-VL that the tests export: real inference, compared with transformers."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from openvino_genai import VLMPipeline

import openvino_export
import tiny_qwen3vl
from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Cancel,
    Chunk,
    EngineError,
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
from tiny_qwen3vl import TinyModel
from training.tokenizer import SPECIAL_TOKENS
from transformers_reference import HOSTILE, Reference, fitted, noise_image, text_of, user

# The engine says why it calls this.
pytestmark = pytest.mark.filterwarnings("ignore:start_chat.. / finish_chat:DeprecationWarning")

GREEDY = Options(temperature=0.0, max_tokens=24)
SOON = 30.0
"""Seconds that a test waits for what is due at once."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return tiny_qwen3vl.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def exported(tiny: TinyModel, pytestconfig: pytest.Config) -> Path:
    assert pytestconfig.cache is not None
    return openvino_export.export(tiny.hf_dir, pytestconfig.cache.mkdir("openvino"))


@pytest.fixture(scope="module")
def reference(tiny: TinyModel) -> Reference:
    return Reference(tiny.hf_dir)


class Pipeline:
    """The real pipeline, computing in float32 whatever the machine can; a test may hold it before the first token."""

    def __init__(self, folder: Path, device: str, **properties: Any) -> None:
        self._real = VLMPipeline(folder, device, EXECUTION_MODE_HINT="ACCURACY", **properties)
        self.go = threading.Event()
        self.go.set()
        self.entered = threading.Event()
        self.input_tokens: list[int] = []
        self.failure: Exception | None = None
        self._alone = threading.Lock()

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        assert self._alone.acquire(blocking=False), "two calls at a time"
        try:
            self.entered.set()
            assert self.go.wait(SOON)
            if self.failure is not None:
                raise self.failure
            result = self._real.generate(*args, **kwargs)
            self.input_tokens.append(result.perf_metrics.get_num_input_tokens())
            return result
        finally:
            self._alone.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture(scope="module")
def new_engine(exported: Path) -> Iterator[Callable[..., OpenvinoEngine]]:
    engines: list[OpenvinoEngine] = []

    def new(folder: Path = exported, **config: Any) -> OpenvinoEngine:
        engines.append(OpenvinoEngine(str(folder), **config))
        return engines[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "VLMPipeline", Pipeline)
        yield new
    for engine in engines:
        engine.close()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("openvino")]


@pytest.fixture(scope="module")
def engine(new_engine: Callable[..., OpenvinoEngine]) -> OpenvinoEngine:
    return new_engine()


@pytest.fixture(scope="module")
def thinker(
    exported: Path, new_engine: Callable[..., OpenvinoEngine], tmp_path_factory: pytest.TempPathFactory
) -> OpenvinoEngine:
    folder = tmp_path_factory.mktemp("thinking") / "model"
    openvino_export.with_chat_template(exported, folder, tiny_qwen3vl.THINKING_CHAT_TEMPLATE)
    return new_engine(folder)


@pytest.fixture
def held(engine: OpenvinoEngine) -> Iterator[Pipeline]:
    """The pipeline of ``engine``, which makes no token until it may go on."""
    pipeline = engine._pipeline
    assert isinstance(pipeline, Pipeline)
    ask(engine, user("Are you free?"))
    pipeline.entered.clear()
    pipeline.go.clear()
    yield pipeline
    pipeline.go.set()
    if engine._run is not None:
        engine._run.join()


def stream(engine: OpenvinoEngine, *messages: Message, options: Options = GREEDY, schema: Any = None) -> list[Chunk]:
    return list(engine.generate(Request(messages, options, schema), Cancel()))


def ask(engine: OpenvinoEngine, *messages: Message, options: Options = GREEDY, schema: Any = None) -> str:
    return text_of(stream(engine, *messages, options=options, schema=schema))


# The likeliest token of each place leads clearly: rounding must not decide.
CONVERSATIONS = {
    "text": (user("What colour is the other cylinder?"),),
    "unicode and white space": (Message("system", ("You are a robot.\n\n",)), user("\n  Grüße 5 你好  🙂\t\n")),
    "one image": (user(noise_image(128, 96, 5), "What is this?"),),
    "two images": (user("First ", noise_image(64, 96, 8), " and second ", noise_image(160, 32, 9), "\n\nWhich?"),),
    "odd-sized image": (user(fitted(333, 207, 4), "Describe what you see."),),
    "three turns": (
        user(noise_image(64, 32, 23), "one"),
        Message("assistant", ("yes",)),
        user("two", noise_image(320, 64, 24)),
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_greedy_answer_and_token_counts_are_those_of_transformers(
    name: str, engine: OpenvinoEngine, reference: Reference
) -> None:
    messages = CONVERSATIONS[name]
    prompt, answer, lead = reference.answer(messages, 24)
    assert lead > 0.04
    chunks = stream(engine, *messages)
    assert text_of(chunks) == reference.tokenizer.decode(answer, skip_special_tokens=True)
    usage = chunks[-1].usage
    assert usage is not None
    pixels = sum(part.size // 3 for m in messages for part in m.content if not isinstance(part, str))
    assert (usage.image_tokens, usage.completion_tokens) == (pixels // 1024, len(answer))
    assert usage.prompt_tokens == len(prompt) + pixels // 1024 == engine._pipeline.input_tokens[-1]
    assert chunks[-1].finish_reason == "length"


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
        assert usage.prompt_tokens == engine._pipeline.input_tokens[-1]


def test_chunks_add_up(engine: OpenvinoEngine) -> None:
    chunks = stream(engine, user(noise_image(64, 64), "Tell me."))
    assert [c.finish_reason is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert list(dict.fromkeys(c.stage for c in chunks)) == [Stage.ENCODE, Stage.DECODE]
    counts = [c.completion_tokens for c in chunks]
    assert counts == sorted(counts)
    usage = chunks[-1].usage
    assert usage.completion_tokens == counts[-1] > 1
    assert 0.0 < usage.encode_time < usage.first_token_time < usage.total_time
    text_only = stream(engine, user("Tell me."))
    assert text_only[0].stage == Stage.PREFILL
    assert text_only[-1].usage.encode_time is None


def test_seed_decides_the_answer(engine: OpenvinoEngine) -> None:
    def answer(seed: int | None) -> str:
        return ask(engine, user("Tell me."), options=Options(temperature=1.5, top_p=1.0, seed=seed, max_tokens=24))

    assert answer(1) == answer(1)
    assert answer(2**63 - 1) == answer(2**63 - 1)
    assert len({answer(seed) for seed in range(4)}) == 4
    assert len({answer(None) for _ in range(4)}) == 4


@pytest.mark.parametrize("narrow", [Options(top_k=1), Options(top_p=1e-6), Options(min_p=1.0)])
def test_narrowest_sampling_is_greedy(engine: OpenvinoEngine, narrow: Options) -> None:
    wide = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 24}
    chosen = {name: value for name in ("top_k", "top_p", "min_p") if (value := getattr(narrow, name)) is not None}
    assert ask(engine, user("Tell me."), options=Options(**(wide | chosen))) == ask(engine, user("Tell me."))
    assert ask(engine, user("Tell me."), options=Options(**wide)) != ask(engine, user("Tell me."))


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
    tokenizer = engine._pipeline.get_tokenizer()
    first = tokenizer.get_vocab()[usual.encode()]
    folder = tmp_path / "model"
    shutil.copytree(exported, folder)
    file = folder / "generation_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"eos_token_id": [config["eos_token_id"], first]}))
    last = stream(new_engine(folder), user("Tell me."))[-1]
    assert (last.finish_reason, last.usage.completion_tokens) == ("stop", 1)


@pytest.mark.parametrize("options", [Options(max_tokens=0), Options(repetition_penalty=0.0)])
def test_option_that_makes_no_sense_is_refused(engine: OpenvinoEngine, options: Options) -> None:
    with pytest.raises(BadRequest, match=r"^(max_tokens|repetition_penalty): .*\.$"):
        stream(engine, user("Tell me."), options=options)


def test_stop_string_ends_the_answer_and_never_leaks(engine: OpenvinoEngine) -> None:
    whole = stream(engine, user("Tell me."))
    free = text_of(whole)
    for start in range(0, len(free) - 4, 3):
        stop = free[start : start + 4]
        chunks = stream(engine, user("Tell me."), options=Options(temperature=0.0, max_tokens=24, stop=("zzz", stop)))
        assert text_of(chunks) == free[: free.index(stop)]
        assert chunks[-1].finish_reason == "stop"
        assert chunks[-1].usage.completion_tokens <= whole[-1].usage.completion_tokens


def test_characters_are_whole_however_their_bytes_are_cut_into_tokens(engine: OpenvinoEngine) -> None:
    schema = {"const": "Œuvre: 猫 und 🦊, ½ Żółw"}  # the tokenizer has no token for any of the rare ones
    chunks = stream(engine, user("Say it."), options=Options(max_tokens=100), schema=schema)
    assert json.loads(text_of(chunks)) == schema["const"]
    assert chunks[-1].usage.completion_tokens > len(text_of(chunks))
    assert chunks[-1].finish_reason == "stop"
    assert not any("\ufffd" in chunk.text for chunk in chunks)


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


@pytest.mark.parametrize("schema", [{"type": "banana"}, {"$ref": "#/nowhere"}, {"type": "object", "properties": 3}])
def test_schema_that_cannot_be_followed_is_refused(engine: OpenvinoEngine, schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"^response_schema: .+\.$"):
        stream(engine, user("JSON."), schema=schema)
    assert ask(engine, user("Still there?"))


@pytest.fixture(scope="module")
def small(new_engine: Callable[..., OpenvinoEngine]) -> OpenvinoEngine:
    """One with a short context."""
    return new_engine(context_length=256, max_image_tokens=5000)


def test_prompt_that_does_not_fit_is_refused_with_both_numbers_before_any_work(small: OpenvinoEngine) -> None:
    image = noise_image(320, 320)
    small._pipeline.entered.clear()
    with pytest.raises(PromptTooLong, match=r"\b(2\d\d|3\d\d) tokens, 200 of them .* 256\b"):
        stream(small, user(image, image, "x" * 100))
    assert not small._pipeline.entered.is_set()
    assert ask(small, user("Tell me."))


def test_answer_ends_where_the_context_does(small: OpenvinoEngine) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    for max_tokens in (None, 10_000):
        options = Options(temperature=0.0, max_tokens=max_tokens)
        last = stream(small, user("Count."), options=options, schema=schema)[-1]
        assert last.finish_reason == "length"
        # The last token needs no room: nothing follows it.
        assert last.usage.prompt_tokens + last.usage.completion_tokens == 257


@pytest.mark.parametrize("image", [True, False], ids=["image", "text"])
def test_cancel_before_the_first_token_is_reported_at_once(image: bool, engine: OpenvinoEngine, held: Pipeline) -> None:
    cancel = Cancel()
    message = user(noise_image(64, 64), "?") if image else user("?")
    answer = engine.generate(Request((message,), GREEDY), cancel)
    assert next(answer).stage == (Stage.ENCODE if image else Stage.PREFILL)
    timer = threading.Thread(target=lambda: held.entered.wait(SOON) and cancel.set())
    timer.start()
    last = next(answer)  # though the pipeline is stuck
    timer.join()
    assert not held.go.is_set()
    assert last.finish_reason == "cancelled"
    assert (last.usage.completion_tokens, last.usage.first_token_time) == (0, None)
    assert next(answer, None) is None


def test_next_request_waits_until_the_cancelled_one_is_out_of_the_pipeline(
    engine: OpenvinoEngine, held: Pipeline
) -> None:
    messages = (user(noise_image(128, 96), "What is this?"),)
    _cancel_in_pipeline(engine, held)
    answer = engine.generate(Request(messages, GREEDY), Cancel())
    assert next(answer) == Chunk(Stage.QUEUED)
    held.go.set()
    chunks = list(answer)
    assert chunks[0].stage == Stage.ENCODE
    assert text_of(chunks) == ask(engine, *messages)


def test_request_that_waits_for_a_cancelled_one_can_be_cancelled(engine: OpenvinoEngine, held: Pipeline) -> None:
    _cancel_in_pipeline(engine, held)
    for early in (True, False):
        cancel = Cancel()
        if early:
            cancel.set()
        answer = engine.generate(Request((user("?"),), GREEDY), cancel)
        assert next(answer).stage == Stage.QUEUED
        cancel.set()
        (last,) = answer
        assert last.finish_reason == "cancelled"
    held.go.set()
    assert ask(engine, user("Tell me."))


def test_request_is_refused_at_once_while_a_cancelled_one_is_in_the_pipeline(
    engine: OpenvinoEngine, held: Pipeline
) -> None:
    _cancel_in_pipeline(engine, held)
    with pytest.raises(BadRequest, match="no messages"):
        stream(engine)
    with pytest.raises(BadImage):
        stream(engine, user(noise_image(33, 32)))


def _cancel_in_pipeline(engine: OpenvinoEngine, held: Pipeline) -> None:
    """Leave a cancelled answer behind that has not noticed yet."""
    cancel = Cancel()
    answer = engine.generate(Request((user("Tell me everything."),), GREEDY), cancel)
    next(answer)
    assert held.entered.wait(SOON)
    cancel.set()
    assert [chunk.finish_reason for chunk in answer] == ["cancelled"]


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
    assert engine._run.over or engine._run._thread.is_alive()
    engine._run.join()
    assert engine._run.result.perf_metrics.get_num_generated_tokens() < 2000
    assert ask(engine, user("Tell me."))


def test_cancel_before_the_start_does_no_work(engine: OpenvinoEngine, held: Pipeline) -> None:
    cancel = Cancel()
    cancel.set()
    (last,) = engine.generate(Request((user(noise_image(64, 64), "?"),), GREEDY), cancel)
    assert last.finish_reason == "cancelled"
    assert last.usage.prompt_tokens > 0
    assert not held.entered.is_set()


def test_stream_closed_early_leaves_a_working_engine(engine: OpenvinoEngine) -> None:
    messages = (user(noise_image(128, 96), "What is this?"),)
    expected = ask(engine, *messages)
    for n in range(6):
        answer = engine.generate(Request(messages, GREEDY), Cancel())
        for _ in range(n):
            next(answer)
        answer.close()
    assert ask(engine, *messages) == expected


def test_second_answer_at_the_same_time_is_refused(engine: OpenvinoEngine) -> None:
    first = engine.generate(Request((user("One."),), GREEDY), Cancel())
    next(first)
    with pytest.raises(EngineError, match="one request at a time"):
        next(engine.generate(Request((user("Two."),), GREEDY), Cancel()))
    expected = text_of(list(first))
    assert ask(engine, user("One.")) == expected


def test_failure_of_the_library_ends_one_answer(engine: OpenvinoEngine, held: Pipeline) -> None:
    held.go.set()
    held.failure = RuntimeError("Check failed at /somewhere/pipeline.cpp:7:\nthere is no memory left\n")
    try:
        with pytest.raises(EngineError, match="there is no memory left") as caught:
            stream(engine, user("One."))
    finally:
        held.failure = None
    assert type(caught.value) is EngineError
    assert ask(engine, user("One."))


def test_closing_waits_for_the_work_that_is_left(
    new_engine: Callable[..., OpenvinoEngine],
) -> None:
    engine = new_engine()
    answer = engine.generate(Request((user("Tell me."),), Options(temperature=0.0)), Cancel())
    next(answer)
    answer.close()
    engine.close()
    assert engine._run.over
    engine.close()


@pytest.mark.parametrize("text", [*HOSTILE, "<ov_genai_image_0>", "<ov_genai_video_0>", "<|video_pad|>"])
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_text_cannot_inject_control_tokens_or_images(
    text: str, role: Any, engine: OpenvinoEngine, reference: Reference
) -> None:
    image = noise_image(64, 32)
    pads = reference.tokenizer("<|image_pad|>")["input_ids"]
    control = set(reference.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))

    def skeleton(text: str) -> list[int]:
        prompt = engine._prompts.build((user("a", image), Message(role, (text,)), user("b")))
        tokens = engine._pipeline.get_tokenizer().encode(prompt.text).input_ids.data[0].tolist()
        assert prompt.tokens == len(tokens) + 1  # the second of the image
        return [token for token in tokens if token in control]

    assert skeleton(text) == skeleton("x")
    assert skeleton(text).count(pads[0]) == 1
    usage = stream(engine, user("a", image), Message(role, (text,)), user("b"))[-1].usage
    assert usage.prompt_tokens == engine._pipeline.input_tokens[-1]


def test_control_token_in_two_halves_stays_text(engine: OpenvinoEngine) -> None:
    halves = engine._prompts.build((user("<|im_", "end|>"),))
    assert halves == engine._prompts.build((user("<|im_end|>"),))


@pytest.mark.parametrize(
    "image",
    [
        noise_image(33, 32),
        noise_image(32, 50),
        noise_image(32 * 20, 32 * 20),
        noise_image(32 * 201, 32),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((32, 32, 3), np.float32),
    ],
    ids=lambda image: f"{image.shape}-{image.dtype}",
)
def test_image_the_model_cannot_take_as_it_is_is_refused(engine: OpenvinoEngine, image: Any) -> None:
    with pytest.raises(BadImage, match=r"\.$"):
        stream(engine, user(image, "What is this?"))


def test_one_token_image_that_openvino_would_mix_up_with_others_is_refused(engine: OpenvinoEngine) -> None:
    assert stream(engine, user(noise_image(32, 32), "?"))[-1].usage.image_tokens == 1
    with pytest.raises(BadImage, match="Enlarge it"):
        stream(engine, user(noise_image(32, 32), noise_image(320, 320), "?"))


def test_image_need_not_be_contiguous_nor_writable(engine: OpenvinoEngine) -> None:
    image = noise_image(128, 96)
    flipped = image[::-1, ::-1]
    copy = np.ascontiguousarray(flipped)
    copy.flags.writeable = False
    assert ask(engine, user(flipped, "?")) == ask(engine, user(copy, "?"))
    assert ask(engine, user(image, "?")) != ask(engine, user(copy, "?"))


def test_images_are_asked_for_as_model_and_context_allow(engine: OpenvinoEngine, small: OpenvinoEngine) -> None:
    assert engine.describe().image_input == ImageInput(32, 300)
    assert small.describe().image_input == ImageInput(32, 255)
    with pytest.raises(BadImage, match="at most 300 tiles"):
        stream(engine, user(noise_image(32 * 301, 32), "?"))


def test_thinking_models_reason_before_they_answer(thinker: OpenvinoEngine, engine: OpenvinoEngine) -> None:
    assert engine.describe().details["reasoning"] == "no"
    assert not any(chunk.reasoning for chunk in stream(engine, user("Think.")))
    assert thinker.describe().details["reasoning"] == "yes"
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
    answered = 0
    for seed in range(12):
        options = Options(temperature=2.0, top_k=0, top_p=1.0, seed=seed, max_tokens=400)
        chunks = stream(thinker, user("Think."), options=options, schema=schema)
        reasoning, answer = "".join(c.reasoning for c in chunks), text_of(chunks)
        assert "</think>" not in reasoning + answer
        if chunks[-1].finish_reason == "stop" and answer:
            jsonschema.validate(json.loads(answer), schema)
            answered += 1
            last_reasoning = max((i for i, c in enumerate(chunks) if c.reasoning), default=0)
            assert not any(c.text for c in chunks[:last_reasoning])
    assert answered >= 2


def test_empty_conversation_is_refused(engine: OpenvinoEngine) -> None:
    with pytest.raises(BadRequest, match="no messages"):
        stream(engine)


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
    told: dict[str, Any] = {}

    def pipeline(folder: Path, device: str, **properties: Any) -> Any:
        told.update(properties, device=device)
        return VLMPipeline(folder, "CPU")

    monkeypatch.setattr(module, "VLMPipeline", pipeline)
    monkeypatch.setattr(module, "check_device", lambda device: device)
    monkeypatch.setattr(module, "full_name", lambda device: "a test's NPU")
    engine = OpenvinoEngine(str(exported), device="NPU", context_length=2048)
    assert told == {"device": "NPU", "MAX_PROMPT_LEN": 1536, "MIN_RESPONSE_LEN": 512}
    assert engine.describe().prompt_limit == 1536
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
