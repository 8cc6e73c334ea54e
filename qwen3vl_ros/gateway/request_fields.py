"""Decides which unsupported fields of a request are refused, and which are accepted with a note.

A field that would change the answer and cannot be honoured is an error that names it. Any other unknown field is
accepted, and the answer's ``notes`` say that it has no effect. A field that asks for nothing (null, empty, or the
default behaviour) is ignored.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from qwen3vl_ros.engines.plain_text import NulError, input_json, input_text, short_path
from qwen3vl_ros.gateway.errors import ApiError

_ALIASES: Final = {
    "repeat_penalty": "repetition_penalty",  # llama.cpp, LM Studio
    "n_predict": "max_tokens",  # llama.cpp
    "num_predict": "max_tokens",  # Ollama
    "max_new_tokens": "max_tokens",  # transformers
    "random_seed": "seed",  # Mistral
    "stop_sequences": "stop",  # Anthropic
    "max_completion_tokens": "max_tokens",  # OpenAI
    "enable_thinking": "thinking",  # DashScope
    "thinking_budget": "max_reasoning_tokens",  # DashScope
    "thinking_token_budget": "max_reasoning_tokens",  # vLLM
    "thinking_budget_tokens": "max_reasoning_tokens",  # llama.cpp
    # Clients of the MaixCAM's service.
    "top-p": "top_p",
    "top-k": "top_k",
    "min-p": "min_p",
    "max-tokens": "max_tokens",
    "repetition-penalty": "repetition_penalty",
}
"""Other clients' names of fields."""

_UNSET: Final[Mapping[str, tuple[int, ...]]] = {
    "max_tokens": (-1, -2),  # llama.cpp, LM Studio: no limit
    "top_k": (-1,),  # vLLM: all
    "top_p": (1,),  # OpenAI's default, which many clients always send, to engines without the option, too
    "seed": (-1,),  # llama.cpp: a random one
    "max_reasoning_tokens": (-1,),  # llama.cpp: no limit
}
"""Values with which clients leave an option unset."""

_WHOLE: Final = ("max_tokens", "top_k", "seed", "max_reasoning_tokens")

_LEAVE_OUT: Final = "it would change the answer, and this server cannot honour it: leave it out"
_ONE_ANSWER: Final = "one answer is given to a request: send the request again for another one"
_NO_LOGPROBS: Final = "this server tells no probabilities of tokens: leave it out"
_USE_TOOLS: Final = "this server takes functions in tools, each as {type: function, function: {...}}: put them there"
_NO_CHOICE: Final = "this server cannot make a model call a tool: use auto or none"
_FORMAT: Final = "this server takes a JSON Schema for the answer in response_format (type json_schema): write it there"
_IMAGES: Final = "this server takes images in a message's content, as parts of the type image_url: put them there"
_SYSTEM: Final = "instructions are the content of a message with the role system: put them there"

_REFUSED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "n": ((1,), _ONE_ANSWER),
    "best_of": ((1,), _ONE_ANSWER),
    "logprobs": ((False,), _NO_LOGPROBS),
    "prompt_logprobs": ((), _NO_LOGPROBS),
    "n_probs": ((0,), _NO_LOGPROBS),
    "functions": ((), _USE_TOOLS),
    "tool_choice": (("none", "auto"), _NO_CHOICE),
    "function_call": (("none", "auto"), _USE_TOOLS),
    "web_search_options": ((), "this server searches nothing: leave it out"),
    "modalities": ((["text"],), "this server answers in text: leave it out"),
    "guided_json": ((), _FORMAT),
    "guided_regex": ((), _FORMAT),
    "guided_choice": ((), _FORMAT),
    "guided_grammar": ((), _FORMAT),
    "structured_outputs": ((), _FORMAT),
    "grammar": ((), _FORMAT),
    "json_schema": ((), _FORMAT),
    "regex": ((), _FORMAT),
    "ebnf": ((), _FORMAT),
    "images": ((), _IMAGES),
    "image": ((), _IMAGES),
    "format": ((), _FORMAT),
    "response_schema": ((), _FORMAT),
    "system": ((), _SYSTEM),
    "system_prompt": ((), _SYSTEM),
    "prompt": ((), "the question is the content of the last message: put it there"),
    "history": ((), "earlier turns are messages before the last one: put them there"),
    "documents": ((), "what the model is to read is the content of a message: put it there"),
    "cameras": ((), "the field for the names of cameras is camera: use that"),
    **dict.fromkeys(("logit_bias", "stop_token_ids", "bad_words", "allowed_token_ids"), ((), _LEAVE_OUT)),
    **dict.fromkeys(("logits_processors", "chat_template", "suffix"), ((), _LEAVE_OUT)),
    **dict.fromkeys(("ignore_eos", "use_beam_search", "continue_final_message", "echo"), ((False,), _LEAVE_OUT)),
    **dict.fromkeys(("include_stop_str_in_output", "truncate_prompt_tokens"), ((False,), _LEAVE_OUT)),
    **dict.fromkeys(("min_tokens", "min_length", "mirostat", "dynatemp_range", "top_a"), ((0,), _LEAVE_OUT)),
    **dict.fromkeys(("xtc_probability", "dry_multiplier"), ((0,), _LEAVE_OUT)),
    **dict.fromkeys(("length_penalty", "typical_p", "tfs_z"), ((1,), _LEAVE_OUT)),
    "top_n_sigma": ((-1, 0), _LEAVE_OUT),
    **dict.fromkeys(("add_generation_prompt", "skip_special_tokens"), ((True,), _LEAVE_OUT)),
}
"""Fields that would change the answer: their neutral values, besides null and empty, and the advice for others."""

