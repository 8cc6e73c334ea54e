"""What is asked about a window of an index: a caption, and the things in its middle frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from qwen3vl_ros.cli.footage import Frame
from qwen3vl_ros.client.exceptions import (
    Busy,
    Cancelled,
    EngineNotReady,
    Shutdown,
    Unreachable,
    Unsupported,
    VlmError,
)
from qwen3vl_ros.index.entries import Thing

if TYPE_CHECKING:
    from qwen3vl_ros.client import VlmClient
    from qwen3vl_ros.client.answer import Answer

NODE_IS_GONE: Final = (Unreachable, Shutdown, Cancelled, EngineNotReady)
"""Errors that all other windows would get, too."""

_CAPTION_OF_CLIP: Final = "Describe in one or two sentences what this video shows and what happens in it."
_ANSWER_TOKENS: Final = 200
_MAX_SIDE: Final = 1280


class WindowQuestions:
    """Asks about windows. What the model cannot do is left out from then on, with a sentence.

    Args:
        client: Of the node.
        known: The tasks that the model knows; () for all. A model that knows only some gets no clip.
        things: What to look for, "" for nothing.
        clip: Whether to send the frames of a window as a clip for its caption.
        timeout: Seconds for each answer.
        tell: Called with each sentence.
    """

    def __init__(
        self,
        client: VlmClient,
        known: Sequence[str],
        *,
        things: str,
        clip: bool,
        timeout: float,
        tell: Callable[[str], None],
    ) -> None:
        self._client = client
        self._things = things if not known or "locate" in known else ""
        self._captions = not known or "caption" in known
        self.clip = clip and self._captions and not known
        self._timeout = timeout
        self._tell = tell
        self.failed = 0
        """Questions without an answer so far."""
        if things and not self._things:
            tell("The model does not know the task locate: windows have no named things.")
        if not self._captions:
            tell("The model does not know the task caption: windows have no caption.")
        elif known and clip:
            tell("The model knows single tasks only: captions are of the middle frame of each window, not of a clip.")

    @property
    def can_ask(self) -> bool:
        """Whether there is anything that the model can be asked."""
        return self._captions or bool(self._things)

    def ask(self, frames: Sequence[Frame], middle: Frame) -> tuple[str, tuple[Thing, ...]]:
        """Return a window's caption, "" without one, and the things in its middle frame.

        Raises:
            VlmError: The node is gone; other errors are counted.
        """
        caption = self._answer(self._caption, frames, middle)
        found = self._answer(self._locate, middle)
        things = () if found is None else tuple(_things_of(found, middle.time))
        return "" if caption is None else caption.text.strip(), things

    def _caption(self, frames: Sequence[Frame], middle: Frame) -> Answer | None:
        if self.clip and len(frames) > 1:
            try:
                return self._client.ask(
                    _CAPTION_OF_CLIP, images=_clip(frames), images_are_clip=True, clip_frames=len(frames),
                    max_tokens=_ANSWER_TOKENS, timeout=self._timeout,
                )  # fmt: skip
            except Unsupported as error:
                self.clip = False
                self._tell(f"Captions are of the middle frame of each window, not of a clip: {error}")
        if not self._captions:
            return None
        try:
            return self._client.ask(
                "", task="caption", images=middle.pixels, max_tokens=_ANSWER_TOKENS, timeout=self._timeout
            )
        except Unsupported as error:
            self._captions = False
            self._tell(f"Windows have no caption: {error}")
            return None

    def _locate(self, middle: Frame) -> Answer | None:
        if not self._things:
            return None
        try:
            return self._client.ask(self._things, task="locate", images=middle.pixels, timeout=self._timeout)
        except Unsupported as error:
            self._things = ""
            self._tell(f"Windows have no named things: {error}")
            return None

    def _answer(self, question: Callable[..., Answer | None], *about: Any) -> Answer | None:
        """Ask, and again while the node's queue is full, for as long as an answer may take."""
        end = time.monotonic() + self._timeout
        while True:
            try:
                return question(*about)
            except NODE_IS_GONE:
                raise
            except Busy as error:
                if time.monotonic() > end:
                    raise
                threading.Event().wait(error.retry_after or 1)
            except VlmError as error:
                self.failed += 1
                if self.failed == 1:
                    self._tell(f"A window lacks an answer ({error.name}): {error}")
                return None


def jpeg_of_frame(frame: Frame) -> bytes:
    """Return a frame as a JPEG file of at most 1280 pixels on each side."""
    from qwen3vl_ros.vision.jpeg import jpeg_of

    return jpeg_of(_small(frame))


def _small(frame: Frame) -> Any:
    from qwen3vl_ros.vision.clip_frames import fitted

    height, width = frame.pixels.shape[:2]
    size = fitted((width, height), _MAX_SIDE)
    if size == (width, height):
        return frame.pixels
    import cv2

    return cv2.resize(frame.pixels, size, interpolation=cv2.INTER_AREA)


def _clip(frames: Sequence[Frame]) -> Any:
    from qwen3vl_ros.client.clip_files import frame_messages
    from qwen3vl_ros.vision.clip_frames import ClipFrame, VideoClip

    height, width = frames[0].pixels.shape[:2]
    clip = tuple(ClipFrame(frame.time, jpeg_of_frame(frame)) for frame in frames)
    return frame_messages(VideoClip(clip, (width, height), (width, height)))


def _things_of(answer: Answer, time: int) -> Any:
    for region in answer.regions:
        box = region.box
        place = None if box is None else (box.x, box.y, box.width, box.height)
        yield Thing(region.label, time, place)
