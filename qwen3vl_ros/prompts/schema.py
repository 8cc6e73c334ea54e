"""Parses and checks the JSON Schema of a goal within limits, and validates answers against it.

A schema is data: no reference in it is fetched, and the limits here bound the cost of checking one. The cost of
validating an answer is not bounded (a single pattern can take exponential time):
:class:`qwen3vl_ros.prompts.sandbox.Sandbox` does that in a process that can be killed.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import jsonschema
import jsonschema.exceptions
import jsonschema.validators
import referencing
import referencing.exceptions
from referencing.jsonschema import DRAFT202012, SchemaResource

from qwen3vl_ros.engines.base import BadRequest
from qwen3vl_ros.engines.plain_text import input_json, output_text

MAX_BYTES: Final = 65_536
"""Most bytes of a schema in UTF-8."""

MAX_DEPTH: Final = 64
"""Deepest nesting of objects and lists."""

MAX_OBJECTS: Final = 500
"""Most objects in a schema, about as many as it has subschemas: each takes half a millisecond to check."""

MAX_PATTERN: Final = 1_000
"""Most characters of a pattern: compiling one can take quadratic time."""

MAX_REPETITION: Final = 1_000
"""Largest number in a quantifier of a pattern, such as ``{1,1000}``: regular expression engines unroll it."""

_REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
_IN_PLACE_LISTS: Final = ("allOf", "anyOf", "oneOf")
_IN_PLACE: Final = ("not", "if", "then", "else")
_QUANTIFIER: Final = re.compile(r"\\.|\{(\d*),?(\d*)\}", re.DOTALL)
_NUL: Final = re.compile(r"(?:[^\\]|\\[^0ux])*\\(?:0|u0000|x00)", re.DOTALL)
"""Matches a pattern that requires U+0000, which no answer can contain."""

_MESSAGE: Final = 300
"""Most characters that a sentence quotes of jsonschema's message, which quotes the schema in turn."""


class SchemaError(ValueError):
    """A value is not a JSON Schema, or exceeds the limits; the text is a sentence about "it"."""


