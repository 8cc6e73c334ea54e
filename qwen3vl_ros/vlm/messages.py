"""Converts between ROS messages and the plain objects of the other modules."""

from __future__ import annotations

import json
import math
from typing import Any

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point32
from std_msgs.msg import Header

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.engines.base import BadRequest
from qwen3vl_ros.engines.plain_text import output_text
from qwen3vl_ros.msg import Answer, TaskSlot, Usage
from qwen3vl_ros.msg import Region as RegionMessage
from qwen3vl_ros.msg import Task as TaskMessage
from qwen3vl_ros.prompts.request import AskRequest, Turn, images_in, merge_options
from qwen3vl_ros.prompts.schema import parse_schema
from qwen3vl_ros.prompts.tasks import Task, TaskQuestion, Tasks, parse_slots
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.clip_request import clip_request
from qwen3vl_ros.vlm.job import GoalResult, Progress
from qwen3vl_ros.vlm.parameters import MAX_REASONING_TOKENS, Settings, ready_made_tasks

_OPTION_NAMES = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("seed", "max_tokens"),
)
_THINKING = {AskImage.Goal.THINKING_UNSET: None, AskImage.Goal.THINKING_OFF: False, AskImage.Goal.THINKING_ON: True}
_THINKING_PARAMETER = {"unset": None, "off": False, "on": True}

MAX_SESSION_NAME = 256
"""Most characters of a session's name."""


def timeout_of(goal: Any, settings: Settings) -> float:
    """Return the goal's timeout in seconds; raises :class:`BadRequest`."""
    return _seconds(goal, "timeout") or settings.timeout


def request_from(goal: Any, settings: Settings, tasks: Tasks) -> AskRequest:
    """Validate an AskImage goal or an Ask request, and fill in the node's defaults for unset fields.

    Raises:
        BadRequest: The goal makes no sense; the sentence names the field.
    """
    if goal.slots and not goal.task:
        raise BadRequest("slots: they are a task's, and the goal names no task")
    task = tasks.named(goal.task) if goal.task else None
    slots = parse_slots(goal.slots)
    asked = None if task is None else task.ask(goal.prompt, slots, None)
    history = _history(goal)
    if asked is None and not goal.prompt.strip() and not (history and history[-1].role == "user"):
        raise BadRequest("prompt: it is empty, so there is nothing to ask")
    if goal.thinking not in _THINKING:
        raise BadRequest(f"thinking: {goal.thinking} is none of {', '.join(map(str, _THINKING))}")
    if goal.max_reasoning_tokens > MAX_REASONING_TOKENS:
        raise BadRequest(f"max_reasoning_tokens: {goal.max_reasoning_tokens} is outside [0, {MAX_REASONING_TOKENS}]")
    thinking = _THINKING[goal.thinking]
    default = {name: getattr(settings, name) for name in _OPTION_NAMES}
    if asked is not None:
        default |= {name: value for name in _OPTION_NAMES if (value := getattr(asked.options, name)) is not None}
    images = (*goal.images, *goal.compressed_images)
    in_history = images_in(history)
    if in_history > len(images):
        raise BadRequest(f"history: it has places for {in_history} images, and the goal brings {len(images)}")
    if goal.text_only and (len(images) > in_history or goal.cameras):
        raise BadRequest("text_only: the goal brings images or names cameras, and asks to answer without; choose one")
    if goal.session and history:
        raise BadRequest("session: the goal brings a history as well; leave one of them out")
    if len(goal.session) > MAX_SESSION_NAME:
        raise BadRequest(f"session: the name has {len(goal.session)} characters, and {MAX_SESSION_NAME} are taken")
    not_before = getattr(goal, "not_before", None)
    return AskRequest(
        prompt=goal.prompt if asked is None else asked.prompt,
        system_prompt=goal.system_prompt or (asked.system_prompt if asked else "") or settings.system_prompt,
        images=images,
        cameras=tuple(goal.cameras),
        text_only=goal.text_only,
        history=history,
        clip=clip_request(goal, len(images) - in_history, settings.clip_frames, task.clip_duration if task else 0.0),
        session=goal.session,
        not_before=0 if not_before is None else not_before.sec * 1_000_000_000 + not_before.nanosec,
        max_frame_age=_seconds(goal, "max_frame_age") or settings.max_frame_age,
        response_schema=parse_schema(goal.response_schema) or (asked.response_schema if asked else None),
        thinking=_THINKING_PARAMETER[settings.thinking] if thinking is None else thinking,
        max_reasoning_tokens=goal.max_reasoning_tokens or settings.max_reasoning_tokens or None,
        max_image_tokens=goal.max_image_tokens,
        new_pixels=goal.new_pixels,
        task_image_tokens=0 if task is None else task.max_image_tokens,
        task=goal.task,
        from_memory=task is not None and task.from_memory,
        ready_made=task is not None and task.source == str(ready_made_tasks()),
        parser=None if asked is None else asked.parser,
        min_images=1 if asked is None else asked.min_images,
        choices=() if asked is None else asked.choices,
        labels=() if asked is None else asked.labels,
        score_threshold=_score_threshold(goal, asked),
        score_threshold_asked=goal.score_threshold >= 0,
        target_frame=(getattr(goal, "target_frame", "") or settings.target_frame).lstrip("/"),
        prompt_through=None
        if task is None or not task.uses_camera
        else lambda view: task.ask(goal.prompt, slots, view).prompt,
        asked=frozenset(
            [name for name in _OPTION_NAMES if getattr(goal.options, name) >= 0]
            + ["thinking"] * (thinking is not None)
            + ["max_reasoning_tokens"] * (goal.max_reasoning_tokens > 0)
            + ["system_prompt"] * bool(goal.system_prompt)
            + ["task_system_prompt"] * bool(asked and asked.system_prompt and not goal.system_prompt)
        ),
        options=merge_options(
            {name: _value(getattr(goal.options, name)) for name in _OPTION_NAMES}
            | {"stop": tuple(goal.options.stop) or (asked.options.stop if asked else ())},
            default,
        ),
    )


