"""The ``openai`` engine: any server with OpenAI's chat completions, such as vLLM, llama-server, SGLang or a cloud.

With several addresses, a question that fails before its first token is sent to the next server at once.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from functools import partial
from typing import cast

import anyio
import httpx

from qwen3vl_ros.engines import tool_template
from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import (
    Cancel,
    Chunk,
    Description,
    EngineError,
    FinishReason,
    ImageInput,
    ModelNotFound,
    Progress,
    Request,
    Stage,
    Usage,
)
from qwen3vl_ros.engines.choices import FirstToken, probabilities
from qwen3vl_ros.engines.model_card import model_card
from qwen3vl_ros.engines.openai.address import find_addresses, find_key
from qwen3vl_ros.engines.openai.errors import Refused, combined
from qwen3vl_ros.engines.openai.reply import Counts, Delta, TokenChances
from qwen3vl_ros.engines.openai.request import FIELDS, ChatPayload
from qwen3vl_ros.engines.openai.server import Listed, Sent, Server
from qwen3vl_ros.engines.openai.stream import Patience
from qwen3vl_ros.engines.openai.thinking import ThinkingOrder, abilities
from qwen3vl_ros.engines.streaming import EventLoop
from qwen3vl_ros.engines.thinking import check_thinking
from qwen3vl_ros.engines.token_probabilities import Token

_PROBE_TIME = 1.5
_GREETING_TIME = 5.0
"""Seconds to list the models: for a probe, and, once connected, for the engine's start."""

_BACKOFF = 0.5
_BACKOFF_MAX = 8.0
"""Seconds before a server is asked again: doubled with each attempt up to a limit, with a random factor of 0.5 to 1."""

_RETRY_AFTER_MAX = 30.0
"""Most seconds that a server's Retry-After is obeyed: a robot's question is stale after that."""

_IDLE_TIME = 4.0
"""Seconds that an idle connection is kept. uvicorn, which serves vLLM and many others, closes it after 5 s, and a
question sent at that moment is lost."""

_MOST_IMAGE_TOKENS = 16384
"""Most tokens that Qwen3-VL's own preprocessing makes of an image; a server may scale it down further."""

_UTF16 = codecs.getincrementaldecoder("utf-16-le")

_OWN_NAMES = {"response_schema", "thinking", "max_reasoning_tokens"}
_SUPPORTS = frozenset(FIELDS) - _OWN_NAMES | {"json_schema", "system_prompt", "text_only", "probabilities", "video"}


