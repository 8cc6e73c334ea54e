"""Turns a validation error of a request into a sentence with the field's name as the client wrote it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from qwen3vl_ros.engines.plain_text import short_path
from qwen3vl_ros.gateway.errors import ApiError

_KINDS: Final = {
    "string": "a string",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "an object",
    "model": "an object",
    "model_attributes": "an object",
}
"""Prefixes of pydantic's error types, and what was expected."""

_LIMITS: Final = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "greater than or equal to"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "less than or equal to"),
}


def of_validation(error: ValidationError, values: Any, written: Mapping[str, str]) -> ApiError:
    """Return the error 400 that names the first wrong field and what was expected.

    Args:
        error: pydantic's error.
        values: The validated values.
        written: The client's names of the fields by this package's names.
    """
    found = [(_path(each, values), each) for each in error.errors(include_url=False, include_input=False)]
    steps = max((path for path, _ in found), key=len)  # of several alternatives, the best match
    here = [each for path, each in found if path == steps]
    if here[0]["type"].startswith("union_tag"):
        steps = (*steps, here[0]["ctx"]["discriminator"].strip("'"))
    path = short_path(".".join([written.get(step, step) for step in steps[:1]] + list(steps[1:])))
    message = sentence(here)
    return ApiError(400, "invalid_value", f"{path}: {message}" if path else message, param=path or None)


def _path(error: ErrorDetails, values: Any) -> tuple[str, ...]:
    """Return the path of an error as the client wrote it, without the names of alternatives in pydantic's path."""
    path: list[str] = []
    steps = error["loc"]
    tagged = False
    for number, step in enumerate(steps):
        if isinstance(values, dict):
            # The alternative that the type of a part or format chose; a tool's type, "function", is a field, too.
            if tagged and values.get("type") == step != "function":
                tagged = False
                continue
            inside = step in values
        else:
            inside = isinstance(step, int) and isinstance(values, list) and step < len(values)
        if inside:
            values, tagged = values[step], True
        if inside or (number == len(steps) - 1 and error["type"] == "missing"):
            path.append(str(step))
    return tuple(path)


def sentence(errors: Sequence[ErrorDetails]) -> str:
    """Return what a value was expected to be, given pydantic's ``errors``, one for each alternative."""
    first = errors[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "missing":
        return "it is required"
    if kind == "union_tag_not_found":
        return "it is required: it says what this is"
    if kind == "union_tag_invalid":
        return f"{context['tag'][:60]!r} is not taken here; it has to be {_either(context['expected_tags'])}"
    if kind == "literal_error":
        return f"it has to be {_either(context['expected'])}"
    if kind == "extra_forbidden":
        return "there is no such argument"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return f"it has to be {words} {context[name]:g}"
    if kind == "too_short":
        return f"it needs at least {context['min_length']} of them"
    kinds = [
        each["ctx"]["expected"] if each["type"] == "literal_error" else _KINDS.get(each["type"].rpartition("_")[0], "")
        for each in errors
    ]
    if all(kinds):
        return f"it has to be {' or '.join(dict.fromkeys(kinds))}"
    return first["msg"].removeprefix("Value error, ")


def _either(expected: str) -> str:
    """Return ``'a', 'b', 'c'`` as ``'a', 'b' or 'c'``."""
    *some, last = expected.replace(" or ", ", ").split(", ")
    return f"{', '.join(some)} or {last}" if some else last