def fill_result(message: Any, result: GoalResult) -> Any:
    """Write ``result`` into an AskImage result, an Ask response or an Answer, and return that."""
    if result.error is not None:
        message.error_code = result.error.code
        message.error_msg = output_text(result.error.message)
    message.text = result.text
    message.finish_reason = result.finish_reason
    message.json = output_text(result.json)  # JSON can contain an escaped half of a surrogate pair
    message.image_headers = list(result.headers)
    message.regions = [region_message(region, result.headers[region.image_index]) for region in result.regions]
    message.moments = list(result.moments)
    message.probability = _or_unknown(result.certainty.probability)
    message.probability_mass = _or_unknown(result.certainty.mass)
    message.notes = list(map(output_text, result.notes))
    message.usage = usage_message(result)
    message.engine = output_text(result.engine)
    message.model = output_text(result.model)
    if hasattr(message, "reasoning"):
        message.reasoning = result.reasoning
    if hasattr(message, "pixel_stamps"):
        message.pixel_stamps = list(result.pixel_stamps)
    return message


def position_header(region: Region, header: Header) -> Header:
    """Return the header of a region's position, given its image's."""
    return Header(stamp=header.stamp, frame_id=region.frame_id) if region.frame_id else header


def region_message(region: Region, header: Header) -> RegionMessage:
    """Convert a region of the image with that header."""
    message = RegionMessage(label=region.label, image_index=region.image_index)
    message.position_error = output_text(region.position_error)
    message.score = _or_unknown(region.score)
    message.spread = list(region.spread)
    if region.box is not None:
        left, top, right, bottom = region.box
        message.roi.x_offset, message.roi.y_offset = math.floor(left), math.floor(top)
        message.roi.width = max(1, math.ceil(right) - math.floor(left))
        message.roi.height = max(1, math.ceil(bottom) - math.floor(top))
    if region.point is not None:
        message.has_point = True
        message.point.x, message.point.y = region.point
    message.polygon.points = [Point32(x=x, y=y) for x, y in region.polygon]
    if region.position is not None:
        message.has_position = True
        message.position_covariance = list(region.position_covariance or (0.0,) * 9)
        message.position.header = position_header(region, header)
        is_point = region.box is None and not region.polygon and region.extent is None
        message.position_kind = RegionMessage.POSITION_SURFACE if is_point else RegionMessage.POSITION_CENTRE
        message.position.point.x, message.position.point.y, message.position.point.z = region.position
        if region.extent is not None:
            message.extent.x, message.extent.y, message.extent.z = region.extent
    return message


