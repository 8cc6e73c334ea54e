"""Finds engines by name in an entry-point group that third parties can add to."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from qwen3vl_ros.engines.base import Engine, ModelNotFound

GROUP = "qwen3vl_ros.engines"

_PACKAGES = {
    "llama_cpp": "llama-cpp-python==0.3.36",
    "openvino": "openvino-genai==2026.4.1.0",
    "openvino_genai": "openvino-genai==2026.4.1.0",
    "httpx": "httpx",
}
"""What to install for a missing module of an engine in this package."""


def available() -> dict[str, EntryPoint]:
    """Return every installed engine by name, without importing any."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def load(name: str) -> Callable[..., Engine]:
    """Import the engine called ``name`` and return its class or factory, which takes its keyword configuration.

    Raises:
        ModelNotFound: There is no such engine, or its library is not installed.
    """
    found = available()
    if name not in found:
        raise ModelNotFound(f"there is no engine {name!r}; installed are: {', '.join(sorted(found)) or 'none'}")
    try:
        return cast("Callable[..., Engine]", found[name].load())
    except ImportError as error:
        raise ModelNotFound(
            f"engine {name!r} needs a library that is not installed ({error})"
            + (f": {sys.executable} -m pip install {_PACKAGES[error.name]}" if error.name in _PACKAGES else "")
        ) from error
    except AttributeError as error:
        raise ModelNotFound(f"engine {name!r} is {found[name].value!r}, which does not exist: {error}") from error
