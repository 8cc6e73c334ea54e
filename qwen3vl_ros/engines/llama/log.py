"""Keeps llama.cpp's log out of the terminal; its last error lines for error messages, and its advice about images."""

from __future__ import annotations

import collections
import logging
import re
from typing import Any

import llama_cpp
from llama_cpp import mtmd_cpp

from qwen3vl_ros.engines.base import EngineError, EngineNotReady, ModelNotFound

_logger = logging.getLogger("llama.cpp")

_ERROR = 4  # GGML_LOG_LEVEL_ERROR of ggml.h; the comments in llama_cpp/_logger.py are out of date
# Lines that only repeat that loading failed; the line before them gives the reason.
_SUMMARIES = ("failed to load model", "Failed to load CLIP model")

# "load_hparams: Qwen-VL models require at minimum 1024 image tokens to function correctly on grounding tasks"
_ADVICE = re.compile(r"(Qwen-VL models require .* image tokens .*)")

_errors: collections.deque[str] = collections.deque(maxlen=8)
_advice: collections.deque[str] = collections.deque(maxlen=1)


def install() -> None:
    """Send the log of all of llama.cpp to the Python logger ``llama.cpp`` and forget earlier errors.

    llama.cpp has one log per process. Its errors become INFO and everything else DEBUG, because what matters
    reaches the user as an exception whose sentence quotes :func:`last_error`.
    """
    _errors.clear()
    _advice.clear()
    llama_cpp.llama_log_set(_receive, None)
    mtmd_cpp.mtmd_helper_log_set(_receive, None)  # sets mtmd's own log too


def last_error() -> str:
    """Return the latest error line of llama.cpp that gives a reason, "" without errors since :func:`install`."""
    for line in reversed(_errors):
        if not any(summary in line for summary in _SUMMARIES):
            return line
    return _errors[-1] if _errors else ""


def advice() -> str:
    """Return what llama.cpp said about the tokens of an image when it loaded the encoder, "" if it did not."""
    return _advice[-1] if _advice else ""


def loading_error(what: str, way_out: str) -> EngineError:
    """Return the exception for a failed call of llama.cpp that loads.

    Args:
        what: The file, such as "the model 'x.gguf'".
        way_out: A sentence for whoever has a file that cannot be used.
    """
    reason = last_error() or "it does not say why"
    if "alloc" in reason:  # as in all that ggml says about a lack of memory, which may pass
        return EngineNotReady(f"There is no memory for {what}: {reason}. End other programs, or set a smaller n_ctx.")
    return ModelNotFound(f"llama.cpp cannot load {what}: {reason}. {way_out}")


def _on_line(level: int, text: bytes, _user_data: Any) -> None:
    line = text.decode("utf-8", "replace").strip()
    if not line:
        return
    if found := _ADVICE.search(line):
        _advice.append(found[1])
    if level == _ERROR:
        _errors.append(line.splitlines()[0].rstrip(" .:"))  # hints for llama.cpp's own programs follow
    _logger.log(logging.INFO if level == _ERROR else logging.DEBUG, "%s", line)


# llama.cpp stores the pointer until the process ends, so this module must keep the callback alive.
_receive = llama_cpp.llama_log_callback(_on_line)
