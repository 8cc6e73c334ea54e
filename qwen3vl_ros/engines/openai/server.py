"""Client of one server with OpenAI's API: lists its models and sends one question once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import httpx

from qwen3vl_ros.engines.base import EngineNotReady, ModelNotFound, Unsupported
from qwen3vl_ros.engines.openai.address import Address, ApiKey
from qwen3vl_ros.engines.openai.errors import (
    CHECK_ADDRESS,
    Refused,
    answered,
    are_logprobs_refused,
    complaint_in,
    connection_failed,
    fitting_max_tokens,
    is_refused,
    one_line,
    quoted,
    too_long_or_no_images,
)
from qwen3vl_ros.engines.openai.reply import Complaint, Delta
from qwen3vl_ros.engines.openai.request import ChatPayload, Dialect
from qwen3vl_ros.engines.openai.stream import Patience, content_of, deltas, late

_MAX_ERROR = 65_536
_MAX_LIST = 4_000_000
"""Most bytes that are read of an error, and of a list of models."""

_LISTING_TIME = 5.0
"""Seconds to list the models for an error message that names them."""

_CONTEXT_KEYS = (
    "max_model_len",  # vLLM, SGLang
    "n_ctx",  # llama.cpp
    "context_length",  # OpenRouter
    "max_context_length",  # LM Studio, Mistral
    "context_window",  # Groq
    "n_ctx_train",  # llama.cpp before it told n_ctx
)


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that a server lists. ``context_length`` in tokens, None where the server gives none.

    ``owner``: ``owned_by``, by which servers say what program they are; "" where there is none.
    """

    model: str
    context_length: int | None
    owner: str = ""


@dataclass(slots=True)
class Sent:
    """Traffic of one answer.

    ``n_bytes``: size of the HTTP request bodies, failed attempts included. ``url``: of the server that was asked last.
    """

    n_bytes: int = 0
    url: str = ""


class _NoList(Refused):
    """The server answers, but lists no models."""