class OpenaiEngine:
    """Asks servers, several questions at a time. Implements :class:`qwen3vl_ros.engines.base.Engine`."""

    def __init__(
        self,
        base_urls: Sequence[str] = (),
        model: str = "",
        api_key_env: str = "OPENAI_API_KEY",
        api_key_file: str = "",
        concurrency: int = 4,
        max_image_tokens: int = 1024,
        jpeg_quality: int = 90,
        context_length: int = 0,
        connect_timeout: float = 3.0,
        first_token_timeout: float = 60.0,
        token_timeout: float = 20.0,
        retries: int = 2,
        retry_dead_after: float = 30.0,
        progress: Progress = lambda _: None,
    ) -> None:
        """Connect to the servers; one that answers is enough.

        Args:
            base_urls: Addresses up to and with ``/v1``, in order of preference; blank ones are ignored.
            model: The model's name; "" takes the only one that a server lists.
            api_key_env: Environment variable of the key, which is read once.
            api_key_file: File of the key; wins over ``api_key_env``.
            concurrency: Questions answered at the same time.
            max_image_tokens: Of one image, one token per 32x32 pixels, where nobody asks for another number.
            jpeg_quality: 1 to 100.
            context_length: In tokens; 0 takes the server's value.
            connect_timeout: In seconds.
            first_token_timeout: Seconds from the request to the first token, for each attempt.
            token_timeout: Seconds from one token to the next.
            retries: How often a server is asked again after 429, 5xx or a lost connection.
            retry_dead_after: Seconds for which other servers are preferred to one that failed.
            progress: Called with sentences about the connecting.

        Raises:
            ModelNotFound: Address, key or model are wrong.
            EngineNotReady: No server answers yet.
        """
        self._retries = retries
        self._retry_dead_after = retry_dead_after
        self._jpeg_quality = jpeg_quality
        patience = Patience(first_token_timeout, token_timeout)
        self._servers = _servers(base_urls, api_key_env, api_key_file, connect_timeout, patience)
        self._client = self._servers[0].client
        key = self._servers[0].key
        self._closed = False
        self._loop = EventLoop()
        try:
            progress(f"asking {', '.join(server.address.url for server in self._servers)} for models")
            first = self._loop.run(self._greet(model, connect_timeout + _GREETING_TIME))
        except BaseException:
            self.close()
            raise
        self._description = Description(
            engine="openai",
            model=first.model,
            context_length=context_length or first.context_length,
            image_input=_image_input(max_image_tokens, context_length or first.context_length),
            concurrency=concurrency,
            supports=_SUPPORTS | abilities(first.owner, first.model),
            card=model_card(first.model),
            details={
                "servers": ", ".join(server.address.url for server in self._servers),
                "api_key": key.source if key.value else "none",
                "jpeg_quality": str(jpeg_quality),
                tool_template.DETAIL: tool_template.format_of_name(first.model),
            },
        )

    @staticmethod
    def probe(
        *,
        base_urls: Sequence[str] = (),
        model: str = "",
        api_key_env: str = "OPENAI_API_KEY",
        api_key_file: str = "",
        **_: object,
    ) -> str:
        """Ask each server for its model, and name those that answer.

        Raises:
            ModelNotFound: Address, key or model are wrong.
            EngineNotReady: No server answers.
        """
        servers = _servers(base_urls, api_key_env, api_key_file, _PROBE_TIME, Patience(_PROBE_TIME, _PROBE_TIME))
        loop = EventLoop()
        try:
            greeted = loop.run(_greet_all(servers, model, _PROBE_TIME))
        finally:
            loop.run(servers[0].client.aclose())
            loop.close()
        sentences = [
            f"{s.address.url}: {g.model}" for s, g in zip(servers, greeted, strict=True) if isinstance(g, Listed)
        ]
        if not sentences:
            raise combined([refused for refused in greeted if isinstance(refused, Refused)])
        return "; ".join(sentences + [str(refused) for refused in greeted if isinstance(refused, Refused)])

    async def _greet(self, model: str, seconds: float) -> Listed:
        """Ask all servers, mark those dead that do not answer, and return the model of the first one that does."""
        greeted = await _greet_all(self._servers, model, seconds)
        for server, result in zip(self._servers, greeted, strict=True):
            if isinstance(result, Listed):
                server.take(result)
            else:
                server.model = model
                server.dead_until = anyio.current_time() + self._retry_dead_after
        for result in greeted:
            if isinstance(result, Listed):
                return result
        raise combined([refused for refused in greeted if isinstance(refused, Refused)])

    def describe(self) -> Description:
        """Return the description of this engine and its model."""
        return self._description

    def close(self) -> None:
        """Close the connections. Idempotent; no call may follow."""
        if not self._closed:
            self._closed = True
            self._loop.run(self._client.aclose())
            self._loop.close()

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Answer ``request``; see :class:`qwen3vl_ros.engines.base.Engine`. Several threads may call this.

        During the answer, ``completion_tokens`` counts the events with text, one per token with most servers; the last
        chunk has the server's own count if it sends one. The other token counts are the server's, or 0.
        Probabilities of choices are sums over the top tokens that the server reports (20 are requested), None where it
        reports none; so are the tokens of the answer where it does not report all of them.

        Raises:
            BadRequest: The request makes no sense; raised before anything is sent, or for the server's refusal.
            BadImage: An image cannot be used; raised before anything is sent.
            PromptTooLong: The server refuses the prompt's length.
            Unsupported: The server refuses a field.
            EngineNotReady: No server can be reached or has capacity.
            ModelNotFound: Key, address or model are wrong.
            EngineError: Anything else.
        """
        check_thinking(request.thinking, request.max_reasoning_tokens, self._description)
        answer = _Answer(request)
        payload = ChatPayload(request, self._jpeg_quality)
        yield Chunk(Stage.PREFILL)
        if cancel.is_set():
            yield answer.last(cancel)
            return
        deltas = cast("Generator[Delta, None, None]", self._loop.iterate(self._ask(payload, answer.sent), cancel))
        try:
            with contextlib.closing(deltas):
                for delta in deltas:
                    yield from answer.take(delta)
                    if answer.stopped:
                        break
        except EngineError:
            if not cancel.is_set():
                raise
        yield answer.last(cancel)

    async def _ask(self, payload: ChatPayload, sent: Sent) -> AsyncIterator[Delta]:
        """Yield the answer of the first server that gives one; raises :class:`EngineError` if none does."""
        refusals: dict[str, Refused] = {}
        not_before: dict[str, float] = {}
        now = anyio.current_time()
        for attempt in range(self._retries + 1):
            if attempt:
                again = [not_before[url] for url, refused in refusals.items() if refused.again]
                if not again:
                    break
                await anyio.sleep(max(0.0, min(again) - anyio.current_time()))
                now = max(anyio.current_time(), min(again))
            for server in sorted(self._servers, key=lambda server: server.dead_until > now):  # stable: else in order
                url = server.address.url
                if url in refusals and not (refusals[url].again and not_before[url] <= now):
                    continue
                try:
                    async for delta in server.answer(payload, sent):
                        yield delta
                except Refused as refused:
                    if not refused.elsewhere:
                        raise refused.error from refused
                    now = anyio.current_time()
                    refusals[url] = refused
                    not_before[url] = now + min(refused.after, _RETRY_AFTER_MAX) + _backoff(attempt)
                    server.dead_until = now + self._retry_dead_after if refused.dead else server.dead_until
                except EngineError:  # in the middle of an answer
                    server.dead_until = anyio.current_time() + self._retry_dead_after
                    raise
                else:
                    server.dead_until = 0.0
                    return
        raise combined([refusals[server.address.url] for server in self._servers])


class _Answer:
    """Turns a server's events into chunks; counts tokens and measures times."""

    def __init__(self, request: Request) -> None:
        self.sent = Sent()
        self._started = time.monotonic()
        # Servers are sent the stop strings, too, but some ignore them.
        self._text = AnswerText(request.options.stop)
        self._choices = request.choices
        self._order = ThinkingOrder.of(request)
        self._n_reasoning = 0
        self._first_token = FirstToken(request.choices)
        self._tells_tokens = request.token_probabilities
        self._tokens: list[Token] | None = []  # None: some are not known
        self._answer_decoder, self._reasoning_decoder = _UTF16("replace"), _UTF16("replace")
        self._stage = Stage.PREFILL
        self._n_tokens = 0
        self._first_token_time: float | None = None
        self._counts: Counts | None = None
        self._finish = ""
        self._tool = ""
        self._said = self._reasoned = False
        self._may_be_empty = bool(request.options.stop)  # the answer may begin with a stop string

    @property
    def stopped(self) -> bool:
        """Whether a stop string ended the answer."""
        return self._text.stopped

    def take(self, delta: Delta) -> Iterator[Chunk]:
        """Yield the chunk for ``delta``, if it adds anything to show.

        Raises:
            Unsupported: It shows that the server does not do as it was told.
        """
        self._finish = self._finish or delta.finish
        if delta.counts is not None:
            self._counts = delta.counts
        self._tool = self._tool or delta.tool
        if not delta.text and not delta.reasoning:
            return
        self._n_tokens += 1
        thinking = self._text.reasoning or bool(delta.reasoning)
        text, reasoning = self._text.feed(_whole_characters(self._answer_decoder, delta.text).encode())
        if self._text.reasoning:
            self._first_token.reset()
            self._tokens = []
        elif not thinking:
            self._take_tokens(delta.tokens)
            for token in delta.tokens or (TokenChances(delta.text, ()),):
                self._first_token.take(token.text, partial(self._probabilities, token))
        reasoning = _whole_characters(self._reasoning_decoder, delta.reasoning) + reasoning
        first = self._first_token_time is None
        if first:
            self._stage = Stage.DECODE
            self._first_token_time = time.monotonic() - self._started
        self._said = self._said or bool(text.strip())
        self._reasoned = self._reasoned or bool(reasoning)
        self._n_reasoning += bool(reasoning.strip())
        self._order.check_reasoning(self._n_reasoning, self.sent.url)
        if first or text or reasoning:
            yield Chunk(self._stage, text, reasoning, self._n_tokens)

    def _take_tokens(self, tokens: Sequence[TokenChances]) -> None:
        known = [chances.token for chances in tokens if chances.token is not None]
        if not self._tells_tokens or not known or len(known) < len(tokens):
            self._tokens = None
        if self._tokens is not None:
            self._tokens += map(_with_empty_list, known)

    def _probabilities(self, token: TokenChances) -> tuple[float, ...] | None:
        return probabilities(token.likeliest, self._choices) if token.likeliest else None

    def last(self, cancel: Cancel) -> Chunk:
        """Return the last chunk.

        Raises:
            EngineError: The stream ended without finish reason or cancel, or with a tool's call or reasoning alone.
            Unsupported: There is no reasoning, and the request asked for some.
        """
        finish: FinishReason
        if self._finish or self.stopped:
            finish = "length" if self._finish == "length" and not self.stopped else "stop"
        elif cancel.is_set():
            finish = "cancelled"
        else:
            raise EngineError("The engine was closed in the middle of the answer.")
        text, reasoning = self._text.finish()
        if finish != "cancelled" and not self._said and not text.strip():
            self._check_empty(finish)
        if finish == "stop" and not self.stopped:
            self._order.check_answer(self._reasoned or bool(reasoning), self.sent.url)
        counts = self._counts or Counts(prompt=0, completion=self._n_tokens, image=0, cached=0)
        n_tokens = max(counts.completion, self._n_tokens if self._counts is None else 0)
        usage = Usage(
            prompt_tokens=counts.prompt,
            image_tokens=counts.image,
            cached_tokens=counts.cached,
            completion_tokens=n_tokens,
            bytes_sent=self.sent.n_bytes,
            first_token_time=self._first_token_time,
            total_time=time.monotonic() - self._started,
        )
        tokens = tuple(self._tokens or ())
        return Chunk(self._stage, text, reasoning, n_tokens, finish, usage, self._first_token.probabilities, tokens)

    def _check_empty(self, finish: FinishReason) -> None:
        """Raise :class:`EngineError` if the empty answer is none: something else came in its place.

        Reasoning that ``max_tokens`` cut off is no error: the finish reason says why there is no more.
        """
        if self._tool:
            raise EngineError(
                f"{self.sent.url} answered with a call of the tool {self._tool!r} and no text; this engine offers "
                "no tools: start the server without its own."
            )
        if self._reasoned and finish == "stop" and not self._may_be_empty:
            raise EngineError(
                f"{self.sent.url} sent reasoning and no answer: check that the server's reasoning parser is the one of "
                "its model, and start it without one for a model that does not reason."
            )


