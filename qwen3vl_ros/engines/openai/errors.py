"""Turns a server's failures into sentences with a way out, and decides whether a retry or another server can help."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime

import httpx

from qwen3vl_ros.engines.base import (
    BadRequest,
    EngineError,
    EngineNotReady,
    ModelNotFound,
    PromptTooLong,
    Unsupported,
)
from qwen3vl_ros.engines.openai.address import ApiKey
from qwen3vl_ros.engines.openai.reply import Complaint, read_complaint
from qwen3vl_ros.engines.openai.request import FIELDS

CHECK_ADDRESS = "Is the address right? It usually ends with /v1."

_WORDS = 300
"""Most characters of a server's error message that a sentence quotes."""

_NOT_KNOWN = re.compile(
    r"unknown|unrecogni|unsupported|(not|n't) support|not permitted|not allowed|not available|not enabled|unexpected"
    r"|reasoning_config is not configured"  # vLLM
)
_WRONG_FORM = re.compile(
    # pydantic; LM Studio, which names its types
    r"input should be|response_format\.type\W{1,3}must be"
)
_NO_IMAGES = re.compile(
    # llama.cpp; vLLM
    r"image input is not supported|is not a multimodal model|at most 0 image"
    # Ollama; OpenRouter; OpenAI
    r"|missing data required for image input|no endpoints found that support image|image_url is only supported by"
    # DeepSeek; pydantic, where a message's content is text; Groq
    r"|unknown variant \W?image_url|content\b.{0,80}input should be a valid string|content must be a string"
    r"|does(n't| not) (support|accept) (image|vision|multimodal)"
)
_TOO_LONG = re.compile(
    # OpenAI, vLLM, llama_cpp.server, SGLang; llama.cpp; vLLM
    r"context length|context size|context window|maximum model length|max_model_len|exceeds? n_ctx"
)
_EXCEEDED = re.compile(r"exceed|longer than|too long|too large|maximum context length is")
"""Distinguishes a prompt that is too long from a server that has no memory for a context of the size it names."""

_FREE = re.compile(
    # vLLM; OpenAI, older vLLM. A recent vLLM stops counting at the limit: "at least 3585 input tokens".
    r"maximum context length is (?P<context>\d{1,9}) tokens\b.{0,120}?"
    r"(?P<at_least>at least )?\b(?P<prompt>\d{1,9}) (input tokens|in the messages)"
)
_TOO_MANY_LOGPROBS = re.compile(r"logprobs of \d{1,9}, which is greater than max allowed")  # vLLM
_TITLE = re.compile("<title>", re.IGNORECASE)
_TITLE_END = re.compile("</title>", re.IGNORECASE)
_BROKEN_FINISH = ("abort", "error", "content_filter")


