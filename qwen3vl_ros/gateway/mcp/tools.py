"""What the tools do: asks the node through the gateway's backend, and puts its answers into few words."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NoReturn, TypeVar

import anyio
import anyio.to_thread
from mcp_types import CallToolResult, ContentBlock, ImageContent, TextContent
from starlette.types import Message

from qwen3vl_ros.client.answer import Answer, Position, Region
from qwen3vl_ros.client.exceptions import VlmError
from qwen3vl_ros.client.watch_message import build_watch
from qwen3vl_ros.gateway.async_answer import AsyncAnswer
from qwen3vl_ros.gateway.backend import Backend, Unavailable, UnknownCamera, why_not
from qwen3vl_ros.gateway.chat_response import answer_of
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.limits import Limits
from qwen3vl_ros.gateway.mcp import arguments as tool
from qwen3vl_ros.gateway.mcp.answers import MOST_TOKENS, Pages, clipped
from qwen3vl_ros.gateway.metrics import Metrics
from qwen3vl_ros.gateway.to_goal import IMAGE_TOKENS

_NO_UPDATES: Final = 3600.0
_LABEL_TOKENS: Final = 16
_SENTENCE_TOKENS: Final = 40
_UNSURE: Final = 0.3
"""A score below which a thing counts as not found."""

_MOST_CAMERAS: Final = 8
"""Cameras that ``find`` looks through where none is named."""

_Result = TypeVar("_Result")


class ToolFailed(Exception):
    """A tool did not do what it was asked; the text is a sentence for the agent."""


class RobotTools:
    """The tools of one robot. ``call`` runs one; any number may run at a time."""

    def __init__(
        self, backend: Backend, timeout: float, limits: Limits | None = None, metrics: Metrics | None = None
    ) -> None:
        """Prepare to run tools.

        Args:
            backend: Asks the node.
            timeout: Seconds that a question may take.
            limits: Of the gateway; None for a single agent.
            metrics: Of the gateway, which count the questions.
        """
        self._backend = backend
        self._timeout = timeout
        self._limits = limits
        self._metrics = metrics
        self._pages = Pages()
        self._blocking = anyio.CapacityLimiter(4)
        self._run: Mapping[type[tool.Arguments], Callable[[Any, str], Awaitable[str | list[ContentBlock]]]] = {
            tool.Status: self._status,
            tool.Look: self._look,
            tool.Locate: self._locate,
            tool.Find: self._find,
            tool.Tasks: self._tasks,
            tool.RunTask: self._run_task,
            tool.Watch: self._watch,
            tool.RecentEvents: self._recent_events,
            tool.GetImage: self._get_image,
            tool.More: self._more,
        }

    async def call(self, arguments: tool.Arguments, client: str) -> CallToolResult:
        """Run the tool that takes these arguments; what fails is a result, too, with a sentence.

        Args:
            arguments: An instance of one of the classes in :data:`qwen3vl_ros.gateway.mcp.arguments.TOOLS`.
            client: Address of the agent, for the rate limit.
        """
        try:
            answer = await self._run[type(arguments)](arguments, client)
        except (ToolFailed, VlmError, ApiError, Unavailable, UnknownCamera) as error:
            return failure(str(error))
        content: list[ContentBlock] = [TextContent(type="text", text=answer)] if isinstance(answer, str) else answer
        return CallToolResult(content=content)

    async def _status(self, _: tool.Status, __: str) -> str:
        status, cameras = self._backend.status(), self._backend.cameras()
        fields: dict[str, Any] = {"ready": status.answers}
        if not status.answers:
            fields["why"] = clipped(why_not(status), _SENTENCE_TOKENS)
        fields["model"] = clipped(status.model, _LABEL_TOKENS)
        if status.model_card.domain:
            fields["knows"] = clipped(status.model_card.domain, _SENTENCE_TOKENS)
        shown = [
            clipped(f"{one.name}: {one.problem}" if one.problem else one.name, _SENTENCE_TOKENS) for one in cameras
        ]
        return self._pages.first({**fields, "cameras": shown}, "cameras")

    async def _look(self, look: tool.Look, client: str) -> str:
        tokens = IMAGE_TOKENS["high"] if look.detail == "high" else 0
        answer = await self._ask(client, look.question, cameras=_cameras(look.camera), max_image_tokens=tokens)
        return self._pages.first({"answer": answer.text, **_about(answer)}, "answer")

    async def _locate(self, locate: tool.Locate, client: str) -> str:
        answer = await self._ask(client, locate.thing, task="locate", cameras=_cameras(locate.camera))
        things = sorted(answer.regions, key=_score, reverse=True)
        return self._pages.first({"things": [_thing(one) for one in things], **_about(answer)}, "things")

    async def _find(self, find: tool.Find, client: str) -> str:
        cameras = [find.camera] if find.camera else [one.name for one in self._backend.cameras()][:_MOST_CAMERAS]
        reasons: list[str] = []
        for camera in cameras or [""]:
            try:
                answer = await self._ask(
                    client, find.thing, task="locate", cameras=_cameras(camera), target_frame=find.frame
                )
            except VlmError as error:
                if len(cameras) < 2:
                    raise
                reasons.append(f"{camera}: {error}")
                continue
            region = max(answer.regions, key=_score, default=None)
            reason = _why_not_found(region, find.frame)
            if region is not None and region.position is not None and not reason:
                found = {"found": True, **_place(region.position), **_thing(region, with_place=False)}
                return self._pages.first({**found, "camera": camera, **_about(answer)}, "camera")
            reasons.append(f"{camera}: {reason}" if camera else reason)
        return self._pages.first({"found": False, "why": " ".join(reasons)}, "why")

    async def _tasks(self, tasks: tool.Tasks, _: str) -> str:
        known = {task.name: task for task in await self._in_thread(self._backend.tasks)}
        if not tasks.name:
            shown = [f"{one.name}: {clipped(one.description, _SENTENCE_TOKENS)}" for one in known.values()]
            return self._pages.first({"tasks": shown}, "tasks")
        task = known.get(tasks.name) or _refuse(f"there is no task {tasks.name[:100]!r}; there are {', '.join(known)}")
        slots = []
        for slot in task.slots:
            said = f"{'prompt' if slot.name == task.main else slot.name} ({slot.type}): {slot.description}"
            said += f". One of {', '.join(slot.choices)}" if slot.choices else ""
            slots.append(clipped(said + ("" if slot.required else ". May be left out"), _SENTENCE_TOKENS))
        about = clipped(task.description, _SENTENCE_TOKENS)
        return self._pages.first({"name": task.name, "description": about, "takes": slots}, "takes")

    async def _run_task(self, run: tool.RunTask, client: str) -> str:
        answer = await self._ask(
            client, run.prompt, task=run.name, slots=run.slots or None, cameras=_cameras(run.camera)
        )
        if answer.regions:
            return self._pages.first({"things": [_thing(one) for one in answer.regions], **_about(answer)}, "things")
        return self._pages.first({"answer": answer.text, **_about(answer)}, "answer")

    async def _watch(self, watch: tool.Watch, _: str) -> str:
        watches = self._backend.watches()
        if watch.question and watch.stop:
            _refuse("give a question to start a watch, or stop to end one, not both")
        if watch.stop:
            if not await self._in_thread(watches.remove, watch.stop):
                _refuse(f"there is no watch {watch.stop[:100]!r}: watch without arguments lists them")
            return self._pages.first({"stopped": clipped(watch.stop, _SENTENCE_TOKENS)}, "stopped")
        if watch.question:
            message = build_watch(
                watch.question,
                watch_id=f"agent_{secrets.token_hex(3)}",
                cameras=_cameras(watch.camera),
                min_period=watch.every,
                max_duration=watch.minutes * 60,
            )
            name = await self._in_thread(watches.add, message)
            return self._pages.first({"watch": name, "then": "recent_events tells what it sees"}, "then")
        report = await self._in_thread(watches.report)
        shown = [
            {
                "watch": one.watch_id,
                "question": clipped(one.what, _SENTENCE_TOKENS),
                "true_now": one.active,
                **({"error": clipped(one.error, _SENTENCE_TOKENS)} if one.error else {}),
            }
            for one in report.watches
        ]
        return self._pages.first({"watches": shown}, "watches")

    async def _recent_events(self, recent: tool.RecentEvents, _: str) -> str:
        events = (await self._in_thread(self._backend.watches().report)).events
        last = max((one.number for one in events), default=-1)
        since = recent.since if recent.since <= last else -1  # the numbers began anew with the server
        shown = [
            {
                "number": one.number,
                "watch": clipped(one.watch_id, _LABEL_TOKENS),
                "kind": one.kind,
                "message": clipped(one.message, _SENTENCE_TOKENS),
                "stamp": round(one.stamp, 2),
                **({} if one.text is None else {"answer": clipped(one.text, _SENTENCE_TOKENS)}),
                **({} if one.probability is None else {"probability": round(one.probability, 2)}),
            }
            for one in events
            if one.number > since
        ]
        return self._pages.first({"last": last, "events": shown}, "events")

    async def _get_image(self, get: tool.GetImage, _: str) -> list[ContentBlock]:
        name = get.camera or next((one.name for one in self._backend.cameras()), "")
        snapshot = await self._in_thread(self._backend.snapshot, name, get.width)
        seconds, nanoseconds = snapshot.stamp
        size = [snapshot.width, snapshot.height]
        about = {"camera": name, "stamp": round(seconds + nanoseconds * 1e-9, 3), "camera_pixels": size}
        data = base64.b64encode(snapshot.jpeg).decode()
        return [
            ImageContent(type="image", data=data, mime_type="image/jpeg"),
            TextContent(type="text", text=self._pages.first(about, "camera")),
        ]

    async def _more(self, more: tool.More, _: str) -> str:
        try:
            return self._pages.rest(more.id)
        except KeyError:
            _refuse(f"nothing is kept under {more.id[:40]!r}: only the rests of the last answers are; ask again")

    async def _ask(self, client: str, prompt: str, **goal: Any) -> Answer:
        """Return the answer to a question; an agent that is gone cancels it. Raises ApiError, VlmError."""
        with self._admitted(client):
            send = partial(self._backend.send, prompt, timeout=self._timeout, **goal)
            question = await anyio.to_thread.run_sync(send)
            with AsyncAnswer(question, _nothing) as answer:
                async for _ in answer.updates(_NO_UPDATES):
                    pass
            whole = answer_of(question)
            if self._metrics is not None:
                self._metrics.answered(whole)
            return whole

    @contextmanager
    def _admitted(self, client: str) -> Iterator[None]:
        """Count a question in the gateway's limits. Raises ApiError where they are reached."""
        try:
            if self._limits is None:
                yield
                return
            self._limits.rate.count(client)
            with self._limits.slots.slot():
                yield
        except (ApiError, VlmError) as error:
            if self._metrics is not None:
                self._metrics.failed(error.code if isinstance(error, ApiError) else error.name.lower())
            raise

    async def _in_thread(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=self._blocking)


