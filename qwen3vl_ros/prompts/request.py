"""A validated goal: the checked content of its message, with defaults for everything unset."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

from qwen3vl_ros.engines.base import BadRequest, Clip, Description, Image, Message, Options, Unsupported
from qwen3vl_ros.prompts.camera_view import CameraView
from qwen3vl_ros.prompts.clip import ClipRequest

Role: TypeAlias = Literal["system", "user", "assistant"]

Parser: TypeAlias = Literal["text", "json", "regions", "regions_3d"]
"""How an answer is parsed."""

_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "top_k": (0, 1_000_000),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.0, 2.0),
    "presence_penalty": (0.0, 2.0),
    "frequency_penalty": (0.0, 2.0),
    "seed": (0, 2**63 - 1),
    "max_tokens": (1, 10_000_000),
}
"""Inclusive ranges of the sampling options (GenerationOptions.msg)."""

MAX_STOPS = 64
MAX_STOP_LENGTH = 256
"""Most stop strings of a goal, and most characters of one: the filter searches every token for each."""

AUTO_IMAGE_TOKENS = 2**32 - 1
"""The ``max_image_tokens`` of a goal that leaves the number to the node: AskImage.Goal.MAX_IMAGE_TOKENS_AUTO."""

MOST_IMAGE_TOKENS = 16384
"""The most tokens that Qwen3-VL's own preprocessing makes of an image: 4096x4096 pixels."""

_GAP = "\n\n"
"""Separates the texts of two merged turns."""

_OFF = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Values that leave a penalty out, which every engine can honour."""

_ABOVE_ZERO = frozenset({"top_p", "repetition_penalty"})


REAL_MODEL = "Get a real one: qwen3vl-ros model use 2b"


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier turn of the conversation: texts, and None as a placeholder for the next image of the goal."""

    role: Role
    content: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A validated goal.

    ``images``: sensor_msgs Image and CompressedImage messages; empty = take frames of ``cameras`` (names; empty = the
    first one), unless ``text_only``.
    ``history``: the earlier turns, whose images are the first of ``images``.
    ``clip``: the clip that it is about, None = single images.
    ``session``: name of a conversation that the node keeps, "" = none; ``session_tokens``: what its earlier turns take,
    once that is known.
    ``task``: its name; ``ready_made``: whether it is the package's, not the user's; ``from_memory``: whether the node's
    memory answers it, where ``prompt`` is the thing that is looked for; ``parser``: how its answer is
    parsed, None without a task; ``min_images``: how many it needs;
    ``choices``: groups of words that its answer begins with; the probability of the first group is wanted;
    ``labels``: what its regions are to be labelled with, () = anything;
    ``prompt_through``: makes its prompt once the camera is known, None if the prompt does not depend on that.
    ``asked``: names of the options, and of the next two, that the goal itself sets, and "system_prompt" where it
    does, "task_system_prompt" where its task does; the others are the node's defaults.
    ``thinking``: whether the model thinks first, None = as it does by itself; ``max_reasoning_tokens``: after which it
    has to answer, None = any number.
    ``max_image_tokens``: of the goal, 0 = the task's, which is ``task_image_tokens``; there, 0 = the engine's.
    ``max_frame_age`` in seconds, ``not_before`` in nanoseconds of the node's clock. ``new_pixels``: no earlier
    frame's pixels in the place of those of a camera that stands still. ``region``: polygon, in pixels of the camera's
    image, of what the model sees of it; () = everything.
    ``score_threshold``: regions with a lower score are left out; ``score_threshold_asked``: whether the goal says so.
    ``target_frame``: that of positions, "" = the camera's optical frame.
    """

    prompt: str
    system_prompt: str = ""
    images: tuple[Any, ...] = ()
    cameras: tuple[str, ...] = ()
    text_only: bool = False
    history: tuple[Turn, ...] = ()
    clip: ClipRequest | None = None
    session: str = ""
    session_tokens: int = 0
    not_before: int = 0
    max_frame_age: float = 2.0
    new_pixels: bool = False
    region: tuple[tuple[float, float], ...] = ()
    response_schema: Mapping[str, Any] | None = None
    thinking: bool | None = None
    max_reasoning_tokens: int | None = None
    max_image_tokens: int = 0
    task_image_tokens: int = 0
    task: str = ""
    ready_made: bool = False
    from_memory: bool = False
    parser: Parser | None = None
    min_images: int = 1
    choices: tuple[tuple[str, ...], ...] = ()
    labels: tuple[str, ...] = ()
    score_threshold: float = 0.0
    score_threshold_asked: bool = False
    target_frame: str = ""
    prompt_through: Callable[[CameraView], str] | None = None
    options: Options = field(default_factory=Options)
    asked: frozenset[str] = frozenset()

    @property
    def needs_cameras(self) -> bool:
        """Whether it needs camera frames: it has no image of its own and is not ``text_only``."""
        return not self.text_only and len(self.images) == images_in(self.history)

    def subject(self, count: int) -> int:
        """Return the index, among all ``count`` images, of the first one the question is about.

        Those are the question's own images, or the history's if it has none.
        """
        earlier = images_in(self.history)
        return earlier if count > earlier else 0


def images_in(history: Sequence[Turn]) -> int:
    """Return the number of images in these turns."""
    return sum(turn.content.count(None) for turn in history)


def conversation(
    request: AskRequest, content: Sequence[str | Image | Clip], prompt: str, earlier: Sequence[Message] = ()
) -> tuple[Message, ...]:
    """Assemble the messages for the model: instruction, history and question, without two of one role in a row.

    Args:
        request: The goal.
        content: All images and clips, fitted, and the texts that introduce them; those of the history come first.
        prompt: Text of the question for this engine.
        earlier: The turns of the request's session.
    """
    rest = iter(content)
    turns = [
        *earlier,
        *(Message(turn.role, tuple(next(rest) if p is None else p for p in turn.content)) for turn in request.history),
    ]
    if request.system_prompt:
        turns.insert(0, Message("system", (request.system_prompt,)))
    asked: tuple[str | Image | Clip, ...] = (*rest, prompt) if prompt else tuple(rest)
    return _alternating((*turns, Message("user", asked)))


def _alternating(turns: Sequence[Message]) -> tuple[Message, ...]:
    """Merge consecutive turns of one role, which many chat templates and engines refuse."""
    merged: list[Message] = []
    for turn in turns:
        content = turn.content
        if merged and merged[-1].role == turn.role:
            before = merged.pop().content
            if before and content and isinstance(before[-1], str) and isinstance(content[0], str):
                gap = "" if content[0].startswith(_GAP) else _GAP
                content = (*before[:-1], f"{before[-1]}{gap}{content[0]}", *content[1:])
            else:
                content = (*before, *content)
        merged.append(Message(turn.role, content))
    return tuple(merged)


def merge_options(asked: Mapping[str, Any], default: Mapping[str, Any]) -> Options:
    """Merge the sampling options of a goal with the node's defaults; a negative number is unset in both.

    Raises:
        BadRequest: An option is out of range; the sentence names it.
    """
    merged: dict[str, Any] = {}
    for option in fields(Options):
        name = option.name
        if name == "stop":
            continue
        value = asked.get(name, -1)
        check_option(name, value)
        if value < 0:
            value = default.get(name, -1)
            check_option(name, value)
        merged[name] = None if value < 0 else value
    stop = tuple(asked.get("stop", ()))
    if "" in stop:
        raise BadRequest("options.stop: an empty stop string would end every answer at once; leave it out")
    if len(stop) > MAX_STOPS:
        raise BadRequest(f"options.stop: there are {len(stop)} stop strings, and {MAX_STOPS} are taken")
    if (longest := max(map(len, stop), default=0)) > MAX_STOP_LENGTH:
        raise BadRequest(f"options.stop: a stop string has {longest} characters, and {MAX_STOP_LENGTH} are taken")
    return Options(**merged, stop=stop)


def check_option(name: str, value: float) -> None:
    """Raise :class:`BadRequest` unless ``value`` is negative (unset) or in the option's range."""
    low, high = _RANGES[name]
    if math.isnan(value) or value > high or (0 <= value < low) or (value == 0 and name in _ABOVE_ZERO):
        bracket = "(" if name in _ABOVE_ZERO else "["
        raise BadRequest(
            f"options.{name}: {value:g} is outside {bracket}{low:g}, {high:g}]; a negative number leaves it unset"
        )


