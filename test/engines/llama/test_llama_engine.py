"""The ``llama`` engine against a tiny Qwen3-VL that the tests make: real inference, compared with transformers."""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from llama_cpp import llama_cpp as lib

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
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.engines.llama.sampling import INSTRUCT, THINKING
from tiny_qwen3vl import TinyModel
from training.tokenizer import SPECIAL_TOKENS
from transformers_reference import HOSTILE, Reference, fitted, noise_image, text_of, user

GREEDY = Options(temperature=0.0, max_tokens=24)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return tiny_qwen3vl.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def altered(tiny: TinyModel, tmp_path: Path) -> Callable[..., TinyModel]:
    """The tiny model with other metadata in its GGUF file."""

    def alter(**values: str | int | float) -> TinyModel:
        metadata = {key.replace("__", "."): value for key, value in values.items()}
        return replace(tiny, model=tiny_qwen3vl.with_metadata(tiny.model, tmp_path / "altered.gguf", metadata))

    return alter


@pytest.fixture
def new_engine() -> Iterator[Callable[..., LlamaEngine]]:
    engines = []

    def new(tiny: TinyModel, **config: Any) -> LlamaEngine:
        # One thread: two that wait for each other crawl when something else has the second core.
        engines.append(LlamaEngine(str(tiny.model), **{"mmproj": str(tiny.mmproj), "n_threads": 1, **config}))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(tiny: TinyModel, new_engine: Callable[..., LlamaEngine]) -> LlamaEngine:
    """A cold one: nothing in its caches."""
    return new_engine(tiny)


def stream(engine: LlamaEngine, *messages: Message, options: Options = GREEDY, schema: Any = None) -> list[Chunk]:
    return list(engine.generate(Request(messages, options, schema), Cancel()))


def ask(engine: LlamaEngine, *messages: Message, options: Options = GREEDY, schema: Any = None) -> str:
    return text_of(stream(engine, *messages, options=options, schema=schema))


@pytest.fixture(scope="session")
def reference(tiny: TinyModel) -> Reference:
    return Reference(tiny.hf_dir)


