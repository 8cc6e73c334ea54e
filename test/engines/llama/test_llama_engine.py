"""The ``llama`` engine against a tiny Qwen3-VL that the tests make: real inference, compared with transformers."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import jsonschema
import pytest
from llama_cpp import llama_cpp as lib

import tiny_qwen3vl
from qwen3vl_ros.engines.base import (
    BadRequest,
    Cancel,
    Chunk,
    EngineError,
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
from qwen3vl_ros.engines.llama import log
from qwen3vl_ros.engines.llama.context import n_cells
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.engines.llama.files import find_model
from qwen3vl_ros.engines.llama.slots import Slot
from qwen3vl_ros.engines.recommended import OTHERS
from tiny_model_tests import GREEDY, TinyModelTests, ask, noise_image, stream, text_of, user
from tiny_qwen3vl import TinyModel
from transformers_reference import Reference

pytest_plugins = ["tiny_model_fixtures"]


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


@pytest.fixture
def another(tiny: TinyModel, new_engine: Callable[..., LlamaEngine]) -> LlamaEngine:
    return new_engine(tiny)


@pytest.fixture
def small(tiny: TinyModel, new_engine: Callable[..., LlamaEngine]) -> LlamaEngine:
    """One with a short context."""
    return new_engine(tiny, n_ctx=256)


@pytest.fixture
def thinker(altered: Callable[..., TinyModel], new_engine: Callable[..., LlamaEngine]) -> LlamaEngine:
    return new_engine(altered(tokenizer__chat_template=tiny_qwen3vl.THINKING_CHAT_TEMPLATE))


def newest(engine: LlamaEngine) -> Slot:
    """The slot of the answer that ended last."""
    return max(engine._scheduler.slots, key=lambda slot: slot.used)


class TestTinyModel(TinyModelTests):
    """What llama.cpp read and wrote is in its context."""

    stages: ClassVar = [Stage.ENCODE, Stage.PREFILL, Stage.DECODE]
    thoughts = (40, 3)

    def prompt_of(self, engine: LlamaEngine, *messages: Message) -> list[Any]:
        stream(engine, *messages, options=Options(temperature=0.0, max_tokens=1))
        return list(newest(engine).pieces)

    def check_answer(self, engine: LlamaEngine, chunks: list[Chunk], prompt: list[int], answer: list[int]) -> None:
        # The last token of an answer is never decoded, so it is not in the cache.
        assert [piece for piece in newest(engine).pieces if isinstance(piece, int)] == prompt + answer[:-1]

    def check_context_is_full(self, engine: LlamaEngine) -> None:
        assert n_cells(newest(engine).pieces) == 256


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


def test_second_question_about_an_image_reuses_it(tiny: TinyModel, new_engine: Callable[..., LlamaEngine]) -> None:
    engine = new_engine(tiny, slots=1)
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


def test_repetition_penalty_discourages_tokens_seen(engine: LlamaEngine) -> None:
    options = Options(temperature=0.0, repetition_penalty=2.0, max_tokens=48)
    plain = ask(engine, user("Tell me."), options=Options(temperature=0.0, max_tokens=48))
    penalised = ask(engine, user("Tell me."), options=options)
    assert penalised != plain
    tokens = [p for p in newest(engine).pieces if isinstance(p, int)][-40:]
    assert len(set(tokens)) > 30


def test_unset_options_are_the_models_recommendation(
    altered: Callable[..., TinyModel], tiny: TinyModel, new_engine: Callable[..., LlamaEngine]
) -> None:
    own = {"general__sampling__temp": 1.7, "general__sampling__top_k": 7, "general__sampling__penalty_repeat": 1.2}
    thinking = {"tokenizer__chat_template": tiny_qwen3vl.THINKING_CHAT_TEMPLATE}
    for metadata, values in (
        ({}, OTHERS.at_once),
        (thinking, OTHERS.thinking),
        (own, replace(OTHERS.at_once, temperature=1.7, top_k=7, repetition_penalty=1.2)),
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


def test_stop_string_that_only_begins_is_shown_after_all(engine: LlamaEngine) -> None:
    whole = stream(engine, user("Tell me."))
    free = text_of(whole)
    stops = (free[-3:] + "zzz", free[5:8] + "zzz")
    chunks = stream(engine, user("Tell me."), options=Options(temperature=0.0, max_tokens=24, stop=stops))
    assert text_of(chunks) == free
    assert chunks[-1].finish_reason == whole[-1].finish_reason


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


def test_tokens_come_with_probabilities_and_change_no_answer(engine: LlamaEngine, reference: Reference) -> None:
    asked = user(noise_image(128, 96, 5), "What is this?")
    reference.answer((asked,), 1)
    plain = list(stream(engine, asked))
    for schema in (None, SCHEMA):
        chunks = list(engine.generate(Request((asked,), GREEDY, schema, (), True), Cancel()))
        tokens = chunks[-1].tokens
        assert all(chunk.tokens == () for chunk in (*plain, *chunks[:-1]))
        assert b"".join(token.text for token in tokens).decode("utf-8", "replace").startswith(text_of(chunks))
        assert all(0 <= p <= 1 for token in tokens for _, p in token.all)
        assert all(sum(p for _, p in token.all) <= 1.0001 and len(token.all) <= 25 for token in tokens)
        if schema is None:
            assert text_of(chunks) == text_of(plain)
        # Before the schema: what the model would have begun with, as transformers computes it.
        likeliest = max(p for _, p in tokens[0].all)
        assert likeliest == pytest.approx(float(reference.first.max()), rel=0.05)


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


def test_schema_with_a_broken_pattern_is_refused(engine: LlamaEngine) -> None:
    with pytest.raises(BadRequest, match=r"^response_schema: .+\.$"):
        stream(engine, user("JSON."), schema={"pattern": "("})
    assert ask(engine, user("Still there?"))


def test_prompt_that_does_not_fit_is_refused_with_both_numbers(small: LlamaEngine) -> None:
    before = ask(small, user("Tell me."))
    kept = list(newest(small).pieces)
    image = noise_image(320, 320)
    with pytest.raises(PromptTooLong, match=r"\b(2\d\d|3\d\d) tokens.* 256\b"):
        next(small.generate(Request((user(image, image, "x" * 100),)), Cancel()))
    assert newest(small).pieces == kept
    assert ask(small, user("Tell me.")) == before


def test_gpu_layers_without_a_gpu_are_refused_with_a_way_out(tiny: TinyModel) -> None:
    if lib.llama_supports_gpu_offload():
        pytest.skip("this llama-cpp-python has a GPU")
    for call in (LlamaEngine, LlamaEngine.probe):
        with pytest.raises(ModelNotFound, match=r"^n_gpu_layers: 20 .*docs/gpu\.md"):
            call(model=str(tiny.model), mmproj=str(tiny.mmproj), n_gpu_layers=20)


def test_one_answer_more_than_it_gives_at_a_time_is_refused(engine: LlamaEngine) -> None:
    count = engine.describe().concurrency
    running = [engine.generate(Request((user("One."),), GREEDY), Cancel()) for _ in range(count)]
    for answer in running:
        next(answer)
    with pytest.raises(EngineError, match=r"requests? at a time"):
        next(engine.generate(Request((user("Two."),), GREEDY), Cancel()))
    expected = [text_of(list(answer)) for answer in running]
    assert expected == [ask(engine, user("One."))] * count


class CancelAfter(Cancel):
    """Is set as soon as the engine has looked at it ``limit`` times in ``stage``: a moment within a long call."""

    def __init__(self, stage: Stage | None = None, limit: int = 0) -> None:
        super().__init__()
        self.engine: LlamaEngine | None = None
        self.looks: Counter[Stage] = Counter()
        self.late = 0
        self._stage, self._limit = stage, limit

    def is_set(self) -> bool:
        now = next((answer.stage for answer in self.engine._scheduler._answers), None) if self.engine else None
        if now is None:
            return False
        self.looks[now] += 1
        if self._stage is None or self.looks[self._stage] <= self._limit:
            return False
        self.late += 1
        return True


@pytest.mark.parametrize("stage", [Stage.ENCODE, Stage.PREFILL, Stage.DECODE])
def test_cancel_interrupts_the_library_at_once(
    stage: Stage, tiny: TinyModel, new_engine: Callable[..., LlamaEngine]
) -> None:
    request = Request((user(noise_image(320, 320), "Tell me. " * 20),), GREEDY)

    def answer(cancel: CancelAfter) -> list[Chunk]:
        cancel.engine = engine
        return list(engine.generate(request, cancel))

    engine, whole = new_engine(tiny), CancelAfter()
    complete = answer(whole)
    assert whole.looks[stage] > 30  # the engine looks often in every stage

    engine, cancel = new_engine(tiny), CancelAfter(stage, whole.looks[stage] // 2)
    chunks = answer(cancel)
    assert chunks[-1].stage == stage
    assert chunks[-1].finish_reason == "cancelled"
    assert cancel.late <= 4  # and not again after it was told
    said = text_of(chunks)
    assert text_of(complete).startswith(said)
    assert bool(said) == (stage == Stage.DECODE)
    assert text_of(list(engine.generate(request, Cancel()))) == text_of(complete)


def test_cancel_before_the_start_ends_at_once(engine: LlamaEngine) -> None:
    cancel = Cancel()
    cancel.set()
    chunks = list(engine.generate(Request((user(noise_image(64, 64), "?"),), GREEDY), cancel))
    assert chunks[-1].finish_reason == "cancelled"
    assert text_of(chunks) == ""
    assert chunks[-1].usage.completion_tokens == 0


def test_models_own_image_limit_holds(tiny: TinyModel, tmp_path: Path, new_engine: Callable[..., LlamaEngine]) -> None:
    values = {"clip.vision.image_max_pixels": 70 * 32 * 32 + 17}
    mmproj = str(tiny_qwen3vl.with_metadata(tiny.mmproj, tmp_path / "small.gguf", values))
    assert new_engine(tiny, mmproj=mmproj, max_image_tokens=5000).describe().image_input == ImageInput(
        32, 70, default_tokens=70
    )
    assert new_engine(tiny, mmproj=mmproj, max_image_tokens=10).describe().image_input == ImageInput(
        32, 70, default_tokens=10
    )


def large_mmproj(tiny: TinyModel, folder: Path, tokens: int = 16384) -> str:
    """A vision part that takes that many tokens of an image."""
    values = {"clip.vision.image_max_pixels": tokens * 32 * 32}
    return str(tiny_qwen3vl.with_metadata(tiny.mmproj, folder / f"{tokens}.gguf", values))


def test_a_question_may_have_more_of_an_image_than_the_default(
    tiny: TinyModel, tmp_path: Path, new_engine: Callable[..., LlamaEngine]
) -> None:
    engine = new_engine(tiny, mmproj=large_mmproj(tiny, tmp_path), n_ctx=1024)
    description = engine.describe()
    assert description.image_input == ImageInput(32, 1023, default_tokens=300)
    assert description.max_images == 1024 // 302
    usage = stream(engine, user(noise_image(32 * 32, 20 * 32), "?"), options=Options(max_tokens=1))[-1].usage
    assert usage.image_tokens == 640


def test_llama_cpps_advice_on_image_tokens_is_in_the_description(
    tiny: TinyModel, tmp_path: Path, new_engine: Callable[..., LlamaEngine]
) -> None:
    large, small = large_mmproj(tiny, tmp_path), large_mmproj(tiny, tmp_path, 70)
    advice = new_engine(tiny, mmproj=large, n_ctx=2048).describe().details["advice"]
    assert "1024 image tokens" in advice
    assert "300 at most" in advice
    assert "max_image_tokens" in advice
    assert not new_engine(tiny, mmproj=large, n_ctx=2048, max_image_tokens=1024).describe().details["advice"]
    assert not new_engine(tiny, mmproj=small, n_ctx=2048).describe().details["advice"]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (17, 17), (300, 1), (20, 15)])
def test_every_allowed_image_has_one_token_per_tile(engine: LlamaEngine, size: tuple[int, int]) -> None:
    image = noise_image(size[0] * 32, size[1] * 32)
    usage = stream(engine, user(image, "?"), options=Options(temperature=0.0, max_tokens=1))[-1].usage
    assert usage.image_tokens == size[0] * size[1]


def test_probabilities_are_of_the_answer_and_not_of_the_reasoning_before_it(thinker: LlamaEngine) -> None:
    told: set[bool] = set()
    for seed in range(100):
        options = Options(temperature=2.0, top_k=0, top_p=1.0, seed=seed, max_tokens=100)
        chunks = list(thinker.generate(Request((user("Think."),), options, choices=(("a",), ("b",))), Cancel()))
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
        with pytest.raises(ModelNotFound, match="qwen3vl-ros model use 2b") as caught:
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
    with pytest.raises(ModelNotFound, match="qwen3vl-ros model use 2b") as caught:
        LlamaEngine(str(files["model"]))
    assert str(files[part]) in str(caught.value)
    assert "does not say why" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_lack_of_memory_may_pass_and_is_no_broken_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "last_error", lambda: "failed to allocate buffer for kv cache")
    error = log.loading_error("the model 'x.gguf'", "Get another.")
    assert type(error) is EngineNotReady
    assert "no memory for the model 'x.gguf': failed to allocate" in str(error)


def test_files_are_the_mmproj_and_every_part_of_the_model(tmp_path: Path) -> None:
    parts = [tmp_path / f"m-Q4-0000{number}-of-00002.gguf" for number in (1, 2)]
    mmproj, other = tmp_path / "mmproj-m.gguf", tmp_path / "other.gguf"
    for file in (*parts, mmproj, other):
        file.touch()
    assert LlamaEngine.files(model=str(parts[0]), n_ctx=1) == [*parts, mmproj]
    assert LlamaEngine.files(model=str(other), mmproj=str(mmproj)) == [other, mmproj]


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


def test_the_files_of_a_folder_are_found_however_they_are_written_and_an_importance_matrix_is_no_model(
    tmp_path: Path,
) -> None:
    for name in ("Model-Q4_K_M.GGUF", "Model.imatrix.gguf", "MMPROJ-BF16.GGUF", "README.md"):
        (tmp_path / name).touch()
    found = (tmp_path / "Model-Q4_K_M.GGUF", tmp_path / "MMPROJ-BF16.GGUF")
    assert find_model(str(tmp_path)) == find_model(str(found[0])) == found


def test_one_thread_makes_a_small_models_tokens_and_all_of_them_those_of_a_large_one(
    tiny: TinyModel, new_engine: Callable[..., LlamaEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads(engine: LlamaEngine) -> tuple[int, int]:
        context = engine._context.ctx
        return lib.llama_n_threads(context), lib.llama_n_threads_batch(context)

    assert threads(new_engine(tiny, n_threads=2)) == (1, 2)
    monkeypatch.setattr("qwen3vl_ros.engines.llama.context._ONE_THREADS_MODEL", tiny.model.stat().st_size // 2)
    assert threads(new_engine(tiny, n_threads=2)) == (2, 2)


def test_whether_the_chat_template_knows_tools_is_told(
    altered: Callable[..., TinyModel], new_engine: Callable[..., LlamaEngine], tiny: TinyModel
) -> None:
    lists = '{% for tool in tools or [] %}{{ tool | tojson }}<tool_call>\n{"name": <name>}\n</tool_call>{% endfor %}'
    knows = altered(tokenizer__chat_template=lists + tiny_qwen3vl.CHAT_TEMPLATE)
    assert new_engine(knows).describe().details["tools"] == "hermes"
    assert new_engine(tiny).describe().details["tools"] == "none"
