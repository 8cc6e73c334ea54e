"""The response to a chat request: OpenAI's completion, the chunks of a stream, and this package's extension of both."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from builtin_interfaces.msg import Time

from qwen3vl_ros.client.answer import Answer, Moment, Region, Usage
from qwen3vl_ros.client.answer_future import AnswerFuture
from qwen3vl_ros.client.exceptions import BadResponse
from qwen3vl_ros.gateway.tool_calls import ToolCall, ToolCallText

STAGES: Final = ("queued", "frame", "encode", "prefill", "decode")
"""Names of the stages of AskImage's feedback, by number."""


@dataclass(frozen=True, slots=True)
class ChatResponse:
    """Builds the objects of one response, which share these fields.

    ``model``: name of the model in the response. ``notes``: those about the request; the answer has its own.
    """

    model: str
    notes: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answer: Answer, *, as_json: bool, calls: ToolCallText | None = None) -> dict[str, Any]:
        """Return the whole answer.

        Args:
            answer: The answer.
            as_json: Its content is the validated JSON, without a code fence.
            calls: Finds the calls of tools in it.
        """
        message: dict[str, Any] = {"role": "assistant", "content": _content(answer, as_json=as_json), "refusal": None}
        reason = answer.finish_reason or "stop"
        if calls is not None:
            pieces = calls.finish(answer.text) or []
            message["content"] = "".join(piece for piece in pieces if isinstance(piece, str)) or None
            if calls.calls:
                message["tool_calls"] = [call_of(call) for call in calls.calls]
            elif message["content"] is None:
                message["content"] = ""
            reason = calls.finish_reason(reason)
            answer = replace(answer, notes=(*answer.notes, *calls.notes))
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": answer.model or self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": None}],
            "usage": usage_of(answer.usage),
            "qwen3vl_ros": self.extension_of(answer),
        }

    def chunk(self, delta: Mapping[str, Any], finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
        """Return a chunk of a stream."""
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}], **more)

    def usage_chunk(self, answer: Answer) -> dict[str, Any]:
        """Return the last chunk of a stream whose usage was requested."""
        return self._chunk([], usage=usage_of(answer.usage), qwen3vl_ros=self.extension_of(answer))

    def extension_of(self, answer: Answer) -> dict[str, Any]:
        """Return the fields that OpenAI's objects lack, named like those of AskImage's result."""
        return {
            "goal_id": answer.goal_id,
            "regions": [_region(region) for region in answer.regions],
            "moments": [_moment(moment) for moment in answer.moments],
            "json": answer.json,
            "image_headers": [
                {"stamp": _stamp(header.stamp), "frame_id": header.frame_id} for header in answer.image_headers
            ],
            "pixel_stamps": [_stamp(stamp) for stamp in answer.pixel_stamps],
            "image_change": answer.usage.image_change,
            "engine": answer.engine,
            "probability": answer.probability,
            "max_image_tokens": answer.usage.max_image_tokens,
            "expected_first_token_time": answer.usage.expected_first_token_time,
            "notes": [*answer.notes, *self.notes],
        }

    def _chunk(self, choices: list[Any], **more: Any) -> dict[str, Any]:
        head = {"id": self.id, "object": "chat.completion.chunk", "created": self.created, "model": self.model}
        return {**head, "choices": choices, **more}


class JsonText:
    """Streams the text of a JSON answer; one that begins with a code fence is held back until its end."""

    def __init__(self) -> None:
        self._fenced: bool | None = None
        self._blank: list[str] = []

    def streamable(self, delta: str) -> str:
        """Take ``delta`` and return the text that can be streamed: all that is certain to be part of the JSON."""
        if self._fenced is None:
            self._blank.append(delta)
            if start := delta.lstrip()[:1]:
                self._fenced = start == "`"
                delta = "".join(self._blank)
        return "" if self._fenced is not False else delta

    def final(self, answer: Answer) -> str:
        """Return the whole text at the end."""
        return _content(answer, as_json=self._fenced is not False)


def answer_of(question: AnswerFuture) -> Answer:
    """Return the answer of a question that has ended.

    JSON that max_tokens cut off is an answer, too, with ``finish_reason`` "length" and a note: a retry, which clients
    make after a server error, would be cut off again.

    Raises:
        VlmError: The question has failed otherwise.
    """
    error = question.exception()
    if isinstance(error, BadResponse) and error.answer is not None and error.answer.finish_reason == "length":
        return replace(error.answer, notes=(*error.answer.notes, str(error)))
    return question.result()


def call_of(call: ToolCall) -> dict[str, Any]:
    """Return a call of a tool."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def call_deltas(call: ToolCall, index: int) -> list[dict[str, Any]]:
    """Return the deltas of a call in a stream: its name, then its arguments."""
    begin = {**call_of(call), "index": index, "function": {"name": call.name, "arguments": ""}}
    return [{"tool_calls": [begin]}, {"tool_calls": [{"index": index, "function": {"arguments": call.arguments}}]}]


def usage_of(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's usage, with the total time in milliseconds."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "total_time_ms": round((usage.total_time or 0.0) * 1000, 1),
    }


def stage_of(stage: int, queue_position: int) -> dict[str, Any]:
    """Return the progress of a question."""
    return {"stage": STAGES[stage], "queue_position": queue_position}


def event(data: Any) -> bytes:
    """Return a server-sent event with JSON in ASCII: many clients treat characters such as U+2028 as line ends."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def comment(text: str) -> bytes:
    """Return a line that clients of server-sent events ignore, and that keeps the connection alive."""
    return f": {text}\n\n".encode()


def _content(answer: Answer, *, as_json: bool) -> str:
    return json.dumps(answer.json, ensure_ascii=False) if as_json and answer.json is not None else answer.text


def _stamp(stamp: Time) -> dict[str, int]:
    return {"sec": stamp.sec, "nanosec": stamp.nanosec}


def _moment(moment: Moment) -> dict[str, Any]:
    return {
        "label": moment.label,
        "stamp": _stamp(moment.stamp),
        "end_stamp": _stamp(moment.end_stamp),
        "image": moment.image_index,
    }


def _region(region: Region) -> dict[str, Any]:
    box, position = region.box, region.position
    return {
        "label": region.label,
        "box": None if box is None else [box.x, box.y, box.width, box.height],
        "point": None if region.point is None else list(region.point),
        "polygon": [list(corner) for corner in region.polygon],
        "image": region.image_index,
        "score": region.score,
        "spread": list(region.spread),
        "position": None if position is None else [position.x, position.y, position.z],
        "frame_id": None if position is None else position.frame_id,
        "problem": region.position_error,
    }
