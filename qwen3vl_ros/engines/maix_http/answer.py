"""Reads one answer of the ``maix_http`` engine's service, and its error messages."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from typing import Any

import httpx

from qwen3vl_ros.engines.base import EngineError, EngineNotReady
from qwen3vl_ros.engines.maix_http.request import encoded
from qwen3vl_ros.engines.streaming import event_data

LOADING = ("model initing", "model not init")
"""Error messages of the service, in lower case, while it loads its model."""

_MOST_WORDS = 300
"""Most characters of the service's error message that a sentence quotes."""


class RefusedError(EngineError):
    """The service answered with another status than 200. ``message``: its error message."""

    def __init__(self, url: str, status: int, message: str) -> None:
        super().__init__(
            f"{url} refused the question with status {status}: {message or 'without a word'}. If that is no service "
            "of Axera's ax-llm, set base_url to one."
        )
        self.message = message

    @property
    def busy(self) -> bool:
        """Whether the service runs another answer: "LLM is running" or "llm is running" on an Axera board."""
        return "is running" in self.message.lower()

    @property
    def loading(self) -> bool:
        """Whether the service still loads its model."""
        return self.message.lower() in LOADING

    @property
    def misread(self) -> bool:
        """Whether the service could not parse the request: "Invalid request format"."""
        return "invalid request" in self.message.lower()


class Answer:
    """Reads one answer of the service in a background task, so that its caller can stop waiting at any time."""

    def __init__(self, client: httpx.AsyncClient, url: str, body: Mapping[str, Any]) -> None:
        self._client = client
        self._url = url
        self._body = encoded(body)
        self._items: asyncio.Queue[bytes | _End | _Late | EngineError] = asyncio.Queue()
        self._sent = False
        self._refused = False
        self.accepted = False
        """Whether the service accepted the question."""
        self.finished = False
        """Whether the service said that the answer is complete."""
        self._task = asyncio.create_task(self._read())

    @property
    def bytes_sent(self) -> int:
        """Size of the request's body."""
        return len(self._body)

    @property
    def over(self) -> bool:
        """Whether the background task has ended."""
        return self._task.done()

    @property
    def unclean(self) -> bool:
        """Once over: whether the service may still generate this answer, or has left tokens of it in its queue."""
        return self._sent and not self._refused and not self.finished

    async def begun(self, patience: float) -> None:
        """Wait until the service has accepted the question; raises :class:`EngineError` after ``patience`` s."""
        await self.next(patience, f"no answer within {patience:g} s")

    async def next(self, patience: float, late: str) -> bytes | None:
        """Wait for the next piece of the answer.

        Args:
            patience: Timeout in seconds.
            late: Text of the exception at the timeout.

        Returns:
            UTF-8 that may be empty or end inside a character; None at the end.

        Raises:
            EngineError: The timeout passed, or the answer failed.
        """
        alarm = _Late()
        timer = asyncio.get_running_loop().call_later(max(patience, 0.0), self._items.put_nowait, alarm)
        try:
            while True:
                item = await self._items.get()
                if item is alarm:
                    raise EngineError(f"{self._url}: {late}.")
                if isinstance(item, _Late):  # the timer of an earlier call, which had just got its piece
                    continue
                if isinstance(item, EngineError):
                    raise item
                return None if isinstance(item, _End) else item
        finally:
            timer.cancel()

    async def wait_over(self, patience: float) -> None:
        """Wait until the answer has ended, at most ``patience`` seconds."""
        await asyncio.wait({self._task}, timeout=max(patience, 0.0))

    async def hang_up(self) -> None:
        """Close the connection."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _read(self) -> None:
        try:
            await self._receive()
        except EngineError as error:
            self._items.put_nowait(error)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            self._sent = False
            self._items.put_nowait(
                EngineNotReady(f"{self._url} is gone: {reason_of(error)}. Is the service running on the board?")
            )
        except Exception as error:  # noqa: BLE001 next() raises it
            self._items.put_nowait(
                EngineError(f"{self._url} broke off: {reason_of(error)}. Ask again; the next answer is whole.")
            )
        else:
            self._items.put_nowait(_End())

    async def _receive(self) -> None:
        self._sent = True
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
        async with self._client.stream(
            "POST", f"{self._url}/v1/chat/completions", content=self._body, headers=headers
        ) as response:
            kind = response.headers.get("content-type", "")
            if response.status_code != 200 or "html" in kind or "json" in kind:
                body = await _beginning(response)
                self._refused = response.status_code != 200
                raise RefusedError(self._url, response.status_code, error_message(body) or kind)
            self.accepted = True
            self._items.put_nowait(b"")
            async for data in event_data(response.aiter_raw()):
                if data.strip() == b"[DONE]":
                    self.finished = True
                    return
                self._items.put_nowait(self._content(data))
                if self.finished:
                    self._items.put_nowait(_End())  # some services do not send the final mark
        if not self.finished:
            raise EngineError(f"{self._url} broke off in the middle of the answer. Ask again; the next one is whole.")

    def _content(self, data: bytes) -> bytes:
        """Return the text in one event as UTF-8, whose bytes, and thus the JSON, may hold parts of characters."""
        try:
            event = json.loads(data.decode("utf-8", "surrogateescape"))
            if "error" in event:
                raise EngineError(f"{self._url} gave up with the words: {error_message(data)}.")
            choice = event["choices"][0] if event["choices"] else {}
            delta = choice.get("delta") or {}
            content = delta.get("content") or ""
            self.finished = self.finished or bool(choice.get("finish_reason") or delta.get("finish_reason"))
            return str(content).encode("utf-8", "surrogateescape")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise EngineError(
                f"{self._url} sent what is no piece of an answer ({error}): {data[:200].decode('utf-8', 'replace')}"
            ) from None


class _End:
    """Marks the end of the answer."""


class _Late:
    """Marks a timeout of :meth:`Answer.next`."""


async def _beginning(response: httpx.Response) -> bytes:
    """Read as much of the body as an error message needs."""
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > 4096:
            break
    return body


def error_message(body: bytes) -> str:
    """Return the message in ``{"error": "..."}`` or OpenAI's ``{"error": {"message": "..."}}``, "" without one.

    A message too long for a sentence is truncated.
    """
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:_MOST_WORDS]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""


def reason_of(error: Exception) -> str:
    """Return the operating system's reason, which httpx wraps in exceptions of its own."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.errno:
            # asyncio's strerror names the address instead of the reason, except for a failed name look-up.
            named = isinstance(inner, socket.gaierror) and inner.strerror
            reason = named or os.strerror(inner.errno)
            return reason[0].lower() + reason[1:]
        inner = inner.__cause__ or inner.__context__
    return str(error) or type(error).__name__
