r"""What text is, wherever it comes from: Unicode that UTF-8 and a C string can carry.

ROS strings are C strings in UTF-8: a NUL ends them, and half a surrogate pair cannot be encoded. Both reach Python from
JSON (``"\u0000"``, ``"\ud83d"``), from command lines that are not UTF-8, and from models.
"""

from __future__ import annotations

from typing import Any

REPLACEMENT = "\ufffd"
"""U+FFFD, which stands for what cannot be shown."""

_LONGEST_PATH = 200
"""Characters of a path in a message."""


class NulError(ValueError):
    """A caller's text holds a NUL: everything behind it would be lost without a word. ``path``: of the text."""

    def __init__(self, path: str, index: int) -> None:
        super().__init__(f"{path}: it holds a NUL character (U+0000, at index {index}): remove it")
        self.path = path


def input_text(path: str, text: str) -> str:
    """Return ``text``, what a caller wrote in the field at ``path``, with lone surrogates replaced by U+FFFD.

    Raises:
        NulError: It holds a NUL.
    """
    if "\0" in text:
        raise NulError(path, text.index("\0"))
    return _without_surrogates(text)


def output_text(text: str) -> str:
    """Return ``text``, what a model, a server or an error wrote, with NULs and lone surrogates replaced by U+FFFD."""
    return _without_surrogates(text.replace("\0", REPLACEMENT))


def input_json(path: str, value: Any) -> Any:
    """Return parsed JSON with every string in it, keys included, as :func:`input_text` returns it.

    Args:
        path: Of the value in what the caller wrote, such as ``slots``.
        value: The value.

    Raises:
        NulError: A string holds a NUL; its path is that of the string, such as ``slots.labels.0``.
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
    """Return a path, whose names may be a caller's, as messages show it: the beginning of a long one."""
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}..."


def _without_surrogates(text: str) -> str:
    """Join the halves of surrogate pairs, and replace those that are alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