@dataclass(slots=True)
class Server:
    """One server.

    ``model``: its model's name, "" while unknown. ``owner``: as in :class:`Listed`, None while unknown. ``dead_until``:
    a time of anyio's clock.
    """

    address: Address
    key: ApiKey
    client: httpx.AsyncClient
    connect_timeout: float
    patience: Patience
    model: str = ""
    owner: str | None = None
    dead_until: float = 0.0
    dialect: Dialect = field(default_factory=Dialect)

    async def list_models(self, seconds: float) -> list[Listed]:
        """Return all models that the server lists within ``seconds``; raises :class:`Refused`."""
        url = f"{self.address.url}/models"
        try:
            with anyio.fail_after(seconds):
                response = await self._send("GET", url)
                try:
                    content = await content_of(response, _MAX_LIST)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise Refused(EngineNotReady(f"{url} does not answer within {seconds:g} s."), again=True) from None
        except httpx.RequestError as error:
            raise self._connection_failed(error) from error
        complaint = self._complaint(response, content)
        if response.status_code == 404:
            raise _NoList(ModelNotFound(f"{url} does not exist (404). {CHECK_ADDRESS}"))
        if not response.is_success:
            raise self._answered(response, complaint)
        try:
            return [Listed(entry["id"], _context_length(entry), _owner(entry)) for entry in json.loads(content)["data"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise Refused(
                ModelNotFound(f"{url} is no list of models but {complaint.message or 'empty'}. {CHECK_ADDRESS}")
            ) from None

    async def choose_model(self, wanted: str, seconds: float) -> Listed:
        """Return the model ``wanted``, or the only one listed if that is "".

        A ``wanted`` that the server does not list is accepted: gateways serve names that they do not list.

        Raises:
            Refused: The server does not answer, or lists no model or several to choose from.
        """
        try:
            listed = await self.list_models(seconds)
        except _NoList:
            if wanted:
                return Listed(wanted, None)
            raise
        if wanted:
            owner = listed[0].owner if listed else ""
            return next((one for one in listed if one.model == wanted), Listed(wanted, None, owner))
        if not listed:
            raise Refused(EngineNotReady(f"{self.address.url} lists no model: is it still loading?"), again=True)
        if len(listed) > 1:
            raise Refused(
                ModelNotFound(f"{self.address.url} has several models: set openai.model to one of {_names(listed)}.")
            )
        return listed[0]

    def take(self, listed: Listed) -> None:
        """Ask for this model from now on."""
        self.model, self.owner = listed.model, listed.owner

    async def answer(self, payload: ChatPayload, sent: Sent) -> AsyncIterator[Delta]:
        """Send ``payload`` once and yield the answer.

        Raises:
            Refused: The server failed before the first token.
            EngineError: The server failed after the first token.
        """
        url, deadline = self.address.url, anyio.current_time() + self.patience.first_token
        sent.url = url
        try:
            with anyio.fail_after(self.patience.first_token):
                if not self.model or (self.owner is None and payload.depends_on_owner):
                    self.take(await self.choose_model(self.model, self.patience.first_token))
                response = await self._accepted(payload, sent)
        except TimeoutError:
            raise late(url, self.patience) from None

        def refusal(complaint: Complaint) -> Refused:
            return self._answered(response, self._shown_complaint(complaint), payload, complaint.status or 500)

        try:
            async for delta in deltas(response, url, deadline, self.patience, self._shown, refusal):
                yield delta
        finally:
            await response.aclose()

    async def _accepted(self, payload: ChatPayload, sent: Sent) -> httpx.Response:
        """Send ``payload``, again in another dialect if need be, and return a successful response, its body unread.

        Raises:
            Refused: The server cannot be reached or answers with an error.
        """
        max_tokens = payload.max_tokens
        try:
            thinking = payload.thinking.fields(self.owner or "", self.model, self.address.url)
        except Unsupported as error:
            raise Refused(error, dead=False) from None
        while True:
            body = payload.body(self.model, self.owner or "", self.dialect, max_tokens, thinking)
            try:
                response = await self._send("POST", f"{self.address.url}/chat/completions", body)
            except httpx.RequestError as error:
                if not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
                    sent.n_bytes += len(body)
                raise self._connection_failed(error) from error
            sent.n_bytes += len(body)
            if response.is_success and "html" not in response.headers.get("content-type", ""):
                return response
            try:
                content = await content_of(response, _MAX_ERROR)
            except httpx.RequestError:
                content = b""  # the error is described by the status alone
            finally:
                await response.aclose()
            complaint = self._complaint(response, content)
            if response.is_success:
                raise Refused(
                    ModelNotFound(
                        f"{self.address.url}/chat/completions answers with {complaint.message}. {CHECK_ADDRESS}"
                    )
                )
            if max_tokens is not None and max_tokens == payload.max_tokens:
                max_tokens = fitting_max_tokens(complaint, max_tokens)
                if max_tokens != payload.max_tokens:
                    continue
            if refused := too_long_or_no_images(self.address.url, response.status_code, complaint):
                raise refused
            if response.status_code == 404 or complaint.code == "model_not_found":
                raise await self._not_there(response.status_code, complaint)
            if response.status_code not in (400, 422) or not self._learn(complaint):
                raise self._answered(response, complaint, payload, n_bytes=len(body))

    def _learn(self, complaint: Complaint) -> bool:
        """Adapt the dialect to ``complaint``; return whether it changed, so that a retry may help."""
        dialect = self.dialect
        before = replace(dialect)
        if "max_completion_tokens" in complaint.message:
            dialect.max_completion_tokens |= is_refused(complaint, "max_tokens")
        dialect.stream_options &= not is_refused(complaint, "stream_options")
        dialect.logprobs &= not are_logprobs_refused(complaint)
        if known := tuple(name for name in dialect.penalty if not is_refused(complaint, name)):
            dialect.penalty = known
        return dialect != before

    async def _not_there(self, status: int, complaint: Complaint) -> Refused:
        """Explain a 404: ask for the list of models to tell a wrong model from a wrong address."""
        try:
            listed = await self.list_models(_LISTING_TIME)
        except Refused:
            listed = []
        if any(one.model == self.model for one in listed) or not listed:
            return Refused(
                ModelNotFound(
                    f"{self.address.url}/chat/completions does not exist, or has no model {self.model!r} "
                    f"({status}){quoted(complaint.message)} {CHECK_ADDRESS}"
                )
            )
        return Refused(
            ModelNotFound(
                f"{self.address.url} has no model {self.model!r} ({status}): set openai.model to one of "
                f"{_names(listed)}."
            )
        )

    async def _send(self, method: str, url: str, body: bytes | None = None) -> httpx.Response:
        """Send a request and return the response, its body unread. Redirects are not followed."""
        headers = dict(self.address.headers)
        if body is not None:
            headers |= {"Content-Type": "application/json", "Accept": "text/event-stream, application/json"}
        return await self.client.send(
            self.client.build_request(method, url, content=body, headers=headers), stream=True, follow_redirects=False
        )

    def _answered(
        self,
        response: httpx.Response,
        complaint: Complaint,
        payload: ChatPayload | None = None,
        status: int = 0,
        n_bytes: int = 0,
    ) -> Refused:
        if response.is_redirect and response.next_request is not None:
            target = _without_credentials(response.next_request.url)
            complaint = Complaint(f"to {self._shown(target)}")
        return answered(
            self.address.url,
            status or response.status_code,
            response.headers,
            complaint,
            fields=payload.fields if payload else (),
            key=self.key,
            n_bytes=n_bytes,
        )

    def _connection_failed(self, error: httpx.RequestError) -> Refused:
        return connection_failed(self.address.url, error, self._shown(str(error)), self.connect_timeout)

    def _complaint(self, response: httpx.Response, content: bytes) -> Complaint:
        text = self.address.redacted(content.decode("utf-8", "replace"))
        return self._shown_complaint(complaint_in(text, response.headers.get("content-type", "")))

    def _shown_complaint(self, complaint: Complaint) -> Complaint:
        return Complaint(
            self._shown(complaint.message), complaint.status, complaint.code, complaint.kind, complaint.param
        )

    def _shown(self, text: str) -> str:
        # Redact before truncating: a truncated key would not be recognised.
        return one_line(self.address.redacted(text))


def _context_length(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    places = [entry, meta] if isinstance(meta, dict) else [entry]
    values = (place.get(key) for key in _CONTEXT_KEYS for place in places)
    return next((value for value in values if isinstance(value, int) and value > 0), None)


def _owner(entry: dict[str, Any]) -> str:
    owner = entry.get("owned_by")
    return owner if isinstance(owner, str) else ""


def _names(listed: Sequence[Listed]) -> str:
    names = [repr(one.model) for one in listed]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _without_credentials(url: httpx.URL) -> str:
    return str(url.copy_with(username=None, password=None, query=None, fragment=None))