def parse_schema(text: str) -> Mapping[str, Any] | None:
    """Return the JSON Schema in ``text``, None for "".

    Raises:
        BadRequest: It is not JSON, not a schema, or exceeds the limits.
    """
    if not text:
        return None
    try:
        _check_bytes(text)
        schema = json.loads(text, parse_constant=_refuse_constant)
    except SchemaError as error:
        raise BadRequest(f"response_schema: {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or numbers of thousands of digits
        raise BadRequest(f"response_schema: it is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise BadRequest(
            'response_schema: a JSON Schema that constrains anything is an object such as {"type": "object"}'
        )
    try:
        check_schema(schema)
        # The dialect was checked; a remaining "$schema" could make a validator switch to another one.
        return {key: value for key, value in input_json("response_schema", schema).items() if key != "$schema"}
    except SchemaError as error:
        raise BadRequest(f"response_schema: {error}") from error
    except ValueError as error:
        raise BadRequest(str(error)) from error


def check_schema(schema: Any) -> None:
    """Check parsed JSON in time linear in its size.

    Raises:
        SchemaError: It is not a JSON Schema (draft 2020-12), exceeds the limits of this module, or refers to
            something outside of itself.
    """
    _check_size(schema)
    text = json.dumps(schema, ensure_ascii=False)
    _check_bytes(text)
    _check_text(text)


@functools.lru_cache(maxsize=64)
def _check_text(text: str) -> None:
    """Check a schema of limited size; cached, since behaviours send the same ones again and again."""
    schema = json.loads(text)
    try:
        # _check_patterns checks the patterns, within limits.
        jsonschema.Draft202012Validator.check_schema(schema, format_checker=None)
    except jsonschema.SchemaError as error:
        raise SchemaError(
            f"it is not a JSON Schema at {error.json_path}: {output_text(error.message):.{_MESSAGE}}"
        ) from error
    if isinstance(schema, dict):
        subschemas = list(_subschemas(schema))
        for subschema in subschemas:
            _check_patterns(subschema)
            _check_address(subschema, root=subschema is schema)
        _check_references(schema, subschemas)


def schema_prompt(schema: Mapping[str, Any]) -> str:
    """Return what to append to the prompt for an engine that does not constrain the answer to ``schema``."""
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return f"Answer with nothing but JSON that satisfies this JSON Schema: {text}"


def again_prompt(answer: str, problem: str) -> str:
    """Return what to append to the prompt of a second attempt, after ``answer`` was not the requested JSON."""
    return (
        f"You answered before:\n{answer}\n\nThat cannot be used: {problem}.\nAnswer again, with nothing but the JSON."
    )


def without_fence(text: str) -> str:
    """Return the content of a code fence (three backticks, perhaps ``json``, a line break), or ``text`` without one.

    Uses no regular expression: one that allows white space on both sides of a line break backtracks over every split of
    a run of it, in quadratic or cubic time, and models that fail write thousands of line breaks.
    """
    fenced = text.strip()
    if len(fenced) < 6 or not (fenced.startswith("```") and fenced.endswith("```")):
        return text
    inside = fenced[3:-3].removeprefix("json")
    blank = inside[: len(inside) - len(inside.lstrip())]
    _, line_break, indent = blank.rpartition("\n")
    return (indent + inside[len(blank) :]).rstrip() if line_break else text


def validate_answer(text: str, schema: Mapping[str, Any]) -> str:
    """Validate an answer and return it as compact JSON text.

    A code fence around it, which unconstrained models write, is removed. The time is not bounded: a schema can make it
    exponential, see :class:`qwen3vl_ros.prompts.sandbox.Sandbox`.

    Raises:
        ValueError: The answer does not satisfy ``schema``, which must have passed :func:`check_schema`; the text says
            where.
    """
    try:
        value = json.loads(without_fence(text), parse_constant=_refuse_constant)
        compact = json.dumps(value, ensure_ascii=False, allow_nan=False)  # a number may be too large for any float
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the answer is not JSON ({error}); a larger max_tokens may help if it was cut off") from error
    try:
        broken = jsonschema.exceptions.best_match(_validator(schema).iter_errors(value))
    except RecursionError as error:
        raise ValueError("the answer is nested too deeply to be checked") from error
    if broken is not None:
        message = output_text(broken.message)
        raise ValueError(f"the answer does not satisfy response_schema at {broken.json_path}: {message:.{_MESSAGE}}")
    return compact


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number in JSON")


def _validator(schema: Mapping[str, Any]) -> Any:
    return jsonschema.Draft202012Validator(schema, registry=_EMPTY)


_EMPTY: Final[Any] = referencing.Registry()
"""Fetches nothing, whereas jsonschema's default registry would fetch any address."""


def _check_bytes(text: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise SchemaError(f"it has {size} bytes, and {MAX_BYTES} are taken: describe less of the answer")


def _check_size(schema: Any) -> None:
    objects, level, depth = 0, [schema], 0
    while level:
        depth += 1
        objects += sum(isinstance(value, dict) for value in level)
        if depth > MAX_DEPTH:
            raise SchemaError(f"it is nested more than {MAX_DEPTH} deep")
        if objects > MAX_OBJECTS:
            raise SchemaError(f"it has more than {MAX_OBJECTS} objects in it: describe less of the answer")
        inside = (value.values() if isinstance(value, dict) else value for value in level if value)
        level = [value for values in inside for value in values if isinstance(value, dict | list)]


def _subschemas(schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schema and all its subschemas except booleans, without values of const, enum and the like."""
    waiting: list[Any] = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting += DRAFT202012.subresources_of(one)


def _check_patterns(schema: Mapping[str, Any]) -> None:
    patterns = [schema["pattern"]] if "pattern" in schema else []
    for pattern in [*patterns, *schema.get("patternProperties", ())]:
        if len(pattern) > MAX_PATTERN:
            raise SchemaError(f"a pattern in it has {len(pattern)} characters, and {MAX_PATTERN} are taken")
        if _NUL.match(pattern):
            raise SchemaError(f"the pattern {_short(pattern)} asks for a NUL character (U+0000), which is no text")
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise SchemaError(f"the pattern {_short(pattern)} is no regular expression: {error}") from error
        largest = max((int(number) for found in _QUANTIFIER.findall(pattern) for number in found if number), default=0)
        if largest > MAX_REPETITION:
            raise SchemaError(
                f"the pattern {_short(pattern)} repeats something up to {largest} times; {MAX_REPETITION} is the most"
            )


def _check_address(schema: Mapping[str, Any], *, root: bool) -> None:
    """Raise :class:`SchemaError` for an ``$id`` that would give the schema, or a part of it, an external address."""
    identity = schema.get("$id", "")
    if identity and (not root or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:|//", identity)):
        raise SchemaError(
            f"$id {_short(identity)} gives it an address outside of the question, where nothing is looked up: leave it "
            "out"
        )
    dialect = schema.get("$schema")
    if dialect is not None and (not root or jsonschema.validators.validator_for({"$schema": dialect}, None) is None):
        raise SchemaError(
            f"$schema {_short(dialect)} is not looked up: leave it out, or name draft 2020-12 at the top "
            f"({jsonschema.Draft202012Validator.META_SCHEMA['$id']})"
        )


def _check_references(schema: Mapping[str, Any], subschemas: list[dict[str, Any]]) -> None:
    """Raise :class:`SchemaError` for references that are external, dangling, circular, or not to a schema."""
    resolver = _EMPTY.resolver_with_root(SchemaResource.from_contents(schema, DRAFT202012))
    known = {id(subschema) for subschema in subschemas}
    in_place: dict[int, list[Any]] = {}
    for subschema in subschemas:
        targets = []
        for keyword in _REFERENCES:
            if keyword not in subschema:
                continue
            reference = subschema[keyword]
            if not isinstance(reference, str) or not reference.startswith("#"):
                raise SchemaError(
                    f"{keyword} {_short(reference)} leads out of the question, where nothing is looked up: put what it "
                    "means into $defs, and refer to it with #/$defs/NAME"
                )
            if keyword == "$recursiveRef":  # of draft 2019-09, which validators of this draft ignore
                continue
            try:
                target = resolver.lookup(reference).contents
            except (referencing.exceptions.Unresolvable, ValueError) as error:
                raise SchemaError(f"{keyword} {_short(reference)} leads to nothing in it") from error
            if not isinstance(target, bool) and id(target) not in known:
                raise SchemaError(f"{keyword} {_short(reference)} leads to something that is no schema")
            targets.append(target)
        targets += [subschema[keyword] for keyword in _IN_PLACE if keyword in subschema]
        targets += [one for keyword in _IN_PLACE_LISTS for one in subschema.get(keyword, ())]
        targets += subschema.get("dependentSchemas", {}).values()
        in_place[id(subschema)] = [id(target) for target in targets if isinstance(target, dict)]
    if _has_cycle(in_place):
        raise SchemaError("a $ref in it leads back to itself before it has looked any deeper into the answer")


def _has_cycle(edges: Mapping[int, list[int]]) -> bool:
    """Return whether the graph has a cycle (Kahn's algorithm: repeatedly remove nodes without incoming edges)."""
    ways_in = dict.fromkeys(edges, 0)
    for target in (target for targets in edges.values() for target in targets):
        ways_in[target] += 1
    free = [node for node, ways in ways_in.items() if not ways]
    taken = 0
    while free:
        taken += 1
        for target in edges[free.pop()]:
            ways_in[target] -= 1
            if not ways_in[target]:
                free.append(target)
    return taken < len(edges)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- answers that point into several images ---------------------------------------------------------------------------

_COORDINATES: Final = frozenset({"bbox_2d", "point_2d"})
"""Keys of the coordinates in the schemas of tasks whose parser is ``regions``."""


def naming_prompt(count: int) -> str:
    """Return what to append to the prompt of a question about ``count`` images, or parts of images."""
    return f'There are {count} pictures, numbered from 1. Add "image": the number of its picture to each object.'


def naming_schema(schema: Mapping[str, Any], count: int) -> Mapping[str, Any]:
    """Return ``schema`` with a required property ``image``, 1 to ``count``, in every object with coordinates."""
    named: Mapping[str, Any] = _named(schema, count)
    return named


def _named(schema: Any, count: int) -> Any:
    if isinstance(schema, list):
        return [_named(item, count) for item in schema]
    if not isinstance(schema, dict):
        return schema
    named = {key: _named(value, count) for key, value in schema.items()}
    properties = named.get("properties")
    if isinstance(properties, dict) and _COORDINATES & properties.keys():
        number = {"type": "integer", "minimum": 1, "maximum": count}
        named["properties"] = properties | {"image": number}
        named["required"] = [*dict.fromkeys((*named.get("required", ()), "image"))]
    return named
