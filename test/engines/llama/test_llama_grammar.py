"""What the engine llama lets a model write under a JSON Schema is what the schema allows, letter by letter."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from llama_grammar import accepts
from qwen3vl_ros.engines.base import BadRequest

# Schemas with documents that they allow. The order of an object's keys is that of its schema, as the grammar has it;
# DEL is left out, which the grammar wants to be written as an escape.

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\x7f"), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)


@st.composite
def pairs(draw: st.DrawFn, depth: int = 2) -> tuple[Any, Any]:
    """(schema, document)."""
    kinds = ["const", "enum", "string", "integer", "number", "flag", *(["list", "object", "choice"] if depth else [])]
    kind = draw(st.sampled_from(kinds))
    if kind == "const":
        value = draw(VALUES)
        return {"const": value}, value
    if kind == "enum":
        values = draw(st.lists(VALUES, min_size=1, max_size=4))
        return {"enum": values}, draw(st.sampled_from(values))
    if kind == "string":
        text = draw(TEXTS)
        return {"type": "string", "minLength": draw(st.integers(0, len(text))), "maxLength": len(text) + 2}, text
    if kind == "integer":
        low, value, high = sorted(draw(st.lists(st.integers(-1000, 1000), min_size=3, max_size=3)))
        return {"type": "integer", "minimum": low, "maximum": high}, value
    if kind == "number":
        return {"type": "number", "minimum": -10, "maximum": 10.5}, draw(st.integers(-40, 42)) / 4
    if kind == "flag":
        return {"type": ["boolean", "null"]}, draw(st.sampled_from([True, False, None]))
    if kind == "list":
        schema, item = draw(pairs(depth - 1))
        count = draw(st.integers(0, 3))
        return {"type": "array", "items": schema, "minItems": count, "maxItems": 3}, [item] * count
    if kind == "object":
        members = draw(st.dictionaries(TEXTS, pairs(depth - 1), max_size=3))
        return {
            "type": "object",
            "properties": {name: schema for name, (schema, _) in members.items()},
            "required": list(members),
            "additionalProperties": False,
        }, {name: value for name, (_, value) in members.items()}
    one, other = draw(pairs(depth - 1)), draw(pairs(depth - 1))
    return {"anyOf": [one[0], other[0]]}, draw(st.sampled_from([one[1], other[1]]))


@given(pairs(), st.sampled_from([None, 2]))
@examples(300)
def test_the_grammar_accepts_what_the_schema_accepts(pair: tuple[Any, Any], indent: int | None) -> None:
    schema, document = pair
    jsonschema.validate(document, schema, cls=jsonschema.Draft202012Validator)
    assert accepts(schema, json.dumps(document, ensure_ascii=False, indent=indent))


@given(pairs(), VALUES)
@examples(300)
def test_what_these_schemas_refuse_the_grammar_refuses(pair: tuple[Any, Any], document: Any) -> None:
    schema, _ = pair
    if not jsonschema.Draft202012Validator(schema).is_valid(document):
        assert not accepts(schema, json.dumps(document, ensure_ascii=False))


@pytest.mark.parametrize("text", ['say "hi"', "C:\\temp", "a\nb", "a\tb", "a/b", "\u2028", "é", "😀", ""])
def test_text_that_json_escapes_can_be_a_constant_a_choice_and_a_name(text: str) -> None:
    for schema, document in (
        ({"const": text}, text),
        ({"enum": ["other", text]}, text),
        ({"type": "object", "properties": {text: {"const": 1}}, "required": [text]}, {text: 1}),
    ):
        assert accepts(schema, json.dumps(document, ensure_ascii=False))
        assert not accepts(schema, json.dumps(f"{text}?"))


def lines(*texts: str) -> Iterable[str]:
    return (f'{{"a":{text}1}}' for text in texts)


def test_between_tokens_a_model_cannot_fill_its_answer_with_white_space() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert all(accepts(schema, text) for text in lines("", " ", "\n", "\n    "))
    assert not any(accepts(schema, text) for text in lines("  ", "\n\n", " " * 50, "\n" + " " * 50))


def test_an_object_has_the_properties_that_are_named_unless_the_schema_says_otherwise() -> None:
    one = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert accepts(one, '{"a":1}')
    assert not accepts(one, '{"a":1,"b":2}')
    assert not accepts({"items": {"anyOf": [one, {"type": "null"}]}}, '[{"a":1,"b":2}]')
    assert accepts({**one, "additionalProperties": True}, '{"a":1,"b":2}')
    assert accepts({**one, "required": ["b"]}, '{"b":2}')
    assert accepts({"type": "object"}, '{"b":2}')
    assert accepts({"allOf": [one, {"properties": {"b": {"type": "integer"}}}]}, '{"a":1,"b":2}')
    assert accepts({**one, "anyOf": [{"properties": {"b": {"const": 2}}}]}, '{"a":1,"b":2}')
    assert accepts({"$defs": {"one": one}, "$ref": "#/$defs/one", "properties": {"b": {}}}, '{"a":1,"b":2}')


def test_a_pattern_holds_anywhere_in_a_string_unless_it_is_anchored() -> None:
    assert accepts({"type": "string", "pattern": "b+"}, '"abbc"')
    assert not accepts({"type": "string", "pattern": "^b+$"}, '"abbc"')


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "banana"},
        {"$ref": "#/nowhere"},
        {"$ref": "http://127.0.0.1:9/schema"},
        {"type": "object", "properties": 3},
        {"pattern": "("},
        {"pattern": "(?=look)ahead"},
    ],
)
def test_what_cannot_be_followed_is_a_sentence_and_not_the_end_of_the_process(schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=r"^response_schema: .{20,360}\.$"):
        accepts(schema, "1")


def test_a_grammar_that_grows_beyond_its_limits_is_a_sentence() -> None:
    schema = {"type": "object", "properties": {f"k{n}": {"type": "string"} for n in range(2000)}}
    with pytest.raises(BadRequest, match="response_schema: "):
        accepts(schema, '{"k1999": ""}')
