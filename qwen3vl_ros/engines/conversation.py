"""Prepares a conversation for a chat template: as text with a mark in the place of each image or pair of frames."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from qwen3vl_ros.engines.base import BadRequest, Clip, Image, Message, Unsupported
from qwen3vl_ros.engines.clips import FramePair, frame_pairs, time_text


class Conversation:
    """``messages``: role and content of each, for the template. ``images``: what marks stand for, in their order."""

    def __init__(self, messages: Sequence[Message], guard: Callable[[str], str], *, write_times: bool = True) -> None:
        """Put the text of ``messages`` together, with a random mark, which no text can contain, for each image.

        A clip becomes a mark for each pair of its frames, after the text of its time.

        Args:
            messages: The conversation.
            guard: Makes control tokens in the text of a message harmless.
            write_times: Write those texts; False where the library does it.

        Raises:
            BadRequest: There are no messages.
        """
        if not messages:
            raise BadRequest("There is nothing to answer: the conversation has no messages.")
        self.messages: list[dict[str, str]] = []
        self.images: list[Image | FramePair] = []
        self._mark = f"image{secrets.token_hex(8)}"
        self._write_times = write_times
        for message in messages:
            texts = [self._text_of(part) for part in message.content]
            self.messages.append({"role": message.role, "content": guard("".join(texts))})

    def _text_of(self, part: str | Image | Clip) -> str:
        if isinstance(part, str):
            return part
        if not isinstance(part, Clip):
            self.images.append(part)
            return self._mark
        pairs = list(frame_pairs(part))
        self.images += pairs
        return "".join((time_text(pair.time) if self._write_times else "") + self._mark for pair in pairs)

    def split(self, rendered: str) -> list[str]:
        """Split the rendered template into the text before, between and after the images.

        Raises:
            Unsupported: The template left images out.
        """
        texts = rendered.split(self._mark)
        if len(texts) != len(self.images) + 1:
            raise Unsupported("images: the model's chat template does not take images in this place.")
        return texts
