"""Converts a chat request to the prompt and the other arguments of a goal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from qwen3vl_ros.client.clip_files import frame_messages
from qwen3vl_ros.gateway.chat_request import ChatRequest, ChatTurn, ImagePart, Part, TextPart, VideoPart, options_of
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.request_fields import DETAILS
from qwen3vl_ros.gateway.thinking import thinking_of
from qwen3vl_ros.msg import ChatMessage
from qwen3vl_ros.vision.clip_frames import VideoClip
from qwen3vl_ros.vision.frame_times import SECOND

if TYPE_CHECKING:
    from qwen3vl_ros.client.goal import Arguments, ImageLike

Media: TypeAlias = bytes | VideoClip
"""What is at the URL of a part: the file of an image, or the frames of a video."""

_DESCRIBE: Final = "Describe the image."
_DESCRIBE_VIDEO: Final = "Describe the video."

_IMAGE_TOKENS: Final[Mapping[str, int | Literal["auto"]]] = {"low": 256, "auto": "auto", "high": 1024}
"""The number for OpenAI's ``detail``. There, low is 512x512 pixels, which are 256 tokens here; 1024 is the least
that the authors of Qwen3-VL advise for grounding and OCR."""


def media_parts(request: ChatRequest) -> list[ImagePart | VideoPart]:
    """Return all images and videos, in the order in which the model sees them."""
    return [part for turn in request.messages for part in turn.parts if not isinstance(part, TextPart)]


def to_goal(request: ChatRequest, media: Sequence[Media], timeout: float) -> tuple[str, Arguments, tuple[str, ...]]:
    """Return the prompt, the other arguments of :meth:`VlmClient.send`, and notes on the conversion.

    Instructions at the beginning become the system prompt, the last turn becomes the question; for an image without any
    text the question asks for a description. The question's video is a clip; those of earlier turns are images, each
    after its time.

    Args:
        request: The chat request.
        media: What is at the URLs of :func:`media_parts`.
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
    clip = _check_video(question, media)
    prompt, before = _split(question, in_one=bool(request.task or clip))
    earlier = iter(media)
    history = [_message(turn.role, turn.parts, earlier) for turn in turns[:-1] if turn.parts]
    if before:
        history.append(_message("user", before, earlier))
    own_images = any(not isinstance(part, TextPart) for part in question)
    notes: tuple[str, ...] = ()
    if not prompt.strip() and not before and not request.task:
        prompt = ""
        if not _ends_with_text_of_the_user(history):
            if not own_images and not request.cameras:
                raise ApiError(400, "invalid_value", "messages: the question has no text", param="messages")
            prompt = _DESCRIBE_VIDEO if clip else _DESCRIBE
            notes = (f"the question has no text: the model was asked {prompt!r}",)
    if own_images and request.cameras:
        raise ApiError(
            400,
            "invalid_value",
            f"camera: the question brings {'a video' if clip else 'an image'}, too: choose one of them",
            param="camera",
        )
    thinking, max_reasoning_tokens = thinking_of(request)
    arguments: Arguments = {
        "images": [image for each in media for image in _images(each)] or None,
        "images_are_clip": clip is not None,
        "clip_frames": len(clip.frames) if clip else 0,
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
        "target_frame": request.target_frame,
    }
    arguments.update(options_of(request))  # type: ignore[typeddict-item]
    return prompt, arguments, notes


def _image_tokens(request: ChatRequest) -> int | Literal["auto"]:
    """Return the number for the highest detail that an image is asked for, 0 where none says so."""
    said = [part.detail for turn in request.messages for part in turn.parts if isinstance(part, ImagePart)]
    highest = max((DETAILS.index(detail) for detail in said if detail in DETAILS), default=-1)
    return _IMAGE_TOKENS[DETAILS[highest]] if highest >= 0 else 0


def _check_video(question: Sequence[Part], media: Sequence[Media]) -> VideoClip | None:
    """Return the question's video, None without one. Raises :class:`ApiError` where there is more beside it."""
    own = [part for part in question if not isinstance(part, TextPart)]
    if not any(isinstance(part, VideoPart) for part in own):
        return None
    if len(own) > 1:
        raise ApiError(
            400,
            "invalid_value",
            "messages: a question is about one video, and nothing beside it: ask about each by itself",
            param="messages",
        )
    clip = media[-1]
    assert isinstance(clip, VideoClip)
    return clip


def _images(media: Media) -> list[ImageLike]:
    """Return the images of a goal for an image or a video."""
    return [media] if isinstance(media, bytes) else list(frame_messages(media))


def _split(parts: list[Part], *, in_one: bool) -> tuple[str, list[Part]]:
    """Return the prompt, and the parts that must precede it as a separate turn.

    A goal's images precede its prompt; with a single text, a video, or a task that it fills in (``in_one``), the order
    does not matter. If
    several texts and images alternate, their order matters: all parts but the last text become a separate turn, which
    ends with an image, since adjacent texts are merged.
    """
    if in_one:
        return "\n".join(part.text for part in parts if isinstance(part, TextPart)), []
    parts = _joined(parts)
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    if len(texts) <= 1:
        return "".join(texts), []
    if isinstance(parts[-1], TextPart):
        return parts[-1].text, parts[:-1]
    return "", parts


def _joined(parts: Sequence[Part]) -> list[Part]:
    """Return the parts with adjacent texts merged."""
    joined: list[Part] = []
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
    if any(not isinstance(part, TextPart) for part in turn.parts):
        raise ApiError(
            400,
            "invalid_value",
            "messages: images and videos belong to the user's turns, not to instructions",
            param="messages",
        )
    return [part.text for part in turn.parts if isinstance(part, TextPart)]


def _message(role: str, parts: Sequence[Part], media: Iterator[Media]) -> ChatMessage:
    """Return an earlier turn; takes what is at the URLs of its parts from ``media``."""
    content: list[str] = []
    for part in parts:
        if isinstance(part, TextPart):
            content.append(part.text)
            continue
        found = next(media)
        frames = () if isinstance(found, bytes) else found.frames
        content += [text for frame in frames for text in (f"<{frame.time / SECOND:.1f} seconds>", "")] or [""]
    return ChatMessage(role="system" if role == "developer" else role, content=content)
