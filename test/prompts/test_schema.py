"""A response schema is data: bounded, never looked up anywhere, and checked before anything is computed."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engines.base import BadRequest
from qwen3vl_ros.prompts import schema as schemas
from qwen3vl_ros.prompts.schema import parse_schema, validate_answer


def refusal(schema: Any) -> str:
    with pytest.raises(BadRequest, match=r"^response_schema: ") as refused:
        parse_schema(schema if isinstance(schema, str) else json.dumps(schema))
    return str(refused.value)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """The address of a server that serves a schema, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"enum": ["SECRET"]}')

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        serving.join()


@pytest.mark.parametrize("keyword", ["$ref", "$dynamicRef", "$recursiveRef", "$schema", "$id"])
@pytest.mark.parametrize("place", [[], ["properties", "a"], ["items"], ["allOf", 0], ["$defs", "unused"]])
def test_nothing_outside_the_document_is_looked_up(
    listener: tuple[str, list[str]], tmp_path: Path, keyword: str, place: list[Any]
) -> None:
    address, asked = listener
    (tmp_path / "secret.json").write_text('{"enum": ["SECRET"]}')
    for outside in (f"{address}/x", f"file://{tmp_path}/secret.json#/enum", "ftp://127.0.0.1/x", f"{address}#/x"):
        schema: Any = {"type": "string", keyword: outside}
        for step in reversed(place):
            schema = [schema] if isinstance(step, int) else {step: schema}
        assert keyword in refusal(schema)
    assert asked == []


def test_what_holds_an_answer_against_a_schema_looks_nothing_up_either(listener: tuple[str, list[str]]) -> None:
    """Should a reference ever get that far."""
    address, asked = listener
    with pytest.raises(Exception, match="Unresolvable"):
        validate_answer('{"a": "x"}', {"properties": {"a": {"$ref": f"{address}/x"}}})
    assert asked == []


@pytest.mark.parametrize("reference", ["person", "./person", "//host/x", "urn:x:y", "", "?x", "x#/y"])
def test_a_relative_reference_leads_out_too(reference: str) -> None:
    assert "$ref" in refusal({"properties": {"a": {"$ref": reference}}})
    assert "$dynamicRef" in refusal({"$defs": {"a": {"$dynamicRef": reference}}})


def test_references_inside_the_document_are_followed() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": {
            "tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}, "n": {"$ref": "#number"}}},
            "number": {"$anchor": "number", "type": "integer"},
            "a b/c": {"type": "null"},
        },
        "$ref": "#/$defs/tree",
        "properties": {"gone": {"$ref": "#/$defs/a%20b~1c"}},
    }
    parsed = parse_schema(json.dumps(schema))
    assert parsed is not None
    assert validate_answer('{"left": {"left": {"n": 3}}, "gone": null}', parsed)
    with pytest.raises(ValueError, match=r"\$\.left\.left\.n"):
        validate_answer('{"left": {"left": {"n": "three"}}}', parsed)


def test_names_and_constants_that_look_like_references_are_names_and_constants() -> None:
    outside = {"$ref": "http://127.0.0.1:9/x", "$id": "http://127.0.0.1:9/", "$schema": "x"}
    schema = {
        "properties": {name: {"const": outside} for name in outside},
        "enum": [{}, outside, {"$ref": outside}],
        "default": outside,
        "examples": [outside],
    }
    parsed = parse_schema(json.dumps(schema))
    assert parsed is not None
    assert validate_answer(json.dumps({"$ref": outside}), parsed)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"not": {"anyOf": [{"$ref": "#"}]}},
        {"properties": {"a": {"$ref": "#/properties/a"}}},
        {"$defs": {"a": {"oneOf": [{"$ref": "#/$defs/b"}]}, "b": {"if": {"$dynamicRef": "#/$defs/a"}}}},
        {"$ref": "#/nowhere"},
        {"$ref": "#nowhere"},
        {"$ref": "#/const/a", "const": {"a": {"$ref": "http://127.0.0.1:9/x"}}},
        {"$ref": "#/enum/0", "enum": ["text"]},
    ],
)
def test_references_that_lead_nowhere_or_round_in_circles_are_refused(schema: Any) -> None:
    assert "$ref" in refusal(schema) or "$dynamicRef" in refusal(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "a\0b"},
        {"enum": ["\0"]},
        {"properties": {"a\0": {}}},
        {"required": ["\0"]},
        {"pattern": "\0"},
        {"pattern": "^\\u0000$"},
        {"pattern": "a\\\\\\x00"},
        {"patternProperties": {"\\0": {}}},
        {"description": "\0"},
    ],
)
def test_a_nul_is_refused_wherever_it_stands(schema: Any) -> None:
    with pytest.raises(BadRequest, match=r"^(a name in )?response_schema(\.\w+)*: .*NUL"):
        parse_schema(json.dumps(schema))


