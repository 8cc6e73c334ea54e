"""Parses what servers with OpenAI's chat completions send: pieces of an answer, token counts, errors."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from qwen3vl_ros.engines.token_probabilities import Token


@dataclass(frozen=True, slots=True)
class Counts:
    """Token counts that the server reports. ``image`` and ``cached`` are 0 where it reports none."""

    prompt: int
    completion: int
    image: int
    cached: int


@dataclass(frozen=True, slots=True)
class TokenChances:
    """A token of the answer and the top tokens at its position, as (text, probability).

    ``token``: the same with the tokens' bytes, which a text lacks where a token is a part of a character.
    """

    text: str
    likeliest: tuple[tuple[str, float], ...]
    token: Token | None = None


@dataclass(frozen=True, slots=True)
class Delta:
    """The content of one event. ``finish``: the server's finish reason, "" before the end.

    ``tool``: the name of a tool that the model calls in place of an answer. ``tokens``: the tokens of ``text`` or
    ``reasoning``, where the server reports probabilities.
    """

    text: str = ""
    reasoning: str = ""
    tool: str = ""
    finish: str = ""
    counts: Counts | None = None
    tokens: tuple[TokenChances, ...] = ()

    @property
    def has_token(self) -> bool:
        """Whether the event has output of the model: servers also send events to keep a connection alive."""
        return bool(self.text or self.reasoning or self.tool)


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error in the server's words. ``status``: the HTTP status that it names, else 0."""

    message: str
    status: int = 0
    code: str = ""
    kind: str = ""
    param: str = ""

    @property
    def context_exceeded(self) -> bool:
        """Whether the server says that the prompt exceeds the context."""
        return "context_length_exceeded" in (self.code, self.kind) or self.kind == "exceed_context_size_error"


def read_delta(value: Any) -> Delta:
    """Parse the JSON of an event or of a whole completion; unknown content is ignored."""
    value = _dict(value)
    choices = value.get("choices")
    choice = _dict(choices[0]) if isinstance(choices, list) and choices else {}
    said = _dict(choice.get("delta") or choice.get("message"))
    text, thoughts = _content(said.get("content"))
    return Delta(
        # OpenAI's models put a refusal into a field of its own.
        text=text or _text(said.get("refusal")),
        # vLLM and Ollama send `reasoning`, llama.cpp, SGLang and older vLLM `reasoning_content`; some send both.
        reasoning=_text(said.get("reasoning_content")) or _text(said.get("reasoning")) or thoughts,
        tool=_tool(said),
        finish=_text(choice.get("finish_reason")),
        counts=_counts(value.get("usage")),
        tokens=_tokens(choice.get("logprobs")),
    )


def read_complaint(value: Any) -> Complaint | None:
    """Return the error in a JSON value, in any of the forms that servers use; None if it has none."""
    value = _dict(value)
    error = value.get("error")
    if value.get("object") == "error":  # vLLM before 0.10
        error = value
    elif not error and "choices" not in value and "detail" in value:  # FastAPI
        error = value["detail"]
    if not error:
        return None
    if not isinstance(error, dict):
        return Complaint(error if isinstance(error, str) else json.dumps(error))
    code = error.get("code")
    nested = error.get("message")
    return Complaint(
        message=nested if isinstance(nested, str) else json.dumps(error),
        status=code if isinstance(code, int) and 400 <= code < 600 else 0,
        code=_text(code),
        kind=_text(error.get("type")),
        param=_text(error.get("param")),
    )


def _content(content: Any) -> tuple[str, str]:
    """Return the (text, reasoning) of a message's content: text, or a list of parts, as Mistral sends it."""
    if not isinstance(content, list):
        return _text(content), ""
    parts = list(map(_dict, content))
    thoughts = [_content(part.get("thinking")) for part in parts if part.get("type") == "thinking"]
    return "".join(_text(part.get("text")) for part in parts), "".join(text for text, _ in thoughts)


def _tool(said: dict[str, Any]) -> str:
    """Return the name of the tool that a message calls, "?" for a call without one, "" without a call."""
    calls = said.get("tool_calls")
    call = _dict(calls[0]).get("function") or {} if isinstance(calls, list) and calls else said.get("function_call")
    return "" if call is None else _text(_dict(call).get("name")) or "?"


def _counts(usage: Any) -> Counts | None:
    usage = _dict(usage)
    prompt, completion = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    if not prompt and not completion:
        return None
    details = _dict(usage.get("prompt_tokens_details"))
    return Counts(prompt, completion, _count(details.get("image_tokens")), _count(details.get("cached_tokens")))


def _tokens(logprobs: Any) -> tuple[TokenChances, ...]:
    content = _dict(logprobs).get("content")
    tokens = []
    for entry in map(_dict, content if isinstance(content, list) else ()):
        others = entry.get("top_logprobs")
        others = list(map(_dict, others)) if isinstance(others, list) else []
        # A token outside the top tokens has its own entry (OpenAI's documentation).
        listed = {_text(other.get("token")): other for other in (entry, *others)}
        chances = ((text, _probability(other.get("logprob"))) for text, other in listed.items())
        own = _bytes(entry)
        alternatives = {_bytes(other): _probability(other.get("logprob")) for other in others}
        alternatives.pop(own, None)
        token = Token(own, _probability(entry.get("logprob")), tuple(alternatives.items()))
        tokens.append(TokenChances(_text(entry.get("token")), tuple(chances), token if others else None))
    return tuple(tokens)


def _bytes(entry: dict[str, Any]) -> bytes:
    """Return the bytes of a token; servers that do not send them are taken by their text."""
    values = entry.get("bytes")
    if isinstance(values, list) and all(type(value) is int and 0 <= value < 256 for value in values):
        return bytes(values)
    return _text(entry.get("token")).encode("utf-8", "replace")


def _probability(logprob: Any) -> float:
    """Return e^``logprob``, 0 if ``logprob`` is not the logarithm of a probability."""
    # Below e^-1000 a float is 0 anyway, and an integer of thousands of digits does not convert to float.
    return math.exp(max(logprob, -1000.0)) if isinstance(logprob, (int, float)) and logprob <= 0 else 0.0


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