# Chosen so that every token of the answer leads clearly: llama.cpp computes in float32 but keeps the KV cache in
# float16, which moves logits by up to 0.03 here.
CONVERSATIONS = {
    "text": (user("What colour is the other cylinder?"),),
    "unicode and white space": (Message("system", ("You are a robot.\n\n",)), user("\n  Grüße 5 你好  🙂\t\n")),
    "one image": (user(noise_image(128, 96, 5), "What is this?"),),
    "two images": (user("First ", noise_image(64, 96, 8), " and second ", noise_image(160, 32, 9), "\n\nWhich?"),),
    "odd-sized image": (user(fitted(333, 207, 4), "Describe what you see."),),
    "three turns": (
        user(noise_image(32, 32, 16), "one"),
        Message("assistant", ("yes",)),
        user("two", noise_image(320, 64, 17)),
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_greedy_answer_is_that_of_transformers_token_for_token(
    name: str, engine: LlamaEngine, reference: Reference
) -> None:
    messages = CONVERSATIONS[name]
    prompt, answer, lead = reference.answer(messages, 24)
    assert lead > 0.05
    chunks = stream(engine, *messages)
    usage = chunks[-1].usage
    assert usage is not None
    # The last token of an answer is never decoded, so it is not in the cache.
    in_cache = [piece for piece in engine._context.pieces if isinstance(piece, int)]
    assert in_cache == prompt + answer[:-1]
    assert text_of(chunks) == reference.tokenizer.decode(answer, skip_special_tokens=True)
    pixels = sum(part.size // 3 for m in messages for part in m.content if not isinstance(part, str))
    assert (usage.image_tokens, usage.completion_tokens) == (pixels // 1024, len(answer))
    assert usage.prompt_tokens == len(prompt) + pixels // 1024


def test_warm_answers_are_those_of_a_cold_engine(tiny: TinyModel, new_engine: Callable[..., LlamaEngine]) -> None:
    one, other = noise_image(128, 96, 1), noise_image(128, 96, 2)
    warm = new_engine(tiny)
    for messages in (
        (user(one, "What is this?"),),
        (user(one, "What is this?"),),
        (user(one, "Where?"),),
        (user(other, "Where?"),),
        (user(one, "Where?"), Message("assistant", ("There.",)), user("Why?", other)),
        (user("No image."),),
        (user(other, one, "Where?"),),
        (user(one.reshape(128, 96, 3), "Where?"),),  # the same bytes in another shape
    ):
        cold = new_engine(tiny)
        assert ask(warm, *messages) == ask(cold, *messages)
        cold.close()


def test_second_question_about_an_image_reuses_it(engine: LlamaEngine) -> None:
    image = noise_image(128, 96)
    first = stream(engine, user(image, "What is this?"))
    assert [c.stage for c in first][:3] == [Stage.ENCODE, Stage.PREFILL, Stage.DECODE]
    assert first[-1].usage.encode_time > 0.0
    assert first[-1].usage.cached_tokens == 0
    again = stream(engine, user(image, "What is this?"))
    assert [c.stage for c in again][:2] == [Stage.PREFILL, Stage.DECODE]
    assert again[-1].usage.cached_tokens == first[-1].usage.prompt_tokens - 1  # one is decoded for its logits
    assert again[-1].usage.encode_time == 0.0
    other = stream(engine, user(image, "Where is it?"))
    assert other[-1].usage.cached_tokens >= 12
    assert other[-1].usage.encode_time == 0.0
    stream(engine, user("No image."))
    back = stream(engine, user(image, "Where is it?"))
    assert back[-1].usage.cached_tokens < 12  # the KV cache lost it,
    assert back[-1].usage.encode_time == 0.0  # its embedding is still there


def test_one_changed_pixel_is_another_image(engine: LlamaEngine) -> None:
    image = noise_image(128, 96)
    before = stream(engine, user(image, "What is this?"))
    image[50, 50, 1] ^= 0x80
    after = stream(engine, user(image, "What is this?"))
    assert after[-1].usage.encode_time > 0.0
    assert after[-1].usage.cached_tokens < 12
    assert text_of(after) != text_of(before)


def test_embeddings_kept_are_bounded_by_their_bytes(tiny: TinyModel, new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(tiny, image_cache_mb=0)
    images = [noise_image(64, 64, seed) for seed in range(3)]
    for image in (*images, images[0]):
        assert stream(engine, user(image, "?"))[-1].usage.encode_time > 0.0
    assert stream(engine, user("again", images[0]))[-1].usage.encode_time == 0.0  # the newest always stays


def test_seed_decides_the_answer(engine: LlamaEngine) -> None:
    def answer(seed: int | None) -> str:
        return ask(engine, user("Tell me."), options=Options(temperature=1.5, top_p=1.0, seed=seed, max_tokens=24))

    assert answer(1) == answer(1)
    assert answer(2**63 - 1) == answer(2**63 - 1)
    assert len({answer(seed) for seed in range(4)}) == 4
    assert len({answer(None) for _ in range(4)}) == 4


@pytest.mark.parametrize("narrow", [Options(top_k=1), Options(top_p=1e-6), Options(min_p=1.0)])
def test_narrowest_sampling_is_greedy(engine: LlamaEngine, narrow: Options) -> None:
    wide = {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "max_tokens": 24}
    chosen = {name: value for name in ("top_k", "top_p", "min_p") if (value := getattr(narrow, name)) is not None}
    assert ask(engine, user("Tell me."), options=Options(**(wide | chosen))) == ask(engine, user("Tell me."))


def test_repetition_penalty_discourages_tokens_seen(engine: LlamaEngine) -> None:
    options = Options(temperature=0.0, repetition_penalty=2.0, max_tokens=48)
    plain = ask(engine, user("Tell me."), options=Options(temperature=0.0, max_tokens=48))
    penalised = ask(engine, user("Tell me."), options=options)
    assert penalised != plain
    tokens = [p for p in engine._context.pieces if isinstance(p, int)][-40:]
    assert len(set(tokens)) > 30


def test_unset_options_are_the_models_recommendation(
    altered: Callable[..., TinyModel], tiny: TinyModel, new_engine: Callable[..., LlamaEngine]
) -> None:
    own = {"general__sampling__temp": 1.7, "general__sampling__top_k": 7, "general__sampling__penalty_repeat": 1.2}
    thinking = {"tokenizer__chat_template": tiny_qwen3vl.THINKING_CHAT_TEMPLATE}
    for metadata, values in (
        ({}, INSTRUCT),
        (thinking, THINKING),
        (own, replace(INSTRUCT, temperature=1.7, top_k=7, repetition_penalty=1.2)),
    ):
        engine = new_engine(altered(**metadata))
        explicit = Options(
            temperature=values.temperature,
            top_p=values.top_p,
            top_k=values.top_k,
            min_p=values.min_p,
            repetition_penalty=values.repetition_penalty,
            seed=5,
            max_tokens=24,
        )
        expected = stream(engine, user("Tell me."), options=explicit)
        got = stream(engine, user("Tell me."), options=Options(seed=5, max_tokens=24))
        assert [(c.text, c.reasoning) for c in got] == [(c.text, c.reasoning) for c in expected]


@pytest.mark.parametrize("options", [Options(max_tokens=0), Options(repetition_penalty=0.0)])
def test_option_that_makes_no_sense_is_refused(engine: LlamaEngine, options: Options) -> None:
    with pytest.raises(BadRequest, match=r"^(max_tokens|repetition_penalty): .*\.$"):
        stream(engine, user("Tell me."), options=options)


def test_stop_string_ends_the_answer_and_never_leaks(engine: LlamaEngine) -> None:
    free = ask(engine, user("Tell me."))
    for start in range(len(free) - 4):
        stop = free[start : start + 4]
        chunks = stream(engine, user("Tell me."), options=Options(temperature=0.0, max_tokens=24, stop=("zzz", stop)))
        assert text_of(chunks) == free[: free.index(stop)]
        assert chunks[-1].finish_reason == "stop"


def test_stop_string_that_only_begins_is_shown_after_all(engine: LlamaEngine) -> None:
    whole = stream(engine, user("Tell me."))
    free = text_of(whole)
    stops = (free[-3:] + "zzz", free[5:8] + "zzz")
    chunks = stream(engine, user("Tell me."), options=Options(temperature=0.0, max_tokens=24, stop=stops))
    assert text_of(chunks) == free
    assert chunks[-1].finish_reason == whole[-1].finish_reason


def test_characters_are_whole_however_their_bytes_are_cut_into_tokens(engine: LlamaEngine) -> None:
    schema = {"const": "Œuvre: 猫 und 🦊, ½ Żółw"}  # the tokenizer has no token for any of the rare ones
    chunks = stream(engine, user("Say it."), options=Options(max_tokens=100), schema=schema)
    assert json.loads(text_of(chunks)) == schema["const"]
    assert chunks[-1].usage.completion_tokens > len(text_of(chunks))
    assert not any("\ufffd" in chunk.text for chunk in chunks)


def probabilities(engine: LlamaEngine, message: Message, *words: str, **options: Any) -> Any:
    request = Request((message,), Options(max_tokens=3, **options), choices=tuple((word,) for word in words))
    *before, last = engine.generate(request, Cancel())
    assert all(chunk.probabilities is None for chunk in before)
    return text_of([*before, last]), last.probabilities


def test_probabilities_of_choices_are_those_of_transformers_before_sampling(
    engine: LlamaEngine, reference: Reference
) -> None:
    asked = user(noise_image(128, 96, 5), "What is this?")
    reference.answer((asked,), 1)
    texts = [reference.tokenizer.decode([token]).lower() for token in range(len(reference.first))]
    bare = [re.sub(r"^[\W_]+|[\W_]+$", "", text) for text in texts]
    likeliest = [bare[token] for token in reference.first.argsort()[::-1] if len(bare[token]) > 2]
    one, other = next((one, other) for one in likeliest for other in likeliest if one[0] != other[0])
    expected = [
        sum(p for p, begin in zip(reference.first, bare, strict=True) if begin and word.startswith(begin))
        for word in (one, other)
    ]
    assert min(expected) > 0
    for seed in range(20):
        answer, told = probabilities(engine, asked, one, other, temperature=2.0, seed=seed, repetition_penalty=1.9)
        if answer[:1].isalnum():  # its first token is the one
            assert told == pytest.approx(expected, rel=0.05)
            break
    else:
        pytest.fail("no answer began with a letter")


def test_choices_change_no_answer_and_without_them_nothing_is_told(engine: LlamaEngine) -> None:
    plain = stream(engine, user("Tell me."))
    chosen = list(engine.generate(Request((user("Tell me."),), GREEDY, choices=(("a",), ("b",))), Cancel()))
    assert text_of(chosen) == text_of(plain)
    assert plain[-1].probabilities is None


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "count": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}, "minItems": 1, "maxItems": 3},
        "free": {"type": "string"},
        "seen": {"type": "boolean"},
    },
    "required": ["name", "count", "tags", "free", "seen"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("options", [{"temperature": 0.0}, *({"temperature": 2.0, "seed": s} for s in range(12))])
def test_answer_follows_the_schema(engine: LlamaEngine, options: dict[str, Any]) -> None:
    chunks = stream(engine, user("JSON, please."), options=Options(max_tokens=1000, **options), schema=SCHEMA)
    if chunks[-1].finish_reason == "length":
        assert chunks[-1].usage.completion_tokens == 1000
        return
    answer = json.loads(text_of(chunks))
    if (
        "\ufffd" in answer["name"]
    ):  # random weights write bytes that are no character; the grammar counts them otherwise
        answer["name"] = ""
    jsonschema.validate(answer, SCHEMA)


def test_most_constrained_answers_end_by_themselves(engine: LlamaEngine) -> None:
    """So that the test above tests something."""
    options = (Options(max_tokens=1000, temperature=2.0, top_k=0, top_p=1.0, seed=seed) for seed in range(8))
    ends = [stream(engine, user("JSON."), options=o, schema=SCHEMA)[-1].finish_reason for o in options]
    assert ends.count("stop") >= 6


@pytest.mark.parametrize(
    "schema", [{"type": "banana"}, {"$ref": "#/nowhere"}, {"type": "object", "properties": 3}, {"pattern": "("}]
)
def test_schema_that_cannot_be_followed_is_refused(engine: LlamaEngine, schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"^response_schema: .+\.$"):
        stream(engine, user("JSON."), schema=schema)
    assert ask(engine, user("Still there?"))


def test_prompt_that_does_not_fit_is_refused_with_both_numbers(
    tiny: TinyModel, new_engine: Callable[..., LlamaEngine]
) -> None:
    engine = new_engine(tiny, n_ctx=256)
    before = ask(engine, user("Tell me."))
    kept = list(engine._context.pieces)
    image = noise_image(320, 320)
    with pytest.raises(PromptTooLong, match=r"\b(2\d\d|3\d\d) tokens.* 256\b"):
        next(engine.generate(Request((user(image, image, "x" * 100),)), Cancel()))
    assert engine._context.pieces == kept
    assert ask(engine, user("Tell me.")) == before


def test_answer_ends_where_the_context_does(tiny: TinyModel, new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(tiny, n_ctx=256)
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    for max_tokens in (None, 10_000):
        last = stream(engine, user("Count."), options=Options(temperature=0.0, max_tokens=max_tokens), schema=schema)[
            -1
        ]
        assert last.finish_reason == "length"
        # The last token needs no room: nothing follows it.
        assert last.usage.prompt_tokens + last.usage.completion_tokens == 257
        assert engine._context.used == 256


class CancelAfter(threading.Event):
    """Is set as soon as the engine has looked at it ``looks`` times: a moment in the middle of a long call."""

    def __init__(self, looks: float = float("inf")) -> None:
        super().__init__()
        self.looks = 0
        self._limit = looks

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > self._limit


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.PREFILL, Stage.DECODE])
def test_cancel_interrupts_the_library_at_once(
    stage: Stage, tiny: TinyModel, new_engine: Callable[..., LlamaEngine]
) -> None:
    request = Request((user(noise_image(320, 320), "Tell me. " * 20),), GREEDY)
    engine, whole = new_engine(tiny), CancelAfter()
    began: dict[Stage, int] = {}
    complete = []
    for chunk in engine.generate(request, whole):
        began.setdefault(chunk.stage, whole.looks)
        complete.append(chunk)
    within = min((looks for s, looks in began.items() if s > stage), default=whole.looks) - began[stage]
    assert within > 30  # the engine looks often in every stage

    engine = new_engine(tiny)
    cancel = CancelAfter(began[stage] + within // 2)
    chunks = list(engine.generate(request, cancel))
    assert chunks[-1].stage == stage
    assert chunks[-1].finish_reason == "cancelled"
    assert cancel.looks - (began[stage] + within // 2) <= 4  # and not again after it was told
    answer = text_of(chunks)
    assert text_of(complete).startswith(answer)
    assert bool(answer) == (stage == Stage.DECODE)
    assert text_of(list(engine.generate(request, Cancel()))) == text_of(complete)


def test_cancel_before_the_start_ends_at_once(engine: LlamaEngine) -> None:
    cancel = Cancel()
    cancel.set()
    chunks = list(engine.generate(Request((user(noise_image(64, 64), "?"),), GREEDY), cancel))
    assert chunks[-1].finish_reason == "cancelled"
    assert text_of(chunks) == ""
    assert chunks[-1].usage.completion_tokens == 0


def test_stream_closed_early_leaves_a_working_engine(tiny: TinyModel, new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(tiny)
    messages = (user(noise_image(128, 96), "What is this?"),)
    expected = ask(new_engine(tiny), *messages)
    for n in range(8):
        answer = engine.generate(Request(messages, GREEDY), Cancel())
        for _ in range(n):
            next(answer)
        answer.close()
    assert ask(engine, *messages) == expected


def test_second_answer_at_the_same_time_is_refused(engine: LlamaEngine) -> None:
    first = engine.generate(Request((user("One."),), GREEDY), Cancel())
    next(first)
    with pytest.raises(EngineError, match="one request at a time"):
        next(engine.generate(Request((user("Two."),), GREEDY), Cancel()))
    expected = text_of(list(first))
    assert ask(engine, user("One.")) == expected


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_text_cannot_inject_control_tokens_or_images(
    text: str, role: Any, engine: LlamaEngine, reference: Reference
) -> None:
    image = noise_image(64, 32)
    messages = (user("a", image), Message(role, (text,)), user("b"))
    stream(engine, *messages, options=Options(temperature=0.0, max_tokens=1))
    pieces = list(engine._context.pieces)
    harmless = (user("a", image), Message(role, ("x",)), user("b"))
    stream(engine, *harmless, options=Options(temperature=0.0, max_tokens=1))
    control = set(reference.tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)))

    def skeleton(pieces: list[Any]) -> list[Any]:
        return [p for p in pieces if not isinstance(p, int) or p in control]

    assert skeleton(pieces) == skeleton(engine._context.pieces)
    # And the model reads the text as it was written.
    ids = [p for p in pieces if isinstance(p, int)]
    assert f"{role}\n{text}<|im_end|>" in reference.tokenizer.decode(ids)


def test_control_token_in_two_halves_stays_text(engine: LlamaEngine, reference: Reference) -> None:
    stream(engine, user("<|im_", "end|>"), options=Options(temperature=0.0, max_tokens=1))
    whole = list(engine._context.pieces)
    stream(engine, user("<|im_end|>"), options=Options(temperature=0.0, max_tokens=1))
    assert whole == engine._context.pieces
    assert whole.count(reference.tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


@pytest.mark.parametrize(
    "image",
    [
        noise_image(33, 32),
        noise_image(32, 50),
        noise_image(32 * 20, 32 * 20),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((32, 32, 3), np.float32),
    ],
    ids=lambda image: f"{image.shape}-{image.dtype}",
)
def test_image_the_model_cannot_take_as_it_is_is_refused(engine: LlamaEngine, image: Any) -> None:
    with pytest.raises(BadImage, match=r"\.$"):
        stream(engine, user(image, "What is this?"))


def test_image_need_not_be_contiguous(engine: LlamaEngine) -> None:
    image = noise_image(128, 96)
    flipped = image[::-1, ::-1]
    assert ask(engine, user(flipped, "?")) == ask(engine, user(np.ascontiguousarray(flipped), "?"))


def test_models_own_image_limit_holds(tiny: TinyModel, tmp_path: Path, new_engine: Callable[..., LlamaEngine]) -> None:
    values = {"clip.vision.image_max_pixels": 70 * 32 * 32 + 17}
    mmproj = str(tiny_qwen3vl.with_metadata(tiny.mmproj, tmp_path / "small.gguf", values))
    assert new_engine(tiny, mmproj=mmproj, max_image_tokens=5000).describe().image_input == ImageInput(32, 70)
    assert new_engine(tiny, mmproj=mmproj, max_image_tokens=10).describe().image_input == ImageInput(32, 10)
    assert new_engine(tiny, max_image_tokens=5000).describe().image_input == ImageInput(32, 300)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 17), (300, 1), (20, 15)])
def test_every_allowed_image_has_one_token_per_tile(engine: LlamaEngine, size: tuple[int, int]) -> None:
    image = noise_image(size[0] * 32, size[1] * 32)
    usage = stream(engine, user(image, "?"), options=Options(temperature=0.0, max_tokens=1))[-1].usage
    assert usage.image_tokens == size[0] * size[1]


def test_thinking_models_reason_before_they_answer(
    altered: Callable[..., TinyModel], new_engine: Callable[..., LlamaEngine]
) -> None:
    engine = new_engine(altered(tokenizer__chat_template=tiny_qwen3vl.THINKING_CHAT_TEMPLATE))
    assert engine.describe().details["reasoning"] == "yes"
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
    answered = 0
    for seed in range(40):
        options = Options(temperature=2.0, top_k=0, top_p=1.0, seed=seed, max_tokens=400)
        chunks = stream(engine, user("Think."), options=options, schema=schema)
        reasoning, answer = "".join(c.reasoning for c in chunks), text_of(chunks)
        assert "</think>" not in reasoning + answer
        assert reasoning or answer or chunks[-1].usage.completion_tokens < 3
        if chunks[-1].finish_reason == "stop" and answer:
            jsonschema.validate(json.loads(answer), schema)
            answered += 1
            last_reasoning = max((i for i, c in enumerate(chunks) if c.reasoning), default=0)
            assert not any(c.text for c in chunks[:last_reasoning])
    assert answered >= 3


def test_probabilities_are_of_the_answer_and_not_of_the_reasoning_before_it(
    altered: Callable[..., TinyModel], new_engine: Callable[..., LlamaEngine]
) -> None:
    engine = new_engine(altered(tokenizer__chat_template=tiny_qwen3vl.THINKING_CHAT_TEMPLATE))
    told: set[bool] = set()
    for seed in range(100):
        options = Options(temperature=2.0, top_k=0, top_p=1.0, seed=seed, max_tokens=100)
        chunks = list(engine.generate(Request((user("Think."),), options, choices=(("a",), ("b",))), Cancel()))
        answer = text_of(chunks)
        if not answer:
            assert chunks[-1].probabilities is None
            told.add(False)
        elif any(letter.isalnum() for letter in answer):
            assert chunks[-1].probabilities is not None
            told.add(True)
        if len(told) == 2:
            return
    pytest.fail(f"of a hundred answers, none was another than {told}")


def test_instruct_models_do_not_reason(engine: LlamaEngine) -> None:
    assert engine.describe().details["reasoning"] == "no"
    assert not any(chunk.reasoning for chunk in stream(engine, user("Think.")))


def test_chunks_add_up(engine: LlamaEngine) -> None:
    chunks = stream(engine, user(noise_image(64, 64), "Tell me."))
    assert [c.finish_reason is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert [c.usage is not None for c in chunks] == [False] * (len(chunks) - 1) + [True]
    counts = [c.completion_tokens for c in chunks]
    assert counts == sorted(counts)
    usage = chunks[-1].usage
    assert usage.completion_tokens == counts[-1] == 24
    assert 0.0 < usage.encode_time < usage.first_token_time < usage.total_time


def test_text_only_model_refuses_images(
    tiny: TinyModel, tmp_path: Path, new_engine: Callable[..., LlamaEngine]
) -> None:
    alone = tmp_path / "alone.gguf"
    shutil.copy(tiny.model, alone)
    engine = new_engine(replace(tiny, model=alone), mmproj="")
    assert engine.describe().max_images == 0
    with pytest.raises(Unsupported, match=r"^images: .*mmproj"):
        stream(engine, user(noise_image(64, 64), "?"))
    assert ask(engine, user("Tell me."))


def test_folder_with_one_model_is_that_model(tiny: TinyModel) -> None:
    engine = LlamaEngine(str(tiny.model.parent))
    assert engine.describe().details["file"] == str(tiny.model)
    assert engine.describe().details["mmproj"] == str(tiny.mmproj)
    engine.close()
    engine.close()


def test_missing_model_says_which_and_how_to_get_one(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.gguf", tmp_path):
        with pytest.raises(ModelNotFound, match=r"qwen3vl-ros download Qwen/\S+") as caught:
            LlamaEngine(str(path))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("part", ["model", "mmproj"])
@pytest.mark.parametrize("damage", ["cut off", "not GGUF", "empty"])
def test_broken_file_says_which_why_and_how_to_get_one(
    part: str, damage: str, tiny: TinyModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = {"model": tmp_path / "model.gguf", "mmproj": tmp_path / "mmproj.gguf"}
    for name, source in (("model", tiny.model), ("mmproj", tiny.mmproj)):
        data = source.read_bytes()
        if name == part:
            data = {"cut off": data[:-50_000], "not GGUF": b"<html>Not found</html>", "empty": b""}[damage]
        files[name].write_bytes(data)
    with pytest.raises(ModelNotFound, match=r"qwen3vl-ros download Qwen/\S+") as caught:
        LlamaEngine(str(files["model"]))
    assert str(files[part]) in str(caught.value)
    assert "does not say why" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_mmproj_that_is_ambiguous_or_missing_is_named(tiny: TinyModel, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    shutil.copy(tiny.model, model)
    for name in ("mmproj-a.gguf", "mmproj-b.gguf"):
        shutil.copy(tiny.mmproj, tmp_path / name)
    with pytest.raises(ModelNotFound, match=r"2 \(mmproj-a\.gguf, mmproj-b\.gguf\)"):
        LlamaEngine(str(model))
    with pytest.raises(ModelNotFound, match=r"gone\.gguf"):
        LlamaEngine(str(model), mmproj=str(tmp_path / "gone.gguf"))
    LlamaEngine(str(model), mmproj=str(tmp_path / "mmproj-b.gguf")).close()


def test_empty_conversation_is_refused(engine: LlamaEngine) -> None:
    with pytest.raises(BadRequest, match="no messages"):
        stream(engine)


def test_one_thread_makes_a_small_models_tokens_and_all_of_them_those_of_a_large_one(
    tiny: TinyModel, new_engine: Callable[..., LlamaEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads(engine: LlamaEngine) -> tuple[int, int]:
        context = engine._context.ctx
        return lib.llama_n_threads(context), lib.llama_n_threads_batch(context)

    assert threads(new_engine(tiny, n_threads=2)) == (1, 2)
    monkeypatch.setattr("qwen3vl_ros.engines.llama.context._ONE_THREADS_MODEL", tiny.model.stat().st_size // 2)
    assert threads(new_engine(tiny, n_threads=2)) == (2, 2)
