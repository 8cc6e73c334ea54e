"""A conversation that the node keeps, as an object with the client's own methods."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING

from qwen3vl_ros.client.exceptions import VlmError

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qwen3vl_ros.client.answer import Answer
    from qwen3vl_ros.client.answer_future import AnswerFuture, AnswerStream
    from qwen3vl_ros.client.goal import Arguments
    from qwen3vl_ros.client.vlm_client import VlmClient


class Session:
    """Questions of one conversation; in a ``with`` block, the node forgets it at the end. ``name``: of the session.

    Whoever else asks with the same name continues the same conversation.
    """

    def __init__(self, client: VlmClient, name: str) -> None:
        self._client = client
        self.name = name

    def ask(self, prompt: str, **arguments: Unpack[Arguments]) -> Answer:
        """Ask in this conversation; see :meth:`VlmClient.ask`."""
        return self._client.ask(prompt, **self._of_session(arguments))

    def stream(self, prompt: str, **arguments: Unpack[Arguments]) -> AnswerStream:
        """Ask in this conversation; see :meth:`VlmClient.stream`."""
        return self._client.stream(prompt, **self._of_session(arguments))

    def send(self, prompt: str, **arguments: Unpack[Arguments]) -> AnswerFuture:
        """Ask in this conversation; see :meth:`VlmClient.send`."""
        return self._client.send(prompt, **self._of_session(arguments))

    def reset(self, timeout: float | None = None) -> None:
        """Have the node forget the conversation; see :meth:`VlmClient.reset_session`."""
        self._client.reset_session(self.name, timeout)

    def _of_session(self, arguments: Arguments) -> Arguments:
        return {**arguments, "session": self.name}

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.reset()
            return
        with contextlib.suppress(VlmError):  # the error of the block says more
            self.reset()