@pytest.mark.parametrize(
    "pattern", ["^a{1,999999}$", "a{5000}", "(ab){0,1001}", "(", "a{99999999999}", "(" * 400, "a" * 1001]
)
def test_a_pattern_is_bounded(pattern: str) -> None:
    assert "pattern" in refusal({"type": "string", "pattern": pattern})
    assert "pattern" in refusal({"items": {"patternProperties": {pattern: {}}}})


@pytest.mark.parametrize("pattern", ["^\\d{1,1000}$", "\\{5000\\}", "\\\\0", "^(?=.*x).+$", "é+"])
def test_ordinary_patterns_are_taken(pattern: str) -> None:
    assert parse_schema(json.dumps({"pattern": pattern})) == {"pattern": pattern}


def test_size_depth_and_number_are_bounded_before_anything_is_checked() -> None:
    deep: Any = {}
    for _ in range(schemas.MAX_DEPTH):
        deep = {"items": deep}
    assert "deep" in refusal(deep)
    assert "deep" in refusal("[" * 60_000) or "not JSON" in refusal("[" * 60_000)
    many = {"properties": {f"k{n}": {} for n in range(schemas.MAX_OBJECTS)}}
    assert f"{schemas.MAX_OBJECTS} objects" in refusal(many)
    assert f"{schemas.MAX_BYTES} are taken" in refusal({"enum": ["x" * schemas.MAX_BYTES]})
    assert parse_schema(json.dumps({"enum": [f"word {n}" for n in range(4000)]}))


def test_half_a_character_becomes_the_replacement_character() -> None:
    assert parse_schema('{"const": "a\\ud83d", "title": "\\ud83d\\ude00"}') == {"const": "a\ufffd", "title": "😀"}


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e999", "[1, -1E400]"])
def test_numbers_that_json_does_not_have_are_no_answer(text: str) -> None:
    with pytest.raises(ValueError, match="not JSON"):
        validate_answer(text, {})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
KEYWORDS = st.sampled_from(
    ["type", "properties", "items", "allOf", "not", "$ref", "$id", "$schema", "$defs", "pattern", "enum", "const",
     "$dynamicRef", "$anchor", "$dynamicAnchor", "required", "minimum", "maxLength", "dependentSchemas", "if", "then"]
)  # fmt: skip
SCHEMAS = st.recursive(
    JSON | st.sampled_from(["#", "#/$defs/a", "object", "string"]),
    lambda inner: st.dictionaries(KEYWORDS | st.just("a"), inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(SCHEMAS, JSON)
def test_whatever_is_sent_is_refused_in_words_or_can_be_held_against_an_answer(schema: Any, answer: Any) -> None:
    try:
        parsed = parse_schema(json.dumps(schema))
    except BadRequest as error:
        sentence = str(error)
    else:
        try:
            sentence = validate_answer(json.dumps(answer), parsed or {})
        except ValueError as error:
            sentence = str(error)
        assert json.loads(sentence) == answer if sentence[:1] in '[{"' else len(sentence) < 800
        return
    assert sentence.removeprefix("a name in ").startswith("response_schema")
    assert len(sentence.encode()) < 4 * 800