_REFUSED_OF_A_MESSAGE: Final[Mapping[str, str]] = {
    "function_call": "this server takes calls in tool_calls: put them there",
    "images": _IMAGES,
}

DETAILS: Final = ("low", "auto", "high")
"""Values of an image's ``detail`` that have an effect, the lowest first."""

_MOST_NOTES: Final = 20

_LONGEST_VALUE: Final = 20
"""Values in a form longer than this are not parsed as JSON: neutral ones, such as ``false``, are shorter."""


def plain_text(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a body with every string cleaned for a model.

    Raises:
        ApiError: 400 for a string that contains a NUL, with its path.
        RecursionError: A value is nested too deeply.
    """
    try:
        plain = {input_text("a name in the body", name): value for name, value in values.items()}
        return {name: input_json(short_path(name), value) for name, value in plain.items()}
    except NulError as error:
        raise ApiError(400, "invalid_value", str(error), param=error.path) from None


def normalized(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the fields that ask for something by this package's names, and the client's name of each.

    Raises:
        ApiError: 400 for a field given twice with different values, and for one that cannot be honoured.
    """
    found: dict[str, Any] = {}
    written: dict[str, str] = {}
    for name, value in values.items():
        if value is None or value == {}:
            continue
        own = _ALIASES.get(name, name)
        if own in _WHOLE and isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, bool) and _plain(value) in _UNSET.get(own, ()):
            continue
        if own in found and found[own] != value:
            raise ApiError(
                400,
                "invalid_value",
                f"{name}: it is there twice: {written[own]} and {name} mean the same, and say different things; give "
                "one of them",
                param=name,
            )
        if own in _REFUSED and _asks(value, _REFUSED[own][0]):
            raise ApiError(400, "unsupported_parameter", f"{name}: {_REFUSED[own][1]}", param=name)
        found[own], written[own] = value, name
    for number, message in enumerate(_dicts(found.get("messages"))):
        for name, sentence in _REFUSED_OF_A_MESSAGE.items():
            if _asks(message.get(name)):
                path = f"messages.{number}.{name}"
                raise ApiError(400, "unsupported_parameter", f"{path}: {sentence}", param=path)
    return found, written


def notes_on(values: Mapping[str, Any], known: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Return a note for each field without effect that the client set.

    Args:
        values: A request as :func:`normalized` returns it.
        known: Names of the fields that have an effect, by the path of their object.
    """
    unknown = [
        f"{path}.{name}".lstrip(".")
        for path, name, value in _fields(values)
        if name not in known[path] and _asks(value, (False,)) and (path or name not in _REFUSED)
    ]
    notes = [f"{short_path(field)}: without effect" for field in dict.fromkeys(unknown)]
    more = len(notes) - _MOST_NOTES
    return (*notes[:_MOST_NOTES], *([f"{more} more fields: without effect"] if more > 0 else []))


def _fields(values: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (path of the object without indices, name, value) of every field in objects that may have unknown ones."""
    objects: list[tuple[str, Any]] = [("", values)]
    objects += [(name, values.get(name)) for name in ("stream_options", "chat_template_kwargs")]
    for message in _dicts(values.get("messages")):
        objects.append(("messages[]", message))
        for part in _dicts(message.get("content")):
            objects.append(("messages[].content[]", part))
            objects += [(f"messages[].content[].{url}", part.get(url)) for url in ("image_url", "video_url")]
    for path, fields in objects:
        for name, value in fields.items() if isinstance(fields, dict) else ():
            if name != "detail" or value not in DETAILS:
                yield path, name, value


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value if isinstance(value, dict) else {} for value in values] if isinstance(values, list) else []


def _asks(value: Any, neutral: tuple[Any, ...] = ()) -> bool:
    """Return whether a value asks for anything; ``neutral`` ones do not."""
    value = _plain(value)
    return value not in (None, "", [], {}) and value not in neutral


def _plain(value: Any) -> Any:
    """Return the value; for text, which a form has, the JSON value in it."""
    if isinstance(value, str) and len(value) < _LONGEST_VALUE:
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value
