"""Clips as Qwen3-VL reads them: pairs of frames, each after the text of its time.

The text is that of ``Qwen3VLProcessor`` in transformers 4.57.6 and 5.0, the model's own release: frames are paired in
order, an odd last frame with itself; a pair's time is the mean of its frames' times. Newer transformers leave a
``<|vision_start|>`` and a ``<|vision_end|>`` more around the whole video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qwen3vl_ros.engines.base import Clip, Image, Message, Unsupported


@dataclass(frozen=True, slots=True)
class FramePair:
    """Two frames of one size that follow each other; the encoder merges them into one image's tokens.

    ``time``: the mean of theirs, seconds.
    """

    first: Image
    second: Image
    time: float = 0.0


def frame_pairs(clip: Clip) -> Iterator[FramePair]:
    """Yield the pairs of ``clip``."""
    for index in range(0, len(clip.frames), 2):
        last = min(index + 1, len(clip.frames) - 1)
        yield FramePair(clip.frames[index], clip.frames[last], (clip.times[index] + clip.times[last]) / 2)


def time_text(seconds: float) -> str:
    """Return the text before a pair, or a frame, of that time."""
    return f"<{seconds:.1f} seconds>"


def timed_frames(clip: Clip) -> Iterator[tuple[str, Image]]:
    """Yield the frames of ``clip``, each with the text before it: for a server that takes images alone."""
    for frame, time in zip(clip.frames, clip.times, strict=True):
        yield time_text(time), frame


def images_of(messages: Sequence[Message], instead: str) -> list[Image]:
    """Return all images, in order, for an engine that takes no clips.

    Raises :class:`Unsupported` if there is a clip; ``instead`` says what to do.
    """
    images = []
    for part in (part for message in messages for part in message.content):
        if isinstance(part, Clip):
            raise Unsupported(f"video: this engine takes no clips; {instead}.")
        if not isinstance(part, str):
            images.append(part)
    return images
