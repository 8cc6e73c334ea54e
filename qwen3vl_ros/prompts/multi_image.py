"""Prompt and schema for answers that point into several images: each object must name its image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

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
