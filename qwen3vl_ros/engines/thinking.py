"""Reasoning before the answer: what a chat template can do about it, and the refusal of what a model cannot do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from qwen3vl_ros.engines.base import BadRequest, Description, Unsupported

TEMPLATE_VARIABLE: Final = "enable_thinking"
"""The variable by which Qwen's chat templates switch the reasoning on (true) and off (false)."""

CLOSING: Final = "\n</think>\n\n"
"""What Qwen's chat templates write between the reasoning of a turn and its answer."""

_OPENING: Final = "<think>\n"


def opens_reasoning(rendered: str) -> bool:
    """Return whether the prompt ends with ``<think>``, as those of Thinking models do."""
    return rendered.rstrip().endswith("<think>")


class ThinkingTemplate:
    """What a chat template makes of :data:`TEMPLATE_VARIABLE`.

    Qwen3-VL-Thinking's opens the reasoning whatever the variable says, Qwen3-VL-Instruct's never does. Qwen3.5's opens
    it or writes an empty one; Qwen3's leaves it to the model to open it, or writes an empty one.

    ``by_default``: whether the prompt opens the reasoning where a request does not say. ``can_think``, ``can_answer``:
    whether a request can have it, and can be without.
    """

    def __init__(self, render: Callable[[bool | None], str]) -> None:
        """Try the template out.

        Args:
            render: Returns the prompt of a question with this value of the variable, None = undefined.
        """
        on, off = render(True), render(False)
        switches = on != off
        self.by_default = opens_reasoning(render(None))
        self.can_think = opens_reasoning(on) or switches
        self.can_answer = not opens_reasoning(off)

    @property
    def abilities(self) -> frozenset[str]:
        """Return the abilities, out of :data:`~qwen3vl_ros.engines.base.ABILITIES`, that the template decides."""
        able = {"thinking": self.can_think, "thinking_off": self.can_answer}
        return frozenset(name for name, is_able in able.items() if is_able)

    @property
    def detail(self) -> str:
        """Return what ``Description.details`` says under ``reasoning``."""
        choice = ", unless a question says otherwise" if self.can_think and self.can_answer else ""
        return ("yes" if self.by_default else "no") + choice


def opening(rendered: str, thinking: bool | None) -> str:
    """Return what to write after a prompt whose reasoning is wanted and that leaves it to the model to open it."""
    return _OPENING if thinking and not opens_reasoning(rendered) else ""


class ReasoningLimit:
    """Counts the tokens of an answer's reasoning. ``reached``: there are as many as allowed, and it is still open."""

    def __init__(self, limit: int | None, reasoning: bool) -> None:
        """Begin to count.

        Args:
            limit: Tokens that the reasoning may have, None = any number.
            reasoning: Whether the prompt has opened it.
        """
        self._left = limit
        self.reached = False
        self._check(reasoning)

    def count(self, before: bool, after: bool) -> None:
        """Count a token.

        Args:
            before: Whether the reasoning was open before it.
            after: Whether it is open after it.
        """
        if self._left is not None and before and after:
            self._left -= 1
        self._check(after)

    def _check(self, reasoning: bool) -> None:
        self.reached = self.reached or (reasoning and self._left is not None and self._left <= 0)


def check_thinking(thinking: bool | None, max_reasoning_tokens: int | None, description: Description) -> None:
    """Check what a request says about reasoning.

    Args:
        thinking: As in :class:`~qwen3vl_ros.engines.base.Request`.
        max_reasoning_tokens: As there.
        description: Of the engine that is asked.

    Raises:
        Unsupported: The engine, or its model, cannot do it.
        BadRequest: The limit is negative.
    """
    able, who = description.supports, f"engine {description.engine!r}"
    if thinking is True and "thinking" not in able:
        if "thinking_off" in able:
            raise Unsupported(
                f"thinking: the model {description.model} cannot think before it answers; leave it unset or off, or "
                "load a Thinking model (qwen3vl-ros model list --all)"
            )
        raise Unsupported(f"thinking: {who} cannot honour it; leave it unset")
    if thinking is False and "thinking_off" not in able:
        if "thinking" in able:
            raise Unsupported(
                f"thinking: the model {description.model} always thinks before it answers; leave it unset or on, limit "
                "it with max_reasoning_tokens, or load an Instruct model (qwen3vl-ros model list)"
            )
        raise Unsupported(f"thinking: {who} cannot honour it; leave it unset")
    if max_reasoning_tokens is None:
        return
    if max_reasoning_tokens < 0:
        raise BadRequest(
            f"max_reasoning_tokens: a number of tokens is not negative, and this is {max_reasoning_tokens}"
        )
    if "reasoning_budget" not in able:
        raise Unsupported(f"max_reasoning_tokens: {who} cannot honour it; leave it unset")
