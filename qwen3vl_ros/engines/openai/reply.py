"""What servers with OpenAI's chat completions send back, taken apart: pieces of an answer, counts, complaints."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens by the server's own count. ``image`` and ``cached`` are 0 where it does not tell."""

    prompt: int
    completion: int
    image: int
    cached: int


@dataclass(frozen=True, slots=True)
class TokenChances:
    """A token of the answer, and the likeliest tokens at its place: (text, probability)."""

    text: str
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event adds to the answer. ``finish``: the server's finish reason, once there is one.

    ``tokens``: what ``text`` or ``reasoning`` is made of, where the server tells probabilities.
    """

    text: str = ""
    reasoning: str = ""
    finish: str = ""
    counts: Counts | None = None
    tokens: tuple[TokenChances, ...] = ()

    @property
    def has_token(self) -> bool:
        """Whether the model said anything: servers also send events to keep a connection alive."""
        return bool(self.text or self.reasoning)


@dataclass(frozen=True, slots=True)
class Complaint:
    """An error in the server's words. ``status``: an HTTP status it names, else 0."""

    message: str
    status: int = 0
    code: str = ""
    kind: str = ""
    param: str = ""

    @property
    def context_exceeded(self) -> bool:
        """Whether the prompt does not fit."""
        return "context_length_exceeded" in (self.code, self.kind) or self.kind == "exceed_context_size_error"


def read_delta(value: Any) -> Delta:
    """From the JSON of an event, or of a whole completion. What is not understood is left out."""
    value = _dict(value)
    choices = value.get("choices")
    choice = _dict(choices[0]) if isinstance(choices, list) and choices else {}
    said = _dict(choice.get("delta") or choice.get("message"))
    return Delta(
        # A model of OpenAI's that refuses says so in a field of its own.
        text=_text(said.get("content")) or _text(said.get("refusal")),
        # vLLM and Ollama say `reasoning`, llama.cpp, SGLang and older vLLM `reasoning_content`; some say both.
        reasoning=_text(said.get("reasoning_content")) or _text(said.get("reasoning")),
        finish=_text(choice.get("finish_reason")),
        counts=_counts(value.get("usage")),
        tokens=_tokens(choice.get("logprobs")),
    )


def read_complaint(value: Any) -> Complaint | None:
    """The error in a JSON, in any of the forms in use; None when there is none."""
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
        # A token that is not among the likeliest comes with its own probability (OpenAI's documentation).
        listed = {_text(other.get("token")): other for other in (entry, *others)}
        chances = ((text, _probability(other.get("logprob"))) for text, other in listed.items())
        tokens.append(TokenChances(_text(entry.get("token")), tuple(chances)))
    return tuple(tokens)


def _probability(logprob: Any) -> float:
    """0 for what is no logarithm of a probability."""
    # Of less than e^-1000, a float is 0; an integer of thousands of digits is no float.
    return math.exp(max(logprob, -1000.0)) if isinstance(logprob, (int, float)) and logprob <= 0 else 0.0


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