def usage_message(result: GoalResult) -> Usage:
    """Convert times and token counts."""
    usage = result.usage
    decode_time = (usage.total_time or 0.0) - (usage.first_token_time or 0.0)
    speed = (usage.completion_tokens - 1) / decode_time if usage.completion_tokens > 1 and decode_time > 0 else 0.0
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        image_tokens=usage.image_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        bytes_sent=usage.bytes_sent,
        image_change=_or_unknown(result.image_change),
        max_image_tokens=result.budget.tokens,
        expected_first_token_time=_or_unknown(result.budget.expected),
        queue_time=_or_unknown(result.queue_time),
        image_time=_or_unknown(result.image_time),
        encode_time=_or_unknown(usage.encode_time),
        first_token_time=_or_unknown(usage.first_token_time),
        total_time=result.total_time,
        tokens_per_second=speed,
    )


def fill_feedback(feedback: AskImage.Feedback, progress: Progress, sequence: int) -> None:
    """Write ``progress`` into ``feedback``."""
    feedback.stage = int(progress.stage)
    feedback.queue_position = progress.queue_position
    feedback.sequence = sequence
    feedback.delta = progress.delta
    feedback.text = progress.text or ""
    feedback.reasoning_delta = progress.reasoning_delta
    feedback.completion_tokens = progress.completion_tokens
    feedback.max_image_tokens = progress.budget.tokens
    feedback.expected_first_token_time = _or_unknown(progress.budget.expected)


def answer_message(request: AskRequest | None, goal_id: str, result: GoalResult) -> Answer:
    """Build the log entry of a finished question; the caller stamps its header."""
    answer: Answer = fill_result(Answer(), result)
    answer.goal_id = goal_id
    answer.prompt = "" if request is None else request.prompt
    answer.task = "" if request is None else request.task
    answer.session = "" if request is None else request.session
    return answer


def task_message(task: Task) -> TaskMessage:
    """Convert a task: its purpose and its slots."""
    return TaskMessage(
        name=task.name,
        description=task.description,
        main=task.main or "",
        slots=[
            TaskSlot(
                name=slot.name,
                type=slot.type,
                description=slot.description,
                required=slot.required,
                default_json=json.dumps(slot.default, ensure_ascii=False),
                choices=list(slot.choices),
            )
            for slot in task.slots.values()
        ],
        parser=task.parser,
        max_image_tokens=task.max_image_tokens,
        score_threshold=task.score_threshold,
        min_images=task.min_images,
        languages=list(task.languages),
        source=task.source,
    )


def _history(goal: Any) -> tuple[Turn, ...]:
    turns = []
    for number, message in enumerate(getattr(goal, "history", ())):
        if message.role not in ("system", "user", "assistant"):
            raise BadRequest(f"history[{number}]: there is no role {message.role!r}: use system, user or assistant")
        if not message.content:
            raise BadRequest(f"history[{number}]: it says nothing; leave it out")
        turns.append(Turn(message.role, tuple(part or None for part in message.content)))
    return tuple(turns)


def _seconds(goal: Any, name: str) -> float:
    duration: Duration | None = getattr(goal, name, None)
    if duration is None:
        return 0.0
    seconds = float(duration.sec) + float(duration.nanosec) / 1e9
    if seconds < 0:
        raise BadRequest(f"{name}: {seconds:g} s is negative; 0 means the node's default")
    return seconds


def _score_threshold(goal: Any, asked: TaskQuestion | None) -> float:
    threshold = _value(goal.score_threshold)
    if not threshold <= 1:
        raise BadRequest(
            f"score_threshold: {threshold:g} is not from 0 to 1; a negative number leaves it to the task, 0 leaves no "
            "region out"
        )
    if threshold < 0:
        return 0.0 if asked is None else asked.score_threshold
    if threshold > 0 and asked is not None and asked.parser not in ("regions", "regions_3d"):
        raise BadRequest(
            f"score_threshold: only regions have scores, and the task {asked.task!r} answers with none; leave it unset"
        )
    return threshold


def _value(value: float) -> float:
    """Return the shortest decimal of a float32, so that 0.7 is not reported as 0.699999988079071."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _or_unknown(number: float | None) -> float:
    return -1.0 if number is None else number
