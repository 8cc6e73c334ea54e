"""VlmClient: what a behaviour imports to ask the robot's cameras a question.

    from qwen3vl_ros.client import VlmClient

    with VlmClient() as client:
        print(client.ask("What colour is the box?").text)

docs/client.md is the manual. ``Question`` is the former name of :class:`AnswerFuture`, for one more release.
"""

from qwen3vl_ros.client.answer import Answer, Box, Moment, Position, Region, Usage
from qwen3vl_ros.client.answer_future import AnswerFuture, AnswerStream
from qwen3vl_ros.client.clip_files import clip_of_bag, clip_of_video, frame_of_video, image_of_bag
from qwen3vl_ros.client.exceptions import (
    BadImage,
    BadRequest,
    BadResponse,
    Busy,
    Cancelled,
    EngineCrashed,
    EngineError,
    EngineFailure,
    EngineNotReady,
    GoalTimeout,
    InternalError,
    NoFrame,
    NotSpinning,
    Preempted,
    PromptTooLong,
    ServerInactive,
    ServerLost,
    ServerUnavailable,
    Shutdown,
    Unreachable,
    Unsupported,
    VlmError,
    WouldDeadlock,
)
from qwen3vl_ros.client.found import Found, find_question, found_in_answer
from qwen3vl_ros.client.goal import ImageLike
from qwen3vl_ros.client.session import Session
from qwen3vl_ros.client.tasks import Slot, Task
from qwen3vl_ros.client.vlm_client import VlmClient
from qwen3vl_ros.client.watch import WatchEvent, Watching

Question = AnswerFuture
"""The former name of :class:`AnswerFuture`."""

__all__ = [
    "Answer", "AnswerFuture", "AnswerStream", "BadImage", "BadRequest", "BadResponse", "Box", "Busy", "Cancelled",
    "EngineCrashed", "EngineError", "EngineFailure", "EngineNotReady", "Found", "GoalTimeout", "ImageLike",
    "InternalError", "Moment", "NoFrame", "NotSpinning", "Position", "Preempted", "PromptTooLong", "Question", "Region",
    "ServerInactive", "ServerLost", "ServerUnavailable", "Session", "Shutdown", "Slot", "Task", "Unreachable",
    "Unsupported", "Usage", "VlmClient", "VlmError", "WatchEvent", "Watching", "WouldDeadlock",
    "clip_of_bag", "clip_of_video", "find_question", "found_in_answer", "frame_of_video", "image_of_bag",
]  # fmt: skip
