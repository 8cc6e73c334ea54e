"""How servers are told whether to reason and for how long, and whether they did as told.

OpenAI's interface has no field for it that these servers take, and one that they do not know most ignore without a
word. So it is sent only to servers known to have it, which their list of models tells (``owned_by``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qwen3vl_ros.engines.base import Request, Unsupported
from qwen3vl_ros.engines.thinking import TEMPLATE_VARIABLE

SWITCH_FIELD: Final = "chat_template_kwargs"
"""The field with variables of the chat template."""

_SWITCH_OWNERS: Final = frozenset({"vllm", "sglang", "llamacpp"})

BUDGET_FIELDS: Final[Mapping[str, str]] = {
    "vllm": "thinking_token_budget",  # 400 from a server without --reasoning-parser and --reasoning-config
    "llamacpp": "thinking_budget_tokens",  # server-common.cpp
}
"""``owned_by`` -> the field with the limit of the reasoning, in tokens."""

_SLACK: Final = 64
"""Tokens of reasoning above the limit that are no breach of it: a server may write a sentence to close it."""


def never_thinks(model: str) -> bool:
    """Return whether the model's name says that it answers at once, as those of Qwen's Instruct models do."""
    return "instruct" in model.lower()


def always_thinks(model: str) -> bool:
    """Return whether the model's name says that it always thinks, as those of Qwen's Thinking models do."""
    return "thinking" in model.lower() and not never_thinks(model)


def abilities(owner: str, model: str) -> frozenset[str]:
    """Return the abilities of a server's model that concern reasoning.

    Args:
        owner: ``owned_by`` in the server's list of models.
        model: The name; where it does not say what the model can, it may be asked for either.
    """
    if never_thinks(model):
        return frozenset({"thinking_off", "reasoning_budget"})
    able = {"thinking", "thinking_off"} if owner in _SWITCH_OWNERS else set()
    if always_thinks(model):
        able = {"thinking"}
    return frozenset(able | ({"reasoning_budget"} if owner in BUDGET_FIELDS else set()))


@dataclass(frozen=True, slots=True)
class ThinkingOrder:
    """What a request says about reasoning; the fields are those of :class:`~qwen3vl_ros.engines.base.Request`."""

    thinking: bool | None
    max_reasoning_tokens: int | None

    @classmethod
    def of(cls, request: Request) -> ThinkingOrder:
        """Return the order of ``request``."""
        return cls(request.thinking, request.max_reasoning_tokens)

    @property
    def names(self) -> list[str]:
        """Return the names of the fields that are set."""
        return [name for name in ("thinking", "max_reasoning_tokens") if getattr(self, name) is not None]

    def fields(self, owner: str, model: str, url: str) -> dict[str, Any]:
        """Return the JSON fields for one server; none for what its model does anyway.

        Args:
            owner: ``owned_by`` in its list of models.
            model: The model that is asked for.
            url: Its address, for the error.

        Raises:
            Unsupported: It is none of those that are known to have the field.
        """
        fields: dict[str, Any] = {}
        if self.thinking is not None and not (always_thinks if self.thinking else never_thinks)(model):
            if owner not in _SWITCH_OWNERS:
                raise Unsupported(f"thinking: {url} is not known to honour it, as vLLM, SGLang and llama-server are.")
            fields[SWITCH_FIELD] = {TEMPLATE_VARIABLE: self.thinking}
        if self.max_reasoning_tokens is not None and not never_thinks(model):
            if owner not in BUDGET_FIELDS:
                raise Unsupported(
                    f"max_reasoning_tokens: {url} is not known to honour it, as vLLM and llama-server are."
                )
            # llama-server takes 0 for no limit where the prompt has opened the reasoning (2026.10, run).
            least = 1 if owner == "llamacpp" else 0
            fields[BUDGET_FIELDS[owner]] = max(self.max_reasoning_tokens, least)
        return fields

    def check_reasoning(self, n_tokens: int, url: str) -> None:
        """Check the reasoning that has come.

        Args:
            n_tokens: The tokens in it, at least.
            url: The server's address.

        Raises:
            Unsupported: There should be none, or less.
        """
        if self.thinking is False and n_tokens:
            raise Unsupported(
                f"thinking: {url} reasons all the same: its model always does; leave it unset or on, or serve an "
                "Instruct model."
            )
        if self.max_reasoning_tokens is not None and n_tokens > self.max_reasoning_tokens + _SLACK:
            raise Unsupported(
                f"max_reasoning_tokens: {url} goes on reasoning after {self.max_reasoning_tokens} tokens: it is too "
                "old a version, or was started with a limit of its own; leave it unset."
            )

    def check_answer(self, reasoned: bool, url: str) -> None:
        """Check a complete answer; raises :class:`Unsupported` if there is no reasoning where it was asked for."""
        if self.thinking and not reasoned:
            raise Unsupported(
                f"thinking: {url} answered without any reasoning: its model cannot think, or the server needs a parser "
                "of reasoning (vLLM: --reasoning-parser qwen3); leave it unset or off."
            )
