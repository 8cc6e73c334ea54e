"""A conversation as the one string that VLMPipeline reads, and how many tokens that is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import openvino_genai

from qwen3vl_ros.engines.base import BadImage, BadRequest, Image, Message, Unsupported
from qwen3vl_ros.engines.conversation import Conversation, opens_reasoning
from qwen3vl_ros.engines.openvino.files import TILE, ImageLimits

# Where an image belongs, in openvino_genai's qwen2vl/classes.cpp NATIVE_TAG: one for each image, in their order.
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"

# Qwen's control tokens, and openvino_genai's own names for images and videos.
_CONTROL = re.compile(r"<(?=\|[^|<>\s]+\|>|ov_genai_(?:image|video)_)")
_ZERO_WIDTH_SPACE = "\u200b"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that is ready for the pipeline: the chat template is applied.

    ``tokens`` counts all of it, ``image_tokens`` those of them that are images. ``reasoning``: the template opened
    the reasoning already.
    """

    text: str
    images: Sequence[Image]
    tokens: int
    image_tokens: int
    reasoning: bool


class ChatPrompt:
    """Applies a model's chat template and counts tokens."""

    def __init__(
        self, tokenizer: openvino_genai.Tokenizer, limits: ImageLimits, max_image_tokens: int, text_only: bool
    ) -> None:
        """``max_image_tokens``: for one image. ``text_only``: prompts without an image are possible."""
        self._tokenizer = tokenizer
        self._limits = limits
        self._max_image_tokens = max_image_tokens
        self._text_only = text_only

    def build(self, messages: Sequence[Message]) -> Prompt:
        """Raises :class:`BadRequest`, :class:`BadImage`, :class:`Unsupported`.

        The pipeline takes no tokens, only text in which it looks for control tokens: so that the text of a message can
        be none, a zero-width space parts the first character of each from the rest.
        """
        conversation = Conversation(messages, lambda text: _CONTROL.sub(f"<{_ZERO_WIDTH_SPACE}", text))
        images = conversation.images
        if not images and not self._text_only:
            raise Unsupported("text_only: on an NPU, OpenVINO GenAI runs Qwen3-VL only with an image. Attach one.")
        try:
            rendered = self._tokenizer.apply_chat_template(conversation.messages, add_generation_prompt=True)
        except RuntimeError as error:
            raise BadRequest(f"The model's chat template refuses this conversation: {reason(error)}") from error
        text = _IMAGE.join(conversation.split(rendered))
        sizes = [self._tokens(image) for image in images]
        if len(sizes) > 1 and 1 in sizes:
            # Replacing _IMAGE by its tokens does not change it, so the next image takes its place, and the
            # positions are written past the end of their memory: normalize_prompt in qwen2vl/classes.cpp.
            raise BadImage(
                f"An image of {TILE}x{TILE} pixels cannot be one of several with this model, OpenVINO GenAI mixes "
                "them up. Enlarge it."
            )
        image_tokens = sum(sizes)
        return Prompt(
            text,
            images,
            # _IMAGE has one of each image's tokens.
            tokens=int(self._tokenizer.encode(text).input_ids.shape[1]) + image_tokens - len(images),
            image_tokens=image_tokens,
            reasoning=opens_reasoning(text),
        )

    def _tokens(self, image: Image) -> int:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise BadImage(
                f"An image is a uint8 array of the shape [height, width, 3], not {image.dtype} {list(image.shape)}."
            )
        height, width, _ = image.shape
        if height % TILE or width % TILE or height * width > self._max_image_tokens * TILE**2:
            raise BadImage(
                f"An image of {width}x{height} pixels does not suit this model: width and height must be multiples of "
                f"{TILE}, with at most {self._max_image_tokens} tiles of that size."
            )
        if max(height, width) > _LONGEST_STRIP * min(height, width):
            raise BadImage(f"An image of {width}x{height} pixels is too thin a strip for this model.")
        return self._limits.tokens(width, height)


_LONGEST_STRIP = 200  # smart_resize in openvino_genai's qwen2vl/classes.cpp


def reason(error: Exception) -> str:
    """What OpenVINO says after the lines that say where it says so."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
