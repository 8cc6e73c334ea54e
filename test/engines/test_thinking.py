"""Thinking, apart from any engine: what counts as reasoning, and what is refused."""

from __future__ import annotations

from qwen3vl_ros.engines.thinking import ReasoningLimit


def reached_after(limit: int | None, prompt_opens: bool, *open_after: bool) -> int | None:
    """The number of tokens after which the limit is reached; ``open_after``: whether the reasoning is open then."""
    counter, before = ReasoningLimit(limit, prompt_opens), prompt_opens
    for number, after in enumerate((prompt_opens, *open_after)):
        if number:
            counter.count(before, after)
        if counter.reached:
            return number
        before = after
    return None


def test_limit_counts_the_tokens_of_open_reasoning_alone() -> None:
    assert reached_after(0, True) == 0
    assert reached_after(2, True, True, True, True) == 2
    assert reached_after(2, False, False, True, True, True, True) == 4  # "<think>" itself is none
    assert reached_after(0, False, False, True, True) == 2
    assert reached_after(2, True, True, False, False) is None  # the model closed it itself, with the second
    assert reached_after(0, False, False, False, False) is None
    assert reached_after(None, True, *[True] * 50) is None
