"""Turns of a conversation as an engine read and wrote them, and those of them that the next question gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import cv2
import numpy as np
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import Clip, Image, ImageInput, Message
from qwen3vl_ros.vision.compressed import decode_file
from qwen3vl_ros.vision.fit import Fit, fit_again
from qwen3vl_ros.vision.jpeg import jpeg_of
from qwen3vl_ros.vlm.images import InputImage

Part: TypeAlias = str | Image | Clip
"""An element of a message."""

_QUALITY = 95
_LONGEST_JPEG = 65_500


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An image that a question brought.

    ``file``: the original, a JPEG of high quality, from which it is fitted for another engine. ``parts``: the pixels
    that the engine read, uint8 [height, width, 3] RGB, several if the camera has ``tiles``; ``fits``: of each.
    ``fixed_size``: the only size (width, height) that the engine takes, None = any.
    """

    header: Header
    file: bytes
    parts: tuple[Image, ...]
    fits: tuple[Fit, ...]
    fixed_size: tuple[int, int] | None = None

    @classmethod
    def of(cls, image: InputImage, parts: Sequence[Image], read_as: ImageInput) -> KeptImage:
        """Keep ``image``, of which the engine read ``parts``."""
        return cls(image.header, _file_of(image.pixels), tuple(parts), image.fits, read_as.size)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.file) + sum(part.nbytes for part in self.parts)

    def decoded(self) -> InputImage:
        """Return it as an image that another question is about; the camera has moved on, so it has no depth."""
        return InputImage(self.header, decode_file(self.file, "A kept image"), self.fits)

    def fitted_for(self, wanted: ImageInput) -> KeptImage:
        """Return it with parts that an engine takes: those that there are, unchanged, where it takes their sizes.

        An image that was fitted to a fixed size has black bars, or less detail than another engine can see.
        """
        if wanted.size == self.fixed_size and (wanted.size or all(_takes(wanted, part) for part in self.parts)):
            return self
        pixels = decode_file(self.file, "A kept image")
        usual = replace(wanted, max_tokens=wanted.usual_tokens, min_tokens=0)
        parts, fits = zip(*(fit_again(pixels, fit, usual) for fit in self.fits), strict=True)
        return replace(self, parts=parts, fits=fits, fixed_size=wanted.size)


@dataclass(frozen=True, slots=True)
class KeptTurn:
    """A question and its answer.

    ``question``: what the engine read, images and text in their order; ``images``: those that it brought, whose parts
    are the images in ``question``. ``system_prompt``: the conversation's instruction then.
    ``tokens``: that the turn takes in a prompt, about.
    """

    question: tuple[Part, ...]
    answer: str
    images: tuple[KeptImage, ...] = ()
    system_prompt: str = ""
    tokens: int = 0

    @property
    def n_images(self) -> int:
        """Number of images that the engine reads; a part of an image counts as one, and so does a clip."""
        return count_images(self.question)

    @property
    def size(self) -> int:
        """Bytes of its images."""
        return sum(image.size for image in self.images)

    def fitted_for(self, wanted: ImageInput) -> KeptTurn:
        """Return the turn with images that an engine takes."""
        images = tuple(image.fitted_for(wanted) for image in self.images)
        if all(new is old for new, old in zip(images, self.images, strict=True)):
            return self
        parts = (part for image in images for part in image.parts)
        return replace(self, question=tuple(_with_pixels(self.question, parts)), images=images)