class Refused(Exception):
    """A server did not answer. ``error`` says why.

    ``again``: a retry after ``after`` seconds may help. ``elsewhere``: another server may answer. ``dead``: the server
    is at fault, not this question.
    """

    def __init__(
        self,
        error: EngineError,
        *,
        again: bool = False,
        elsewhere: bool = True,
        dead: bool = True,
        after: float = 0.0,
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.elsewhere = elsewhere
        self.dead = dead and elsewhere
        self.after = after


def combined(refusals: list[Refused]) -> EngineError:
    """Merge the errors of all servers into one, whose class is the one most worth a retry."""
    errors = list({str(refused.error): refused.error for refused in refusals}.values())
    if len(errors) == 1:
        return errors[0]
    text = " ".join(map(str, errors))
    for kind in (EngineNotReady, EngineError):
        if any(type(error) is kind for error in errors):
            return kind(text)
    return type(errors[0])(text)


def connection_failed(url: str, error: httpx.RequestError, words: str, seconds: float) -> Refused:
    """Explain why a connection failed.

    Args:
        url: The server's address without credentials.
        error: What httpx raised while it connected, sent or received.
        words: The redacted text of ``error``.
        seconds: The connect timeout.
    """
    causes = list(_causes(error))
    if isinstance(error, httpx.ProxyError):
        return Refused(
            EngineNotReady(
                f"{url} cannot be reached through the proxy that HTTP_PROXY, HTTPS_PROXY or ALL_PROXY names ({words}): "
                "if no proxy is needed, put its host into NO_PROXY."
            ),
            again=True,
        )
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return Refused(
            ModelNotFound(
                f"{url} shows a certificate that this machine does not trust ({words}): install its authority's "
                "certificate, or name a file with it in the environment variable SSL_CERT_FILE."
            )
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return Refused(ModelNotFound(f"{url} does not speak TLS ({words}): does its address begin with http://?"))
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return Refused(
            EngineNotReady(f"{url}: the name is not known here ({words}): is it right, and is the network up?"),
            again=True,
        )
    if isinstance(error, httpx.ConnectTimeout):
        return Refused(
            EngineNotReady(
                f"{url} does not answer within {seconds:g} s (openai.connect_timeout): is the machine on, is the "
                "address right, and does a firewall let this machine in?"
            ),
            again=True,
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return Refused(
            EngineNotReady(
                f"{url} refuses the connection: does the server run there, on that port, and does it listen on more "
                "than its own machine (`--host 0.0.0.0`)?"
            ),
            again=True,
        )
    if isinstance(error, httpx.ConnectError):
        return Refused(EngineNotReady(f"{url} cannot be reached ({words}): is the network up?"), again=True)
    return Refused(
        EngineError(
            f"{url} lost the connection before the first token ({words or type(error).__name__}): its log says why."
        ),
        again=True,
    )


def answered(
    url: str,
    status: int,
    headers: httpx.Headers,
    complaint: Complaint,
    *,
    fields: Sequence[str],
    key: ApiKey,
    n_bytes: int,
) -> Refused:
    """Explain a response with an HTTP error status other than 404.

    Args:
        url: The server's address without credentials.
        status: The HTTP status.
        headers: The response's.
        complaint: The error in the response, redacted.
        fields: The names out of :data:`FIELDS` that the request used.
        key: The API key that was sent.
        n_bytes: Size of the request's body.
    """
    words = complaint.message
    said = quoted(words)
    if refused := too_long_or_no_images(url, status, complaint):
        return refused
    if 300 <= status < 400:
        # Not followed: images and key would be sent to any address that a response names.
        return Refused(
            ModelNotFound(f"{url} redirects elsewhere ({status}){said} Put the right address into openai.base_urls.")
        )
    if status == 401 or (status == 403 and not key.value):
        if key.value:
            return Refused(ModelNotFound(f"{url} refuses the API key, which is from {key.source} ({status}){said}"))
        return Refused(ModelNotFound(f"{url} wants an API key ({status}), and there is none in {key.source}{said}"))
    if status == 403:
        return Refused(ModelNotFound(f"{url} does not allow this with the API key from {key.source} (403){said}"))
    if status == 413:
        return Refused(
            BadRequest(
                f"{url} takes no request of {n_bytes} bytes (413): lower openai.max_image_tokens or "
                f"openai.jpeg_quality, or send fewer images{said}"
            ),
            elsewhere=False,
        )
    if status == 429:
        return Refused(
            EngineNotReady(f"{url} takes no more requests for now (429){said}"),
            again=True,
            dead=False,
            after=retry_after(headers),
        )
    if status in (502, 503, 504):
        return Refused(EngineNotReady(f"{url} is not ready ({status}){said}"), again=True, after=retry_after(headers))
    field = ""
    if status < 500 or "validation error" in words.lower():
        field = _field_complained_about(complaint, fields)
    if field:  # llama_cpp.server uses status 500
        return Refused(Unsupported(f"{field}: {url} cannot honour it ({status}){said}"), elsewhere=False)
    if status >= 500 or status in (408, 425):
        return Refused(EngineError(f"{url} failed ({status}){said}"), again=True, after=retry_after(headers))
    return Refused(BadRequest(f"{url} refuses the request ({status}){said}"), elsewhere=False)


def too_long_or_no_images(url: str, status: int, complaint: Complaint) -> Refused | None:
    """Explain a refusal that says itself that the prompt is too long, or that the model takes no images; else None.

    The words count whatever the status: llama.cpp, Ollama and LocalAI use 500, OpenRouter 404.
    """
    lower, said = complaint.message.lower(), quoted(complaint.message)
    if _NO_IMAGES.search(lower):
        return Refused(Unsupported(f"images: the model of {url} takes no images{said}"), elsewhere=False)
    too_long = _TOO_LONG.search(lower) and ((400 <= status < 500 and status != 429) or _EXCEEDED.search(lower))
    if complaint.context_exceeded or too_long:
        return Refused(
            PromptTooLong(
                f"Prompt and answer do not fit the context of {url}{said} Ask with less text, fewer or smaller "
                "images (openai.max_image_tokens), or a lower max_tokens."
            ),
            elsewhere=False,
        )
    return None


def fitting_max_tokens(complaint: Complaint, max_tokens: int) -> int | None:
    """Return the ``max_tokens`` that a server has room for.

    Args:
        complaint: The server's refusal of a request with ``max_tokens``.
        max_tokens: As it was sent.

    Returns:
        ``max_tokens`` itself where the refusal is about something else or the prompt leaves no room. None: the server
        knows the room but does not say it; without ``max_tokens`` it uses all of it.
    """
    found = _FREE.search(complaint.message)
    room = int(found["context"]) - int(found["prompt"]) if found else 0
    if found is None or not 0 < room < max_tokens:
        return max_tokens
    return None if found["at_least"] else room


def is_refused(complaint: Complaint, field: str) -> bool:
    """Return whether a server says that it does not know ``field``; that it mentions it is not enough."""
    text = f"{complaint.message} {complaint.code}".lower()
    return bool(_NOT_KNOWN.search(text) and re.search(rf"\b{field}\b", f"{text} {complaint.param}"))


def are_logprobs_refused(complaint: Complaint) -> bool:
    """Return whether a server refuses to tell probabilities, or that many."""
    return (
        complaint.param in ("logprobs", "top_logprobs")
        or is_refused(complaint, "(top_)?logprobs")
        or bool(_TOO_MANY_LOGPROBS.search(complaint.message))
    )


def quoted(words: str) -> str:
    """Return the end of a sentence that quotes a server's ``words``."""
    return f": {words}" if words.endswith((".", "!", "?")) else f": {words}." if words else "."


def is_broken_off(finish: str) -> bool:
    """Return whether a finish reason says that the server has not finished the answer."""
    return finish in _BROKEN_FINISH


def complaint_in(text: str, content_type: str) -> Complaint:
    """Extract the error from the body of a response: JSON, a web page, or plain text."""
    if "html" in content_type or text.lstrip()[:1] == "<":
        title = _title(text)
        return Complaint("a web page" if title is None else f"a web page titled {one_line(title)!r}")
    try:
        complaint = read_complaint(json.loads(text.lstrip("\ufeff")))
    except (ValueError, RecursionError):
        complaint = None
    return complaint or Complaint(one_line(text))


def _title(page: str) -> str | None:
    """Return the title of a web page, None without one.

    ``<title>(.*?)</title>`` would take quadratic time on a page of many ``<title>`` without an end.
    """
    begin = _TITLE.search(page)
    end = _TITLE_END.search(page, begin.end()) if begin else None
    return page[begin.end() : end.start()] if begin and end else None


def one_line(text: str) -> str:
    """Return the beginning of ``text`` in one line, for a quotation."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * _WORDS]).split())
    return text if len(text) <= _WORDS else text[:_WORDS] + " ..."


def retry_after(headers: httpx.Headers) -> float:
    """Return the seconds that the header Retry-After asks for, as a number or a date; 0 without one.

    A date is compared with the server's header Date, if there is one: a robot's clock may be wrong.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d*)?", value):  # the standard allows whole seconds only
        return float(value)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (TypeError, ValueError):
        return 0.0
    try:
        now = parsedate_to_datetime(headers.get("date", "")).timestamp()
    except (TypeError, ValueError):
        now = time.time()
    return max(0.0, until - now)


def _field_complained_about(complaint: Complaint, fields: Sequence[str]) -> str:
    """Return the request's field that the server does not know; "" for none, or if only its value is refused."""
    text = f"{complaint.message} {complaint.code}".lower()
    if not _NOT_KNOWN.search(text) and not _WRONG_FORM.search(text):
        return ""
    param = re.split(r"[.\[]", complaint.param)[0]
    for field in fields:
        if param in FIELDS[field]:
            return field
    for field in fields:
        if any(re.search(rf"\b{called}\b", text) for called in FIELDS[field]):
            return field
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield ``error`` and its causes, including those of an exception group: a name may have several addresses."""
    while error is not None:
        yield error
        for one in getattr(error, "exceptions", ()):
            yield from _causes(one)
        error = error.__cause__ or error.__context__
