"""What a goal says is checked before anything is computed."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engines.base import BadRequest, Description, ModelCard, Options, Unsupported
from qwen3vl_ros.prompts.request import AskRequest, Turn, card_notes, check_supported, merge_options
from qwen3vl_ros.prompts.schema import parse_schema, validate_answer

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.fixed_dictionaries({}, optional={f.name: NUMBERS for f in fields(Options) if f.name != "stop"}))
def test_options_are_in_range_unset_or_refused_by_name(asked: dict[str, float]) -> None:
    try:
        options = merge_options(asked, {})
    except BadRequest as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert any(name in refusal for name in asked)
        return
    for name, value in asked.items():
        assert getattr(options, name) == (None if value < 0 else value)
    assert options.temperature is None or 0 <= options.temperature <= 2
    assert options.top_p is None or 0 < options.top_p <= 1


def test_an_unset_option_takes_the_nodes_and_an_unset_node_the_models() -> None:
    options = merge_options({"temperature": -1.0, "top_k": 5}, {"temperature": 0.5, "top_k": 9, "seed": -1})
    assert (options.temperature, options.top_k, options.seed, options.max_tokens) == (0.5, 5, None, None)


def test_stop_strings_are_bounded_in_number_and_length() -> None:
    assert len(merge_options({"stop": [f"stop {n}" for n in range(64)]}, {}).stop) == 64
    with pytest.raises(BadRequest, match=r"^options.stop: there are 65 "):
        merge_options({"stop": ["x"] * 65}, {})
    with pytest.raises(BadRequest, match=r"^options.stop: .*257 characters"):
        merge_options({"stop": ["x" * 257]}, {})


@pytest.mark.parametrize("text", ["{", '{"type": 3}', "[]", "true"])
def test_a_schema_that_is_none_is_refused_in_words(text: str) -> None:
    with pytest.raises(BadRequest, match="response_schema"):
        parse_schema(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)
    )
)
def test_a_valid_answer_comes_back_as_the_same_value(value: object) -> None:
    assert json.loads(validate_answer(json.dumps(value), {})) == value


def test_an_answer_that_breaks_its_schema_says_where() -> None:
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}}
    with pytest.raises(ValueError, match=r"\$\.count"):
        validate_answer('{"count": "three"}', schema)
    with pytest.raises(ValueError, match="max_tokens"):
        validate_answer('{"count": 3', schema)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (AskRequest("?", system_prompt="s"), "system_prompt"),
        (AskRequest("?", text_only=True), "text_only"),
        (AskRequest("?", options=Options(seed=1), asked=frozenset({"seed"})), "seed"),
        (AskRequest("?", options=Options(stop=("x",))), "stop"),
    ],
)
def test_a_field_that_the_engine_cannot_honour_is_named(asked: AskRequest, field: str) -> None:
    with pytest.raises(Unsupported, match=f"^{field}:"):
        check_supported(asked, Description("e", "m"))
    every = frozenset({"system_prompt", "text_only", "json_schema", "seed", "stop"})
    check_supported(asked, Description("e", "m", supports=every))


_TOY = ModelCard("It knows boxes only.", demonstration=True, tasks=("count", "locate"), conversation=False)


def test_a_ready_made_task_that_the_model_does_not_know_is_refused_by_name() -> None:
    toy = Description("e", "Toy", card=_TOY)
    with pytest.raises(Unsupported, match=r"^task: the model Toy does not know 'ocr'; it knows count, locate\."):
        check_supported(AskRequest("?", task="ocr", ready_made=True), toy)
    check_supported(AskRequest("?", task="locate", ready_made=True), toy)
    check_supported(AskRequest("?", task="my_own"), toy)
    check_supported(AskRequest("?"), toy)
    check_supported(AskRequest("?", task="ocr", ready_made=True), Description("e", "Real"))


def test_a_model_without_conversation_gets_none() -> None:
    asked = AskRequest("And now?", history=(Turn("user", ("Is it red?",)), Turn("assistant", ("no",))))
    with pytest.raises(Unsupported, match=r"^history: the model Toy knows no conversation"):
        check_supported(asked, Description("e", "Toy", card=_TOY))
    check_supported(asked, Description("e", "Real"))


def test_only_a_demonstration_model_says_so_with_every_answer() -> None:
    (note,) = card_notes(Description("e", "Toy", card=_TOY))
    assert note.startswith("a demonstration model: It knows boxes only. Get a real one: ")
    assert card_notes(Description("e", "Real")) == []