def _image_input(usual: int, context_length: int | None) -> ImageInput:
    most = _MOST_IMAGE_TOKENS if context_length is None else min(_MOST_IMAGE_TOKENS, context_length - 1)
    most = max(usual, most)
    return ImageInput(max_tokens=most, default_tokens=usual)


def _servers(
    base_urls: Sequence[str], api_key_env: str, api_key_file: str, connect_timeout: float, patience: Patience
) -> list[Server]:
    """Create a server for each address, with one HTTP client for all; raises :class:`ModelNotFound`."""
    key = find_key(api_key_env, api_key_file)
    addresses = find_addresses(base_urls, key)
    encrypted = any(address.url.startswith("https:") for address in addresses)
    try:
        client = httpx.AsyncClient(
            # Loading the CA certificates takes a while, so it is skipped when no address uses https.
            verify=encrypted or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            # No compression: an event would be held back until its compressed block is complete.
            headers={"User-Agent": "qwen3vl_ros", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(None, connect=connect_timeout),
            limits=httpx.Limits(keepalive_expiry=_IDLE_TIME),
        )
    except (ImportError, ValueError, OSError) as error:  # a proxy or a certificate file that the environment names
        raise ModelNotFound(
            f"The environment variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE are wrong: {error}."
        ) from error
    return [Server(address, key, client, connect_timeout, patience) for address in addresses]


async def _greet_all(servers: Sequence[Server], model: str, seconds: float) -> list[Listed | Refused]:
    """Ask all servers concurrently for their model; the result has one entry for each server."""

    async def greet(server: Server) -> Listed | Refused:
        try:
            return await server.choose_model(model, seconds)
        except Refused as refused:
            return refused

    return list(await asyncio.gather(*map(greet, servers)))


def _with_empty_list(token: Token) -> Token:
    """Return ``token`` with ``[]`` among its alternatives if ``[`` is one, which Qwen's vocabulary has, told or not."""
    texts = {text for text, _ in token.all}
    return token._replace(others=(*token.others, (b"[]", 0.0))) if b"[" in texts and b"[]" not in texts else token


def _whole_characters(decoder: codecs.IncrementalDecoder, text: str) -> str:
    """Return ``text`` without a high surrogate at its end, which ``decoder`` puts in front of the next text.

    JSON may write a character as a surrogate pair, and a server may send its halves in two events.
    """
    return decoder.decode(text.encode("utf-16-le", "surrogatepass"))


def _backoff(attempt: int) -> float:
    """Return the seconds to wait after attempt 0, 1, ...; random, so that forty robots do not retry in step."""
    return min(_BACKOFF * 2.0**attempt, _BACKOFF_MAX) * random.uniform(0.5, 1.0)
