r"""Brings text from any source to what a ROS string can carry: Unicode without NULs and lone surrogates.

ROS strings are C strings in UTF-8: a NUL ends them, and half a surrogate pair cannot be encoded. Both reach Python from
JSON (``"\u0000"``, ``"\ud83d"``), from command lines that are not UTF-8, and from models.
"""

from __future__ import annotations

from typing import Any

REPLACEMENT = "\ufffd"
"""U+FFFD, which replaces what cannot be shown."""

_LONGEST_PATH = 200
"""Characters of a path in a message."""


class NulError(ValueError):
    """A caller's text contains a NUL, behind which everything would be lost silently. ``path``: of the text."""

    def __init__(self, path: str, index: int) -> None:
        super().__init__(f"{path}: it holds a NUL character (U+0000, at index {index}): remove it")
        self.path = path


def input_text(path: str, text: str) -> str:
    """Return a caller's ``text`` in the field at ``path`` with lone surrogates replaced by U+FFFD.

    Raises:
        NulError: It contains a NUL.
    """
    if "\0" in text:
        raise NulError(path, text.index("\0"))
    return _without_surrogates(text)


def output_text(text: str) -> str:
    """Return the ``text`` of a model, server or error with NULs and lone surrogates replaced by U+FFFD."""
    return _without_surrogates(text.replace("\0", REPLACEMENT))


def input_json(path: str, value: Any) -> Any:
    """Return parsed JSON with every string in it, keys included, as :func:`input_text` returns it.

    Args:
        path: Of the value in the caller's input, such as ``slots``.
        value: The value.

    Raises:
        NulError: A string contains a NUL; the path is that of the string, such as ``slots.labels.0``.
        RecursionError: The value is nested too deeply.
    """
    if isinstance(value, str):
        return input_text(path, value)
    if isinstance(value, list):
        return [input_json(short_path(f"{path}.{number}"), item) for number, item in enumerate(value)]
    if isinstance(value, dict):
        plain = {input_text(f"a name in {path}", key): item for key, item in value.items()}
        return {key: input_json(short_path(f"{path}.{key}"), item) for key, item in plain.items()}
    return value


def short_path(path: str) -> str:
    """Return a path for a message; a long one, whose names may be a caller's, is truncated."""
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."


def _without_surrogates(text: str) -> str:
    """Join the halves of surrogate pairs, and replace those that are alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
