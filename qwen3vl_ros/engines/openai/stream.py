"""Reads the body of one answer, with a deadline for each token."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

import anyio
import httpx

from qwen3vl_ros.engines.base import EngineError
from qwen3vl_ros.engines.openai.errors import Refused, is_broken_off, quoted
from qwen3vl_ros.engines.openai.reply import Complaint, Delta, read_complaint, read_delta
from qwen3vl_ros.engines.streaming import BYTE_ORDER_MARK, event_data

_USAGE_TIME = 2.0
"""Seconds that a server has for token counts and ``[DONE]`` once the answer is complete."""

_DRAIN_TIME = 0.25
"""Seconds for the bytes after ``[DONE]``. Only a connection whose response was read to its end can be reused."""

_MAX_BODY = 16_000_000
"""Most bytes of an answer that is not streamed; no language model writes more."""

_DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds from the request to the first token, and from one token to the next."""

    first_token: float
    token: float


async def deltas(
    response: httpx.Response,
    url: str,
    deadline: float,
    patience: Patience,
    shown: Callable[[str], str],
    refusal: Callable[[Complaint], Refused],
) -> AsyncIterator[Delta]:
    """Yield the content of each event of ``response`` up to the end of the answer.

    Once the server has said that the answer is complete, nothing that follows is an error.

    Args:
        response: A successful response, its body unread.
        url: The server's address for error messages.
        deadline: For the first token, on anyio's clock. Only events with text meet a deadline; those that keep the
            connection alive do not.
        patience: Timeouts of the tokens.
        shown: Redacts and shortens text of the server.
        refusal: Makes the exception for an error that is sent in place of an answer.

    Raises:
        Refused: The answer failed before the first token.
        EngineError: The answer failed after the first token.
    """
    events = _events(response)
    begun = finished = False
    problem: Refused | EngineError | None = None
    try:
        while (data := await _next(events, deadline)) is not None:
            if data.strip() == _DONE:
                if begun:
                    finished = True
                    yield Delta(finish="stop")  # for servers that send no reason; an earlier reason wins
                break
            complaint, delta = _read(data, shown)
            if complaint is not None:
                problem = refusal(complaint)
                if begun:
                    problem = EngineError(f"{url} failed in the middle of the answer{quoted(shown(complaint.message))}")
                break
            if is_broken_off(delta.finish):
                problem = EngineError(
                    f"{url} did not finish the answer: The server ended the answer with {delta.finish!r}."
                )
                break
            begun = begun or delta.has_token
            finished = finished or bool(delta.finish)
            if finished:
                deadline = anyio.current_time() + _USAGE_TIME
            elif delta.has_token:
                deadline = anyio.current_time() + patience.token
            yield delta
    except TimeoutError:
        if begun:
            problem = EngineError(
                f"{url} stopped in the middle of the answer: no token for {patience.token:g} s (openai.token_timeout)."
            )
        else:
            problem = late(url, patience)
    except (httpx.RequestError, ValueError) as error:
        words = shown(str(error)) or type(error).__name__
        if begun:
            problem = EngineError(f"{url} broke off in the middle of the answer ({words}): its log says why.")
        elif isinstance(error, httpx.RequestError):
            problem = Refused(
                EngineError(f"{url} lost the connection before the first token ({words}): its log says why."),
                again=True,
            )
        else:
            problem = Refused(EngineError(f"{url} sends something that is no chat completion: {words}."))
    if finished:
        with suppress(httpx.RequestError, ValueError), anyio.move_on_after(_DRAIN_TIME):
            async for _ in events:
                pass
    elif problem is not None:
        raise problem
    elif begun:
        raise EngineError(f"{url} ended the connection in the middle of the answer: its log says why.")
    else:
        raise Refused(EngineError(f"{url} took the request and ended without an answer: its log says why."))


def late(url: str, patience: Patience) -> Refused:
    """Return the refusal for a late first token; without a retry, which would double the server's work."""
    return Refused(
        EngineError(
            f"{url} took the request and sent no token within {patience.first_token:g} s (openai.first_token_timeout): "
            "it is overloaded or hangs."
        )
    )


def _read(data: bytes, shown: Callable[[str], str]) -> tuple[Complaint | None, Delta]:
    """Parse one event; raises ValueError, whose text has passed ``shown``."""
    try:
        value = json.loads(data)
        return read_complaint(value), read_delta(value)
    except (ValueError, RecursionError):
        raise ValueError(shown(data.decode("utf-8", "replace")) or "an empty event") from None


async def _next(events: AsyncIterator[bytes], deadline: float) -> bytes | None:
    """Return the next event, None at the end; raises TimeoutError at ``deadline``."""
    with anyio.fail_after(max(0.0, deadline - anyio.current_time())):
        return await anext(events, None)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the data of each event; a completion that was not streamed is one event.

    The first bytes tell which of the two it is: servers and proxies label either as the other, or not at all.
    """
    pieces = response.aiter_bytes()
    begin = b""
    async for piece in pieces:
        begin = (begin + piece).lstrip().removeprefix(BYTE_ORDER_MARK).lstrip()
        if not BYTE_ORDER_MARK.startswith(begin):  # else it is empty, or may become the mark
            break
    pieces = _joined(begin, pieces)
    if begin.startswith(b"{"):
        yield await _content(pieces, _MAX_BODY)
        yield _DONE
    else:
        async for data in event_data(pieces):
            yield data


async def _joined(first: bytes, others: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in others:
        yield piece


async def content_of(response: httpx.Response, limit: int) -> bytes:
    """Read the body, at most ``limit`` bytes of it."""
    return await _content(response.aiter_bytes(), limit)


async def _content(pieces: AsyncIterator[bytes], limit: int) -> bytes:
    content = bytearray()  # appended in place: a server may send single bytes
    async for piece in pieces:
        content += piece
        if len(content) >= limit:
            break
    return bytes(content[:limit])
