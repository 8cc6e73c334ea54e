"""Converts a chat request to the prompt and the other arguments of a goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from qwen3vl_ros.gateway.chat_request import ChatRequest, ChatTurn, ImagePart, TextPart, options_of
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.request_fields import DETAILS
from qwen3vl_ros.gateway.thinking import thinking_of
from qwen3vl_ros.msg import ChatMessage

if TYPE_CHECKING:
    from qwen3vl_ros.client.goal import Arguments

_DESCRIBE: Final = "Describe the image."

_IMAGE_TOKENS: Final[Mapping[str, int | Literal["auto"]]] = {"low": 256, "auto": "auto", "high": 1024}
"""The number for OpenAI's ``detail``. There, low is 512x512 pixels, which are 256 tokens here; 1024 is the least
that the authors of Qwen3-VL advise for grounding and OCR."""


def image_urls(request: ChatRequest) -> list[str]:
    """Return the URLs of all images, in the order in which the model sees them."""
    return [part.url for turn in request.messages for part in turn.parts if isinstance(part, ImagePart)]


def to_goal(request: ChatRequest, images: Sequence[bytes], timeout: float) -> tuple[str, Arguments, tuple[str, ...]]:
    """Return the prompt, the other arguments of :meth:`VlmClient.send`, and notes on the conversion.

    Instructions at the beginning become the system prompt, the last turn becomes the question; for an image without any
    text the question asks for a description.

    Args:
        request: The chat request.
        images: The files at :func:`image_urls`.
        timeout: Of the goal, in seconds.

    Raises:
        ApiError: 400 for messages that do not form a question.
    """
    turns = list(request.messages)
    if turns[-1].role != "user":
        raise ApiError(
            400, "invalid_value", "messages: the last one has to be the user's: it is what is asked", param="messages"
        )
    instructions: list[str] = []
    while turns[0].role in ("system", "developer"):
        instructions += _texts_of(turns.pop(0))
    question = turns[-1].parts
    prompt, before = _split(question, task=bool(request.task))
    history = [_message(turn.role, turn.parts) for turn in turns[:-1] if turn.parts]
    if before:
        history.append(_message("user", before))
    own_images = any(isinstance(part, ImagePart) for part in question)
    notes: tuple[str, ...] = ()
    if not prompt.strip() and not before and not request.task:
        prompt = ""
        if not _ends_with_text_of_the_user(history):
            if not own_images and not request.cameras:
                raise ApiError(400, "invalid_value", "messages: the question has no text", param="messages")
            prompt = _DESCRIBE
            notes = (f"the question has no text: the model was asked {_DESCRIBE!r}",)
    if own_images and request.cameras:
        raise ApiError(
            400, "invalid_value", "camera: the question brings an image, too: choose one of them", param="camera"
        )
    thinking, max_reasoning_tokens = thinking_of(request)
    arguments: Arguments = {
        "images": list(images) or None,
        "cameras": request.cameras,
        "text_only": not request.cameras and not (own_images and not before),
        "system_prompt": "\n\n".join(instructions),
        "history": history,
        "task": request.task,
        "slots": request.slots,
        "response_schema": request.response_schema,
        "timeout": timeout,
        "thinking": thinking,
        "max_reasoning_tokens": max_reasoning_tokens,
        "max_image_tokens": request.max_image_tokens or _image_tokens(request),
        "new_pixels": request.new_pixels,
        "score_threshold": request.score_threshold,
    }
    arguments.update(options_of(request))  # type: ignore[typeddict-item]
    return prompt, arguments, notes


def _image_tokens(request: ChatRequest) -> int | Literal["auto"]:
    """Return the number for the highest detail that an image is asked for, 0 where none says so."""
    said = [part.detail for turn in request.messages for part in turn.parts if isinstance(part, ImagePart)]
    highest = max((DETAILS.index(detail) for detail in said if detail in DETAILS), default=-1)
    return _IMAGE_TOKENS[DETAILS[highest]] if highest >= 0 else 0


def _split(parts: list[TextPart | ImagePart], *, task: bool) -> tuple[str, list[TextPart | ImagePart]]:
    """Return the prompt, and the parts that must precede it as a separate turn.

    A goal's images precede its prompt; with a single text, or a task that it fills in, the order does not matter. If
    several texts and images alternate, their order matters: all parts but the last text become a separate turn, which
    ends with an image, since adjacent texts are merged.
    """
    if task:
        return "\n".join(part.text for part in parts if isinstance(part, TextPart)), []
    parts = _joined(parts)
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if len(texts) <= 1:
        return "".join(texts), []
    if isinstance(parts[-1], TextPart):
        return parts[-1].text, parts[:-1]
    return "", parts


def _joined(parts: Sequence[TextPart | ImagePart]) -> list[TextPart | ImagePart]:
    """Return the parts with adjacent texts merged."""
    joined: list[TextPart | ImagePart] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, TextPart) and isinstance(last, TextPart):
            joined[-1] = TextPart(type="text", text=last.text + part.text)
        else:
            joined.append(part)
    return joined


def _ends_with_text_of_the_user(history: Sequence[ChatMessage]) -> bool:
    """Return whether the turn before the question is the user's, too, and has a text that the question refers to."""
    return bool(history) and history[-1].role == "user" and any(part.strip() for part in history[-1].content)


def _texts_of(turn: ChatTurn) -> list[str]:
    if any(isinstance(part, ImagePart) for part in turn.parts):
        raise ApiError(
            400, "invalid_value", "messages: images belong to the user's turns, not to instructions", param="messages"
        )
    return [part.text for part in turn.parts if isinstance(part, TextPart)]


def _message(role: str, parts: Sequence[TextPart | ImagePart]) -> ChatMessage:
    content = [part.text if isinstance(part, TextPart) else "" for part in parts]
    return ChatMessage(role="system" if role == "developer" else role, content=content)
