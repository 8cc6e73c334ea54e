"""The asyncio side of an answer: updates wake the event loop, and no more often than they have to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from qwen3vl_ros.client.answer import Answer
from qwen3vl_ros.client.answer_future import AnswerFuture
from qwen3vl_ros.gateway.async_answer import AsyncAnswer

PATIENCE = 30.0
TOKENS = 200


class Nobody:
    """Carries the question nowhere."""

    def cancel(self, future: AnswerFuture) -> None:
        """It is never sent."""

    def check_may_block(self) -> None:
        """It may."""

    def explain_stopped(self) -> None:
        """It goes on."""

    def explain_overdue(self, future: AnswerFuture, phase: Any) -> Any:
        raise AssertionError("the question has no deadline")


class Token:
    def __init__(self, sequence: int) -> None:
        self.stage, self.queue_position, self.sequence = 4, 0, sequence
        self.delta, self.text, self.reasoning_delta = f"{sequence} ", "", ""
        self.completion_tokens = sequence + 1
        self.max_image_tokens, self.expected_first_token_time = 0, -1.0


async def stays() -> dict[str, str]:
    """A client that does not go away."""
    await asyncio.Event().wait()
    return {}


def in_a_thread(work: Callable[[], None]) -> None:
    """Have ``work`` done by another thread while this one waits."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_tokens_that_come_while_the_loop_is_busy_wake_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    question = AnswerFuture(Nobody(), "What is it?", PATIENCE, PATIENCE, PATIENCE)
    wakes: list[Any] = []

    def talk() -> None:
        for number in range(TOKENS):
            question.add_feedback(Token(number))

    async def receive() -> str:
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe

        def counted(*call: Any) -> Any:
            wakes.append(call)
            return wake(*call)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        with AsyncAnswer(question, stays) as async_answer:
            updates = async_answer.updates(PATIENCE)
            await anext(updates)  # whatever came before
            in_a_thread(talk)  # the loop can do nothing meanwhile
            await asyncio.wait_for(anext(updates), PATIENCE)
            first = question.text
            assert len(wakes) == 1
            in_a_thread(lambda: question.add_feedback(Token(TOKENS)))
            await asyncio.wait_for(anext(updates), PATIENCE)  # and the next one wakes it again
            assert len(wakes) == 2
            whole = question.text
            in_a_thread(lambda: question.end(Answer(whole), None))
            assert [updated async for updated in updates] == [True]
            return first

    assert asyncio.run(receive()) == "".join(f"{number} " for number in range(TOKENS))
