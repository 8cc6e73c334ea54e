"""``POST /v1/chat/completions``: a question as JSON or as a form, answered whole or as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from qwen3vl_ros.client.answer_future import AnswerFuture
from qwen3vl_ros.client.exceptions import ServerUnavailable, VlmError
from qwen3vl_ros.gateway.async_answer import AsyncAnswer, ClientGone
from qwen3vl_ros.gateway.backend import Backend, why_not
from qwen3vl_ros.gateway.bodies import Bodies
from qwen3vl_ros.gateway.chat_request import ChatRequest, ImagePart, read_json
from qwen3vl_ros.gateway.chat_response import ChatResponse, answer_of
from qwen3vl_ros.gateway.errors import CLIENT_CLOSED_REQUEST, ApiError, of_vlm
from qwen3vl_ros.gateway.form import read_form
from qwen3vl_ros.gateway.images import ImageLimits, of_data_url, source_of
from qwen3vl_ros.gateway.limits import Limits
from qwen3vl_ros.gateway.media import MediaDirectory
from qwen3vl_ros.gateway.metrics import Metrics
from qwen3vl_ros.gateway.models import ALIAS, check_model
from qwen3vl_ros.gateway.remote import RemoteImages
from qwen3vl_ros.gateway.settings import Settings
from qwen3vl_ros.gateway.streaming import EventStream, begun
from qwen3vl_ros.gateway.to_goal import Media, media_parts, to_goal
from qwen3vl_ros.gateway.tool_request import calls_of, check_tools, tool_notes
from qwen3vl_ros.gateway.videos import Videos
from qwen3vl_ros.vision.frame_times import DEFAULT_FRAMES

_NO_KEEP_ALIVE: Final = 3600.0
"""Seconds between keep-alives of an answer that is not streamed, and needs none."""


class Chat:
    """Answers chat requests with ``backend``."""

    def __init__(self, backend: Backend, settings: Settings, metrics: Metrics, limits: Limits) -> None:
        """Prepare to answer; raises :class:`SettingsError` for a media_path that is not a directory."""
        self._backend = backend
        self._timeout = settings.timeout
        self._strict_model = settings.strict_model
        self._slots, self._rate = limits.slots, limits.rate
        # Room for the bodies of running questions and one more, so that received bodies cannot use up the memory.
        self._bodies = Bodies(settings.body_timeout, (settings.concurrency + 1) * settings.max_request_bytes)
        self._fetch_time = settings.body_timeout
        self._limits = ImageLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._remote = RemoteImages(settings.remote_image_hosts)
        self._media = MediaDirectory(settings.media_path)
        self._videos = Videos(settings)
        self._metrics = metrics
        metrics.show_running(lambda: self._slots.taken)

    async def answer(self, request: Request) -> Response:
        """Return the response to a chat request. Raises :class:`ApiError`.

        The request takes a slot only after it has arrived completely: clients may be slow, on purpose or not.
        """
        self._rate.count(request.client.host if request.client else "unknown")
        with ExitStack() as held:
            try:
                async with self._bodies.read(request) as whole:
                    chat_request, media = await self._decode(whole)
                    held.enter_context(self._slots.slot())
                request.state.images = len(media)
                question, notes = await self._send(chat_request, media)
                async_answer = held.enter_context(AsyncAnswer(question, request.receive))
                response = ChatResponse(self._backend.status().model or ALIAS, notes)
                if not chat_request.stream:
                    return await self._whole(async_answer, response, chat_request)
                await begun(async_answer)
            except (ClientGone, ClientDisconnect):
                raise ApiError(
                    CLIENT_CLOSED_REQUEST, "client_closed_request", "the client closed the connection"
                ) from None
            except VlmError as error:
                raise self._refused(error) from None
            return EventStream(async_answer, response, chat_request, self._metrics, held.pop_all())

    async def _decode(self, request: Request) -> tuple[ChatRequest, Sequence[Media]]:
        """Return the chat request in the body, with its images and videos."""
        if (encoding := request.headers.get("content-encoding", "").strip().lower()) not in ("", "identity"):
            raise ApiError(
                415,
                "unsupported_content_encoding",
                f"the body is encoded as {encoding[:40]!r} (Content-Encoding): send it as it is, images are compressed",
            )
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            return await read_form(request, self._limits)
        chat_request = await read_json(request)
        with anyio.move_on_after(self._fetch_time):
            count = chat_request.clip_frames or DEFAULT_FRAMES
            media: list[Media] = []
            for part in media_parts(chat_request):
                is_image = isinstance(part, ImagePart)
                media.append(await (self._image(part.url) if is_image else self._videos.clip(part.url, count)))
            return chat_request, media
        raise ApiError(
            400,
            "invalid_image_url",
            f"the images and videos did not arrive, or could not be decoded, within {self._fetch_time:g} s",
            param="messages",
        )

    async def _image(self, url: str) -> bytes:
        url = url.strip()
        source = source_of(url)
        if source == "http":
            return await self._remote.fetch(url, self._limits)
        read = of_data_url if source == "data" else self._media.read
        return await anyio.to_thread.run_sync(read, url, self._limits)

    async def _send(self, chat_request: ChatRequest, media: Sequence[Media]) -> tuple[AnswerFuture, tuple[str, ...]]:
        """Send the question to the node regardless of the last known state, which may be outdated."""
        if self._strict_model and (loaded := self._backend.status().model):
            check_model(chat_request.model, loaded)
        check_tools(chat_request, self._backend.status())
        prompt, arguments, notes = to_goal(chat_request, media, self._timeout)
        question = await anyio.to_thread.run_sync(lambda: self._backend.send(prompt, **arguments))
        return question, (*notes, *chat_request.notes, *tool_notes(chat_request))

    async def _whole(self, async_answer: AsyncAnswer, response: ChatResponse, chat_request: ChatRequest) -> Response:
        async for _ in async_answer.updates(_NO_KEEP_ALIVE):
            pass
        answer = answer_of(async_answer.question)
        self._metrics.answered(answer)
        as_json = chat_request.response_schema is not None
        return JSONResponse(response.completion(answer, as_json=as_json, calls=calls_of(chat_request)))

    def _refused(self, error: VlmError) -> ApiError:
        """Return the HTTP error of a failed question; if no node accepted it, with the last known state of the node."""
        status = self._backend.status()
        if isinstance(error, ServerUnavailable) and not status.answers:
            return of_vlm(type(error)(f"{error} What is known of it: {why_not(status)}."))
        return of_vlm(error)
