"""``POST /v1/chat/completions``: a question in either dialect, answered whole or as it comes."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Final

import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from qwen3vl_ros.asking.exceptions import BadRequest, Busy
from qwen3vl_ros.asking.question import Question
from qwen3vl_ros.web.chat_request import ChatRequest, read_json
from qwen3vl_ros.web.errors import CLIENT_CLOSED_REQUEST, ApiError, of_vlm
from qwen3vl_ros.web.following import ClientGone, Following
from qwen3vl_ros.web.form import read_form
from qwen3vl_ros.web.limits import RateLimit, Slots
from qwen3vl_ros.web.metrics import Metrics
from qwen3vl_ros.web.models import check_model
from qwen3vl_ros.web.pictures import PictureLimits, is_remote, of_data_url
from qwen3vl_ros.web.question import arguments_of, image_urls
from qwen3vl_ros.web.remote import RemotePictures
from qwen3vl_ros.web.replies import Reply
from qwen3vl_ros.web.robot import Robot, why_not
from qwen3vl_ros.web.settings import Settings
from qwen3vl_ros.web.streaming import EventStream, begun

_NOBODY_TO_TELL: Final = 3600.0
"""Seconds without news after which a whole answer's question is looked at: its progress interests nobody."""


class Chat:
    """Answers questions with ``robot``."""

    def __init__(self, robot: Robot, settings: Settings, metrics: Metrics) -> None:
        self._robot = robot
        self._timeout = settings.timeout
        self._slots = Slots(settings.concurrency)
        self._rate = RateLimit(settings.rate_limit)
        self._limits = PictureLimits(settings.max_image_bytes, settings.max_image_pixels)
        self._remote = RemotePictures(settings.remote_image_hosts)
        self._metrics = metrics
        metrics.show_running(lambda: self._slots.taken)

    async def answer(self, request: Request) -> Response:
        """The response to a question. Raises :class:`ApiError`."""
        self._rate.count(request.client.host if request.client else "unknown")
        with ExitStack() as held:
            held.enter_context(self._slots.place())
            try:
                asked, question = await self._ask(request)
                following = held.enter_context(Following(question, request.receive))
                reply = Reply(self._robot.status().model)
                if not asked.stream:
                    return await self._whole(following, reply, as_json=asked.response_schema is not None)
                await begun(following)
            except (ClientGone, ClientDisconnect):
                raise ApiError(
                    CLIENT_CLOSED_REQUEST, "client_closed_request", "the client closed the connection"
                ) from None
            return EventStream(following, reply, asked, self._metrics, held.pop_all())

    async def _ask(self, request: Request) -> tuple[ChatRequest, Question]:
        """Read the request, and send its question to the node."""
        status = self._robot.status()
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            asked, pictures = await read_form(request, self._limits)
        else:
            asked = await read_json(request)
            pictures = [await self._picture(url) for url in image_urls(asked)]
        request.state.pictures = len(pictures)
        if not status.answers:
            raise ApiError(503, "node_not_ready", why_not(status), retry_after=5)
        if status.full:  # said here, it costs the node nothing, which has no time to lose then
            raise of_vlm(Busy(f"the node's queue is full ({status.queue_length} questions wait): try again later"))
        check_model(asked.model, status.model)
        prompt, arguments = arguments_of(asked, pictures, self._timeout)
        try:
            return asked, await anyio.to_thread.run_sync(lambda: self._robot.send(prompt, **arguments))
        except BadRequest as error:
            raise of_vlm(error) from None

    async def _picture(self, url: str) -> bytes:
        if is_remote(url):
            return await self._remote.fetch(url, self._limits)
        return await anyio.to_thread.run_sync(of_data_url, url, self._limits)

    async def _whole(self, following: Following, reply: Reply, *, as_json: bool) -> Response:
        async for _ in following.news(_NOBODY_TO_TELL):
            pass
        if (error := following.question.exception()) is not None:
            raise of_vlm(error)
        answer = following.question.result()
        self._metrics.answered(answer)
        return JSONResponse(reply.completion(answer, as_json=as_json))