async def _nothing() -> Message:
    """Wait for ever: the SDK tells of an agent that is gone, by a cancellation."""
    await anyio.sleep_forever()
    raise AssertionError("unreachable")


def failure(sentence: str) -> CallToolResult:
    """Return the result of a tool that failed."""
    text = TextContent(type="text", text=clipped(sentence, MOST_TOKENS))
    return CallToolResult(content=[text], is_error=True)


def _refuse(sentence: str) -> NoReturn:
    raise ToolFailed(f"{sentence}.")


def _cameras(name: str) -> list[str]:
    return [name] if name else []


def _score(region: Region) -> float:
    return -1.0 if region.score is None else region.score


def _why_not_found(region: Region | None, frame: str) -> str:
    """Return why there is no position; "" where there is one."""
    if region is None:
        return "it is not seen there."
    if region.score is not None and region.score < _UNSURE:
        return f"nothing there is likely to be it: the best score is {region.score:.2f}."
    if region.position is None:
        return f"it is seen, but its position is unknown: {region.position_error or 'the camera has no depth image.'}"
    if frame and region.position.frame_id != frame:
        return f"it is seen, but the node tells its position in {region.position.frame_id!r}, not in {frame[:60]!r}."
    return ""


def _thing(region: Region, *, with_place: bool = True) -> dict[str, Any]:
    box, point = region.box, region.point
    fields: dict[str, Any] = {"label": clipped(region.label, _LABEL_TOKENS)}
    if box is not None:
        fields["box"] = [box.x, box.y, box.width, box.height]
    elif point is not None:
        fields["point"] = [round(point[0]), round(point[1])]
    if region.score is not None:
        fields["score"] = round(region.score, 2)
    if with_place and region.position is not None:
        fields |= _place(region.position)
    return fields


def _place(position: Position) -> dict[str, Any]:
    where = [round(number, 3) for number in (position.x, position.y, position.z)]
    return {"position": where, "frame": clipped(position.frame_id, _LABEL_TOKENS)}


def _about(answer: Answer) -> dict[str, Any]:
    """Return what else is worth its tokens: when the image was taken, how sure the model is, one note."""
    fields: dict[str, Any] = {}
    if (stamp := answer.stamp) is not None:
        fields["stamp"] = round(stamp.sec + stamp.nanosec * 1e-9, 3)
    if answer.probability is not None:
        fields["probability"] = round(answer.probability, 2)
    notes: Sequence[str] = answer.notes
    if answer.finish_reason == "length":
        notes = ("the model's answer was cut off: ask something shorter", *notes)
    if notes:
        fields["note"] = clipped(" ".join(notes), 2 * _SENTENCE_TOKENS)
    return fields
