"""What a goal and the node's defaults say about thinking, for the engine that answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict

from qwen3vl_ros.engines.base import Description, Options
from qwen3vl_ros.engines.thinking import check_thinking
from qwen3vl_ros.prompts.request import AskRequest, supported_options


class Thinking(TypedDict):
    """Fields of :class:`~qwen3vl_ros.engines.base.Request`."""

    thinking: bool | None
    max_reasoning_tokens: int | None


def check_asked_thinking(request: AskRequest, description: Description) -> None:
    """Raise :class:`Unsupported`, which names the field, if the engine cannot honour what the goal itself asks for."""
    asked = request.asked
    check_thinking(
        request.thinking if "thinking" in asked else None,
        request.max_reasoning_tokens if "max_reasoning_tokens" in asked else None,
        description,
    )


def supported_thinking(request: AskRequest, description: Description) -> Thinking:
    """Return what to ask of the engine: without those defaults of the node that it does not support."""
    able = description.supports
    is_able = request.thinking is None or ("thinking" if request.thinking else "thinking_off") in able
    return Thinking(
        thinking=request.thinking if is_able else None,
        max_reasoning_tokens=request.max_reasoning_tokens if "reasoning_budget" in able else None,
    )


def options_with_room(request: AskRequest, description: Description) -> Options:
    """Return the options that the engine supports; a default of ``max_tokens`` grows by the limit of the reasoning.

    Else the reasoning that the limit allows would leave no token for the answer.
    """
    options = supported_options(request, description)
    thinking = supported_thinking(request, description)
    room = thinking["max_reasoning_tokens"] or 0
    if options.max_tokens is None or "max_tokens" in request.asked or "thinking" not in description.supports:
        return options
    return options if thinking["thinking"] is False else replace(options, max_tokens=options.max_tokens + room)