def check_supported(request: AskRequest, description: Description) -> None:
    """Raise :class:`Unsupported`, which names the field, if the engine cannot honour a field that the goal sets."""
    used = {
        "system_prompt": bool(request.system_prompt),
        "text_only": request.text_only and not request.images,
        "stop": bool(request.options.stop),
    } | {name: getattr(request.options, name) != _OFF.get(name) for name in request.asked if name in _RANGES}
    for name, is_used in used.items():
        if is_used and name not in description.supports:
            raise Unsupported(f"{name}: engine {description.engine!r} cannot honour it; leave it unset")
    if request.score_threshold_asked and request.score_threshold > 0 and "probabilities" not in description.supports:
        raise Unsupported(
            f"score_threshold: engine {description.engine!r} tells no probabilities of its tokens, so there are no "
            "scores; leave it unset, or set it to 0"
        )
    if request.clip is not None and "video" not in description.supports:
        raise Unsupported(
            f"{request.clip.goal_field}: engine {description.engine!r} takes no clips; ask it about single images, or "
            "use an engine that does (docs/clips.md)"
        )
    card = description.card
    if request.ready_made and card.tasks and request.task not in card.tasks:
        raise Unsupported(
            f"task: the model {description.model} does not know {request.task!r}; it knows {', '.join(card.tasks)}. "
            f"{card.domain} {REAL_MODEL}"
        )
    for name in ("history", "session"):
        if getattr(request, name) and not card.conversation:
            raise Unsupported(
                f"{name}: the model {description.model} knows no conversation in engine {description.engine!r}; ask "
                "each question by itself"
            )
    # With AUTO, the one size of a fixed encoder is what is chosen; a task's number is a default, which is left out.
    if request.max_image_tokens not in (0, AUTO_IMAGE_TOKENS) and description.image_input.size is not None:
        raise Unsupported(
            f"max_image_tokens: the encoder of engine {description.engine!r} has one size; leave it (or the image's "
            "detail) unset"
        )


def card_notes(description: Description) -> list[str]:
    """Return what every answer of this model has to say about it."""
    card = description.card
    return [f"a demonstration model: {card.domain} {REAL_MODEL}"] if card.demonstration else []


def supported_options(request: AskRequest, description: Description) -> Options:
    """Return the goal's options without those defaults of the node that the engine does not support."""
    unknown: dict[str, Any] = {name: None for name in _RANGES if name not in description.supports}
    return replace(request.options, **unknown)
