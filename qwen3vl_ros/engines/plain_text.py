r"""What text is, wherever it comes from: Unicode that UTF-8 and a C string can carry.

ROS strings are C strings in UTF-8: a NUL ends them, and half a surrogate pair cannot be encoded. Both reach Python from
JSON (``"\u0000"``, ``"\ud83d"``), from command lines that are not UTF-8, and from models.
"""

from __future__ import annotations

from typing import Any

REPLACEMENT = "\ufffd"
"""U+FFFD, which stands for what cannot be shown."""


def input_text(name: str, text: str) -> str:
    """Return ``text``, what a caller wrote in the field ``name``, with lone surrogates replaced by U+FFFD.

    Raises:
        ValueError: it holds a NUL. Everything behind that would be lost without a word.
    """
    if "\0" in text:
        raise ValueError(f"{name}: it holds a NUL character (U+0000, at index {text.index(chr(0))}): remove it")
    return _without_surrogates(text)


def output_text(text: str) -> str:
    """Return ``text``, what a model, a server or an error wrote, with NULs and lone surrogates replaced by U+FFFD."""
    return _without_surrogates(text.replace("\0", REPLACEMENT))


def input_json(name: str, value: Any) -> Any:
    """Return parsed JSON with every string in it, keys included, as :func:`input_text` returns it.

    Raises:
        ValueError: a string holds a NUL.
        RecursionError: the value is nested too deeply.
    """
    if isinstance(value, str):
        return input_text(name, value)
    if isinstance(value, list):
        return [input_json(name, item) for item in value]
    if isinstance(value, dict):
        return {input_text(name, key): input_json(name, item) for key, item in value.items()}
    return value


def _without_surrogates(text: str) -> str:
    """Join the halves of surrogate pairs, and replace those that are alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
