"""An engine without a model: it names the mean colour of the images, whatever the question."""

from __future__ import annotations

import colorsys
import time
from collections.abc import Iterator
from dataclasses import fields

import numpy as np

from qwen3vl_ros.engines.answer_text import StopFilter
from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Cancel,
    Chunk,
    Description,
    FinishReason,
    Image,
    ImageInput,
    Options,
    Progress,
    Request,
    Stage,
    Unsupported,
    Usage,
)
from qwen3vl_ros.engines.clips import images_of
from qwen3vl_ros.engines.thinking import check_thinking

COLOURS = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (200, 30, 30),
    "green": (30, 150, 40),
    "blue": (30, 60, 200),
    "yellow": (230, 210, 40),
    "orange": (240, 130, 20),
}


class MeanColourEngine:
    """Implements :class:`qwen3vl_ros.engines.base.Engine`. A token is a word."""

    def __init__(self, max_side: int = 64, progress: Progress = lambda _: None) -> None:
        """``max_side``: images are shrunk to at most this many pixels squared before they are looked at."""
        progress("mixing the colours")
        self._description = Description(
            engine="mean_colour",
            model="arithmetic mean",
            image_input=ImageInput(multiple=1, max_tokens=max_side**2),
            supports=frozenset({"max_tokens", "stop"}),
        )

    def describe(self) -> Description:
        """What this engine is and can do."""
        return self._description

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Raises :class:`BadRequest`, :class:`BadImage`, :class:`Unsupported` before the first chunk."""
        begin = time.monotonic()
        images = self._images(request)
        limit = request.options.max_tokens
        stop = StopFilter(request.options.stop)
        count = 0
        first_token_time: float | None = None
        finish: FinishReason = "stop"
        yield Chunk(Stage.ENCODE)
        for word in _words(images):
            if cancel.is_set():
                break
            if count == limit:
                finish = "length"
                break
            count += 1
            if count == 1:
                first_token_time = time.monotonic() - begin
            yield Chunk(Stage.DECODE, stop.feed(word), completion_tokens=count)
            if stop.stopped:
                break
        if cancel.is_set():
            finish = "cancelled"
        usage = Usage(
            prompt_tokens=len(images),
            image_tokens=len(images),
            completion_tokens=count,
            first_token_time=first_token_time,
            total_time=time.monotonic() - begin,
        )
        yield Chunk(Stage.DECODE, stop.finish(), completion_tokens=count, finish_reason=finish, usage=usage)

    def close(self) -> None:
        """Nothing to free."""

    def _images(self, request: Request) -> list[Image]:
        """The images of a request that can be answered."""
        for option in fields(Options):
            if option.name not in self._description.supports and getattr(request.options, option.name) is not None:
                raise Unsupported(f"{option.name}: a mean leaves nothing to chance, so leave it unset.")
        check_thinking(request.thinking, request.max_reasoning_tokens, self._description)
        if request.response_schema is not None:
            raise Unsupported("response_schema: this engine speaks in sentences only, so leave it unset.")
        if request.choices:
            raise Unsupported("choices: this engine is never in doubt, so leave them out.")
        for message in request.messages:
            if message.role == "system":
                raise Unsupported("system_prompt: this engine takes no instructions, so leave it unset.")
            if message.role not in ("user", "assistant"):
                raise BadRequest(f"There is no role {message.role!r}; use user or assistant.")
        images = images_of(request.messages, "send one of its frames")
        if not images:
            raise Unsupported("text_only: this engine only looks at images, so send one.")
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise BadImage(f"An image is uint8 [height, width, 3], not {image.dtype} {list(image.shape)}.")
        return images


def _words(images: list[Image]) -> Iterator[str]:
    mean = np.mean([image.mean(axis=(0, 1)) for image in images], axis=0)
    name = min(COLOURS, key=lambda name: float(np.linalg.norm(COLOURS[name] - mean)))
    hue = colorsys.rgb_to_hsv(*mean)[0] * 360
    yield from (f"{word} " for word in ("On", "average", "it", "is", f"{name},", "of", "hue"))
    yield f"{hue:.0f}°."
