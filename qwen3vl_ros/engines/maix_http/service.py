"""HTTP client of the ``maix_http`` engine's service: waits for it, asks, stops an answer, and cleans up after one.

The service is AXERA's ax-llm (Qwen3-VL variant), whose requests share one queue of tokens. A client that disconnects
leaves the model running, and tokens in that queue which the next client receives. So an answer is never just dropped:
it is stopped and read to its end, and if the connection broke before, a throw-away question drains the queue.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import httpx

from qwen3vl_ros.engines.base import EngineError, EngineNotReady, ModelNotFound, Progress
from qwen3vl_ros.engines.maix_http.answer import LOADING, Answer, RefusedError, error_message, reason_of

STOP_TIME = 5.0
"""Seconds to stop a cancelled answer and read it to its end. After that its connection is closed, and the next question
waits until the service is free. The service checks for a stop between two layers of the model, but loses one that
arrives while it encodes the image, so it is repeated."""

_RECOVERY_TIME = 15.0
"""Seconds that the service has after that to become free; if it does not, it hangs."""

_STOP_PERIOD = 0.5
_CONNECT_TIMEOUT = 3.0
_WRITE_TIMEOUT = 10.0  # for an image over a weak radio link
_ATTEMPT_TIMEOUT = 5.0
_ATTEMPT_PERIOD = 1.0
_BACK_OFF = (0.1, 1.0)  # seconds before a busy service is asked again: at first, and at most

RESTART = "`systemctl restart qwen3_vl.service` on the board"


class NotYetError(Exception):
    """The service is not ready; the text is a phrase that says why."""


class Service:
    """The service at ``url``. One answer at a time; every method runs on the same event loop."""

    def __init__(self, url: str) -> None:
        """``url``: scheme, host and port; raises :class:`ModelNotFound` unless it is a URL."""
        self.url = url.strip().rstrip("/").removesuffix("/v1")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ModelNotFound(f"base_url: {url!r} is no address; one looks like http://10.0.0.7:12346.")
        self._client = httpx.AsyncClient(
            headers={"Accept-Encoding": "identity"},
            # A proxy in the environment is meant for the internet; it may not reach the board, or delay its stream.
            trust_env=False,
            verify=parsed.scheme == "https",  # http needs no certificates, which take 0.1 s and more to load
            # The service closes idle connections after seconds; a question lost to that could not be sent again.
            limits=httpx.Limits(max_keepalive_connections=0),
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT, write=_WRITE_TIMEOUT),
        )
        self._settling: asyncio.Task[None] | None = None
        self._unclean = False  # an earlier answer of ours may still run, or have left tokens
        self._array = True  # whether ``messages`` is sent as a list

    async def wait_ready(self, load_timeout: float, progress: Progress) -> str:
        """Wait until the service lists its model and return that.

        Raises:
            EngineNotReady: ``load_timeout`` seconds passed.
            ModelNotFound: Something else answers.
        """
        begin = time.monotonic()
        while True:
            left = load_timeout - (time.monotonic() - begin)
            try:
                return await self.model(max(min(_ATTEMPT_TIMEOUT, left), 0.1))
            except NotYetError as reason:
                waited = time.monotonic() - begin
                if waited >= load_timeout:
                    raise EngineNotReady(self.not_ready(reason, f" for {load_timeout:g} s")) from None
                progress(f"waiting for {self.url}: {reason}, {waited:.0f} of {load_timeout:g} s")
                await asyncio.sleep(min(_ATTEMPT_PERIOD, load_timeout - waited))

    def not_ready(self, reason: object, since: str = "") -> str:
        """Return a sentence with a way out about a service that is not ready."""
        return (
            f"{self.url} is not ready{since}: {reason}. `systemctl status qwen3_vl.service` on the board says how the "
            "service does, and `systemctl start` starts it; from another machine, check the address and the firewall."
        )

    async def model(self, timeout: float) -> str:
        """Ask once for the model that the service lists; raises :class:`NotYetError`, :class:`ModelNotFound`."""
        try:
            response = await asyncio.wait_for(self._client.get(f"{self.url}/v1/models"), timeout)
        except (asyncio.TimeoutError, httpx.TimeoutException):
            raise NotYetError(f"no answer within {timeout:g} s") from None
        except httpx.RequestError as error:
            raise NotYetError(reason_of(error)) from None
        message = error_message(response.content)
        if response.status_code >= 500 or message.lower() in LOADING:
            raise NotYetError(f"status {response.status_code} {message}".strip())
        try:
            models = [str(model["id"]) for model in response.json()["data"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            what = message or response.headers.get("content-type", "something unknown")
            raise ModelNotFound(
                f"{self.url} is not the service of a model: it answers GET /v1/models with status "
                f"{response.status_code}, {what}. Set base_url to the board's; its port is 12346 as a rule."
            ) from None
        if not models:
            raise NotYetError("it lists no model")
        return models[0]

    async def ask(self, body: Mapping[str, Any], patience: float) -> Answer:
        """Wait until the service is free, send ``body``, and wait until the service accepts it.

        Both waits may take ``patience`` seconds.

        Raises:
            EngineNotReady: The service is not reachable or still loads its model.
            EngineError: The service stayed busy, or refused the question.
        """
        await self._settled()
        if self._unclean:
            throw_away = {**body, "messages": [{"role": "user", "content": [{"type": "text", "text": "Say yes."}]}]}
            other = "the answer before, which it was told to stop"
            self.leave(await self._ask(throw_away, min(patience, _RECOVERY_TIME), other, self._stop))
            await self._settled()
            if self._unclean:
                raise EngineError(f"{self.url} does not get to the end of an answer: restart it with {RESTART}.")
        return await self._ask(body, patience, "another client's question")

    async def _ask(
        self, body: Mapping[str, Any], patience: float, other: str, meanwhile: Callable[[], Any] | None = None
    ) -> Answer:
        begin = time.monotonic()
        pause, longest = _BACK_OFF
        while True:
            answer = Answer(self._client, self.url, body if self._array else {**body, "messages": body["messages"][0]})
            try:
                await answer.begun(patience)
            except RefusedError as error:
                if error.loading:
                    raise EngineNotReady(self.not_ready(error.message)) from None
                if error.misread and self._array:
                    # Some versions want the single message in place of a list.
                    self._array = False
                    continue
                if not error.busy:
                    self._array = self._array or error.misread
                    raise
            except BaseException:
                self.leave(answer)
                raise
            else:
                return answer
            if time.monotonic() - begin > patience:
                raise EngineError(
                    f"{self.url} has been busy for {patience:g} s with {other}. Ask again later; if it is busy for "
                    f"ever, it hangs, as it does after an image it could not encode: restart it with {RESTART}."
                )
            if meanwhile is not None:
                await meanwhile()
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def leave(self, answer: Answer) -> None:
        """Stop ``answer`` and read it to its end in a background task, unless it is over. Returns at once."""
        if answer.over:
            self._note(answer)
        else:
            self._settling = asyncio.create_task(self._settle(answer))

    async def _settle(self, answer: Answer) -> None:
        """Stop ``answer`` and read it to its end, within STOP_TIME."""
        deadline = time.monotonic() + STOP_TIME
        while not answer.over and not answer.finished and time.monotonic() < deadline:
            if answer.accepted:  # else the stop would end another client's answer
                await self._stop()
            await answer.wait_over(min(_STOP_PERIOD, deadline - time.monotonic()))
        await answer.wait_over(min(_STOP_PERIOD, STOP_TIME) if answer.finished else 0.0)
        await answer.hang_up()
        self._note(answer)

    async def _settled(self) -> None:
        if self._settling is not None:
            await asyncio.wait({self._settling})

    def _note(self, answer: Answer) -> None:
        self._unclean = not answer.finished and (self._unclean or answer.unclean)

    async def _stop(self) -> None:
        with suppress(httpx.HTTPError, asyncio.TimeoutError):  # whether it stopped shows in the answer
            await asyncio.wait_for(self._client.get(f"{self.url}/v1/stop"), _STOP_PERIOD)

    async def close(self) -> None:
        """Wait until the last answer is stopped and read to its end, then close the connections."""
        await self._settled()
        await self._client.aclose()
