"""What a chat request says about thinking, in the words of several servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from qwen3vl_ros.gateway.errors import ApiError

if TYPE_CHECKING:
    from qwen3vl_ros.gateway.chat_request import ChatRequest

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high"]

BUDGETS: Final[dict[Effort, int]] = {"minimal": 64, "low": 256, "medium": 1024, "high": 4096}
"""OpenAI's ``reasoning_effort`` -> tokens that the model may reason for; ``none``: it does not."""


def thinking_of(request: ChatRequest) -> tuple[bool | None, int]:
    """Return whether the model is to think, None = as it does by itself, and for how many tokens, 0 = not said.

    Raises:
        ApiError: 400 for fields that contradict each other.
    """
    effort = request.reasoning_effort
    said = {
        "thinking": request.thinking,
        "chat_template_kwargs.enable_thinking": request.chat_template_kwargs.enable_thinking,
        "reasoning_effort": None if effort is None else effort != "none",
    }
    said = {name: value for name, value in said.items() if value is not None}
    if len(set(said.values())) > 1:
        *others, last = said
        raise ApiError(
            400,
            "invalid_value",
            f"{last}: it says otherwise than {' and '.join(others)} whether the model is to think; give one of them",
            param=last,
        )
    thinking = next(iter(said.values()), None)
    budget = request.max_reasoning_tokens or (BUDGETS.get(effort, 0) if effort else 0)
    return thinking, 0 if thinking is False else budget
