"""Renders a conversation to the one string that VLMPipeline reads, and counts its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import openvino_genai

from qwen3vl_ros.engines.base import BadImage, BadRequest, Image, Message, Unsupported
from qwen3vl_ros.engines.clips import FramePair, time_text
from qwen3vl_ros.engines.conversation import Conversation
from qwen3vl_ros.engines.openvino.files import TILE, ImageLimits
from qwen3vl_ros.engines.thinking import CLOSING, TEMPLATE_VARIABLE, ThinkingTemplate, opening, opens_reasoning

# Placeholders, one for each in their order: NATIVE_TAG in openvino_genai's qwen2vl/classes.cpp, and NATIVE_VIDEO_TAG in
# qwen3_vl/classes.cpp, before which the library writes the time.
_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"

# Qwen's control tokens, and openvino_genai's own names for images and videos.
_CONTROL = re.compile(r"<(?=\|[^|<>\s]+\|>|ov_genai_(?:image|video)_)")
_ZERO_WIDTH_SPACE = "\u200b"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation rendered by the chat template.

    ``images``: in their order, a pair of frames as a video of its own.
    ``tokens`` counts text and images, ``image_tokens`` the images alone. ``reasoning``: the template has opened
    ``<think>``.
    """

    text: str
    images: Sequence[Image | FramePair]
    tokens: int
    image_tokens: int
    reasoning: bool


class ChatPrompt:
    """Applies a model's chat template and counts tokens."""

    def __init__(
        self, tokenizer: openvino_genai.Tokenizer, limits: ImageLimits, max_image_tokens: int, *, npu: bool
    ) -> None:
        """``max_image_tokens``: limit for one image. ``npu``: a prompt has an image, and no clip."""
        self._tokenizer = tokenizer
        self._limits = limits
        self._max_image_tokens = max_image_tokens
        self._npu = npu
        self.thinking = ThinkingTemplate(lambda value: self._rendered([{"role": "user", "content": "?"}], value))
        self.n_closing = self._count(CLOSING)
        """Number of the tokens that end the reasoning."""

    def build(self, messages: Sequence[Message], thinking: bool | None = None) -> Prompt:
        """Render a conversation and count its tokens.

        The pipeline takes text instead of tokens and parses control tokens in it. To keep the text of a message from
        being one, a zero-width space is inserted after the first character of each.

        Args:
            messages: The conversation.
            thinking: Whether the model is to think; the template can do it.

        Raises:
            BadRequest: The chat template refuses the conversation.
            BadImage: An image has a wrong type, shape or size.
            Unsupported: There is no image, or a clip, and the device takes no such prompt; or a clip after an image.
        """
        conversation = Conversation(messages, _harmless, write_times=False)
        images = conversation.images
        pairs = [image for image in images if isinstance(image, FramePair)]
        if pairs and self._npu:
            raise Unsupported(
                "video: OpenVINO GenAI's clips were not tried on an NPU; ask about single frames, or on the CPU."
            )
        if any(isinstance(b, FramePair) and not isinstance(a, FramePair) for a, b in pairwise(images)):
            # The answer is another one than transformers gives; with the clip first it is the same.
            raise Unsupported(
                "video: OpenVINO GenAI mixes up a clip that comes after an image. Put the clip first, or use llama."
            )
        if not images and self._npu:
            raise Unsupported("text_only: on an NPU, OpenVINO GenAI runs Qwen3-VL only with an image. Attach one.")
        rendered = self._rendered(conversation.messages, thinking)
        rendered += opening(rendered, thinking)
        first, *others = conversation.split(rendered)
        places = [_VIDEO if isinstance(image, FramePair) else _IMAGE for image in images]
        text = first + "".join(place + other for place, other in zip(places, others, strict=True))
        sizes = [self._tokens(image) for image in images]
        if pairs and 1 in sizes:
            # The video preprocessor of Qwen3-VL enlarges a pair of fewer than 4096 pixels.
            raise BadImage(f"A clip of {TILE}x{TILE} pixels is too small for this model. Enlarge it.")
        if len(sizes) > 1 and 1 in sizes:
            # The expansion of a one-token image equals _IMAGE, so the next image replaces it again, and positions are
            # written past the end of their buffer: normalize_prompt in qwen2vl/classes.cpp.
            raise BadImage(
                f"An image of {TILE}x{TILE} pixels cannot be one of several with this model, OpenVINO GenAI mixes "
                "them up. Enlarge it."
            )
        image_tokens = sum(sizes)
        return Prompt(
            text,
            images,
            tokens=self._count_all(text, images, image_tokens),
            image_tokens=image_tokens,
            reasoning=opens_reasoning(text),
        )

    def closed(self, prompt: Prompt, written: str) -> Prompt:
        """Return the prompt of an answer without more reasoning than it has.

        Args:
            prompt: The prompt of the answer so far.
            written: The text of the answer so far, whose reasoning is open.
        """
        text = f"{prompt.text}{_harmless(written)}{CLOSING}"
        tokens = self._count_all(text, prompt.images, prompt.image_tokens)
        return replace(prompt, text=text, tokens=tokens, reasoning=False)

    def _count_all(self, text: str, images: Sequence[Image | FramePair], image_tokens: int) -> int:
        """Count the tokens of a rendered text and its images, whose placeholders contain one token of each already."""
        times = sum(self._count(time_text(image.time)) for image in images if isinstance(image, FramePair))
        return self._count(text) + times + image_tokens - len(images)

    def _count(self, text: str) -> int:
        return int(self._tokenizer.encode(text).input_ids.shape[1])

    def _rendered(self, messages: list[dict[str, str]], thinking: bool | None) -> str:
        variables = {} if thinking is None else {TEMPLATE_VARIABLE: thinking}
        try:
            return str(
                self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, extra_context=variables)
            )
        except RuntimeError as error:
            raise BadRequest(f"The model's chat template refuses this conversation: {reason(error)}") from error

    def _tokens(self, image: Image | FramePair) -> int:
        if isinstance(image, FramePair):
            self._tokens(image.second)
            return self._tokens(image.first)
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


def _harmless(text: str) -> str:
    """Return ``text`` without control tokens in it."""
    return _CONTROL.sub(f"<{_ZERO_WIDTH_SPACE}", text)


_LONGEST_STRIP = 200  # smart_resize in openvino_genai's qwen2vl/classes.cpp


def reason(error: Exception) -> str:
    """Return the last line of an OpenVINO error: the message, without the source locations above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
