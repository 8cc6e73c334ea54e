"""Turns a conversation into prompt tokens with the chat template of the GGUF file.

Text of the conversation never becomes control tokens: a user's ``<|im_end|>`` reaches the model as those letters.
Before rendering, a random mark is inserted wherever the conversation's text contains the first letters of a control
token. The rendered prompt is split at the texts of control tokens, the marks are removed from the pieces between them,
and each of those is tokenized at once, as the original model's tokenizers do.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import jinja2
from llama_cpp import llama_cpp as lib
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from qwen3vl_ros.engines.base import BadRequest, Image, Message, ModelNotFound, PromptTooLong, Unsupported
from qwen3vl_ros.engines.clips import FramePair
from qwen3vl_ros.engines.conversation import Conversation
from qwen3vl_ros.engines.llama.context import ImageSpan, LlamaContext, Piece
from qwen3vl_ros.engines.llama.vision import VisionTower
from qwen3vl_ros.engines.thinking import CLOSING, TEMPLATE_VARIABLE, ThinkingTemplate, opening, opens_reasoning
from qwen3vl_ros.engines.tool_template import format_of_template

_QUESTION: Final = [{"role": "user", "content": "?"}]
"""A conversation to try a template out with."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A tokenized prompt.

    ``images``: the pixels of each span in ``pieces``. ``reasoning``: the prompt ends inside ``<think>``.
    """

    pieces: list[Piece]
    images: dict[ImageSpan, Image | FramePair]
    reasoning: bool


class ChatPrompt:
    """Applies the chat template of one model."""

    def __init__(self, context: LlamaContext, vision: VisionTower | None) -> None:
        """Parse the template; raises :class:`ModelNotFound` when the model has none, or a broken one."""
        self._context = context
        self._vision = vision
        template = lib.llama_model_chat_template(context.model, None)
        if not template:
            raise ModelNotFound("The model's GGUF file has no chat template: use one made from an Instruct model.")
        self._control = context.control_tokens()
        texts = {token: text for text, token in self._control.items()}
        try:
            self._render = Jinja2ChatFormatter(
                template.decode(),
                eos_token=texts.get(lib.llama_vocab_eos(context.vocab), ""),
                bos_token=texts.get(lib.llama_vocab_bos(context.vocab), ""),
            )
        except jinja2.TemplateError as error:
            raise ModelNotFound(f"The chat template in the model's GGUF file is broken: {error}.") from error
        try:
            self.tools = format_of_template(lambda tools: self._rendered(_QUESTION, None, tools=tools))
            self.thinking = ThinkingTemplate(lambda value: self._rendered(_QUESTION, value))
        except BadRequest as error:
            raise ModelNotFound(f"The model is not one that answers questions: {error}") from error
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_text = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        # Match two letters: one alone, such as "<", may mean something to the template.
        beginnings = sorted({text[:2] for text in self._control})
        self._control_beginning = re.compile("|".join(map(re.escape, beginnings)) or r"(?!)")
        self.closing = self._tokenize(CLOSING, secrets.token_hex(8))
        """The tokens that end the reasoning."""

    def build(self, messages: Sequence[Message], thinking: bool | None = None) -> Prompt:
        """Render and tokenize a conversation.

        Args:
            messages: The conversation.
            thinking: Whether the model is to think; the template can do it.

        Raises:
            BadRequest: The chat template refuses the conversation.
            BadImage: An image is not of a size that the encoder takes.
            Unsupported: There are images, and the model has no vision part.
            PromptTooLong: The text cannot fit the context.
        """
        self._check_length(messages)
        mark = secrets.token_hex(8)

        def guard(text: str) -> str:
            return self._control_beginning.sub(lambda found: f"{found[0][0]}{mark}{found[0][1:]}", text)

        conversation = Conversation(messages, guard)
        rendered = self._rendered(conversation.messages, thinking)
        rendered += opening(rendered, thinking)
        first, *others = conversation.split(rendered)
        pieces: list[Piece] = [*self._tokenize(first, mark)]
        by_span: dict[ImageSpan, Image | FramePair] = {}
        for image, text in zip(conversation.images, others, strict=True):
            before, span, after = self._measure(image)
            pieces += [*before, span, *after, *self._tokenize(text, mark)]
            by_span[span] = image
        return Prompt(pieces, by_span, reasoning=opens_reasoning(rendered))

    def _check_length(self, messages: Sequence[Message]) -> None:
        """Refuse text that cannot fit the context before tokenizing it, which takes 1 s for 5 MB, uninterruptibly."""
        texts = (part for message in messages for part in message.content if isinstance(part, str))
        size, longest = sum(len(text.encode("utf-8", "replace")) for text in texts), self._context.longest_token
        if size > longest * self._context.n_ctx:
            raise PromptTooLong(
                f"The prompt has {size} bytes of text, which are at least {size // longest} tokens, and the context "
                f"holds {self._context.n_ctx}, answer included. Ask with less text, or raise n_ctx."
            )

    def _rendered(self, messages: list[dict[str, str]], thinking: bool | None, **more: Any) -> str:
        variables = more if thinking is None else {TEMPLATE_VARIABLE: thinking}
        try:
            return self._render(messages=messages, **variables).prompt  # type: ignore[arg-type]
        except (ValueError, TypeError, jinja2.TemplateError) as error:
            raise BadRequest(f"The model's chat template refuses this conversation: {error}.") from error

    def _measure(self, image: Image | FramePair) -> tuple[list[int], ImageSpan, list[int]]:
        if self._vision is None:
            raise Unsupported(
                "images: this model has no vision part, it answers text only. Put its mmproj file beside it, or set "
                "the mmproj path."
            )
        return self._vision.measure(image)

    def _tokenize(self, text: str, mark: str) -> list[int]:
        tokens: list[int] = []
        end = 0
        for control in self._control_text.finditer(text):
            tokens += self._plain(text[end : control.start()], mark)
            tokens.append(self._control[control[0]])
            end = control.end()
        return tokens + self._plain(text[end:], mark)

    def _plain(self, text: str, mark: str) -> list[int]:
        return self._context.tokenize(text.replace(mark, "")) if text else []
