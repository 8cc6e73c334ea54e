"""The engine ``echo``: says the question's words, one token each. As fast as an engine can be, and easy to check.

A third-party engine, like ``clocked_llama`` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator

from qwen3vl_ros.engines.base import Cancel, Chunk, Description, Progress, Request, Stage, Usage


class Echo:
    """Implements :class:`qwen3vl_ros.engines.base.Engine`."""

    def __init__(self, concurrency: int, pause: float, progress: Progress) -> None:  # noqa: ARG002
        """``pause``: seconds between two tokens."""
        self._concurrency = concurrency
        self._pause = pause

    def describe(self) -> Description:
        """It takes text only."""
        return Description("echo", "echo", concurrency=self._concurrency, supports=frozenset({"text_only"}))

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """The words of the last message."""
        words = str(request.messages[-1].content[-1]).split()
        for count, word in enumerate(words, 1):
            if cancel.wait(self._pause) if self._pause else cancel.is_set():
                yield Chunk(Stage.DECODE, "", "", count - 1, "cancelled", Usage(completion_tokens=count - 1))
                return
            yield Chunk(Stage.DECODE, f"{word} ", "", count)
        usage = Usage(prompt_tokens=len(words), completion_tokens=len(words))
        yield Chunk(Stage.DECODE, "", "", len(words), "stop", usage)

    def close(self) -> None:
        """Nothing to free."""