@dataclass(frozen=True, slots=True)
class EarlierTurns:
    """What a question gets of its conversation.

    ``turns``: the oldest first. ``left_out``: how many older ones there were; ``reason``: why the last of them went.
    """

    turns: tuple[KeptTurn, ...] = ()
    left_out: int = 0
    reason: str = ""

    @property
    def tokens(self) -> int:
        """Tokens that they take in a prompt, about."""
        return sum(turn.tokens for turn in self.turns)

    @property
    def n_images(self) -> int:
        """Number of images that the engine reads; a part of an image counts as one, and so does a clip."""
        return sum(turn.n_images for turn in self.turns)

    @property
    def size(self) -> int:
        """Bytes of their images."""
        return sum(turn.size for turn in self.turns)

    @property
    def encoded(self) -> tuple[Image, ...]:
        """What the engine encodes for them; see :func:`encoded_in`."""
        return tuple(image for turn in self.turns for image in encoded_in(turn.question))

    @property
    def newest_with_images(self) -> KeptTurn | None:
        """The last turn that brought images, None without one."""
        return next((turn for turn in reversed(self.turns) if turn.images), None)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The turns for an engine."""
        return tuple(
            message
            for turn in self.turns
            for message in (Message("user", turn.question), Message("assistant", (turn.answer,)))
        )

    @property
    def note(self) -> str:
        """A sentence about the turns that were left out, "" where none were."""
        if not self.left_out:
            return ""
        went = "oldest question was" if self.left_out == 1 else f"{self.left_out} oldest questions were"
        return f"the conversation's {went} left out, with answers and images: {self.reason}"

    def without_oldest(self, reason: str) -> EarlierTurns:
        """Return them without the oldest turn; there is one."""
        return EarlierTurns(self.turns[1:], self.left_out + 1, reason)

    def within(self, turns: int, tokens: int | None, images: int | None, *, clips: bool = True) -> EarlierTurns:
        """Return the newest of them, as many as these limits allow.

        Args:
            turns: Most turns.
            tokens: Most tokens, None = any number.
            images: Most images, None = any number.
            clips: Whether the engine takes clips.
        """
        kept = self
        while kept.turns:
            if len(kept.turns) > turns:
                kept = kept.without_oldest(f"session.max_turns keeps {turns}")
            elif tokens is not None and kept.tokens > tokens:
                kept = kept.without_oldest(f"a conversation takes {tokens} tokens at most (session.max_tokens)")
            elif images is not None and kept.n_images > images:
                kept = kept.without_oldest("the engine takes no more images")
            elif not clips and any(isinstance(part, Clip) for turn in kept.turns for part in turn.question):
                kept = kept.without_oldest("the engine takes no clips")
            else:
                break
        return kept

    def fitted_for(self, wanted: ImageInput) -> EarlierTurns:
        """Return them with images that an engine takes."""
        return replace(self, turns=tuple(turn.fitted_for(wanted) for turn in self.turns))

    def end_with(self, content: Sequence[Part]) -> bool:
        """Return whether the last turn that brought images begins with just this content: the same pixels."""
        last = self.newest_with_images
        return (
            last is not None
            and last.n_images == count_images(content)
            and all(_same(new, old) for new, old in zip(content, last.question, strict=False))
        )


def pixels_in(content: Sequence[Part]) -> list[Image]:
    """Return the images in ``content``, the frames of clips among them."""
    return [
        image
        for part in content
        if not isinstance(part, str)
        for image in (part.frames if isinstance(part, Clip) else (part,))
    ]


def encoded_in(content: Sequence[Part]) -> list[Image]:
    """Return what an engine encodes of ``content``: of a pair of frames of a clip, which costs one image, the first."""
    return [
        image
        for part in content
        if not isinstance(part, str)
        for image in (part.frames[::2] if isinstance(part, Clip) else (part,))
    ]


def count_images(content: Sequence[Part]) -> int:
    """Return the number of images in ``content``; a clip counts as one."""
    return sum(not isinstance(part, str) for part in content)


def _with_pixels(content: Sequence[Part], pixels: Iterator[Image]) -> Iterator[Part]:
    """Yield ``content`` with other images in the places of its own."""
    for part in content:
        if isinstance(part, str):
            yield part
        elif isinstance(part, Clip):
            yield Clip(tuple(next(pixels) for _ in part.frames), part.times)
        else:
            yield next(pixels)


def _same(one: Part, other: Part) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str) and one == other
    if isinstance(one, Clip) or isinstance(other, Clip):
        return False
    return one is other or np.array_equal(one, other)


def _takes(wanted: ImageInput, part: Image) -> bool:
    height, width = (int(side) for side in part.shape[:2])
    m = wanted.multiple
    return height % m == 0 and width % m == 0 and height * width <= wanted.max_tokens * m * m


def _file_of(pixels: Image) -> bytes:
    """Encode an image, as JPEG where its sides allow that, else as PNG."""
    if max(pixels.shape) > _LONGEST_JPEG:
        return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return jpeg_of(pixels, _QUALITY)
