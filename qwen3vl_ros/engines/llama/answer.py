"""One answer: what it samples, the text that comes of it, its tokens and its times."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import BadRequest, Cancel, Chunk, FinishReason, PromptTooLong, Request, Stage, Usage
from qwen3vl_ros.engines.choices import FirstToken
from qwen3vl_ros.engines.llama.context import ImageSpan, LlamaContext, n_cells
from qwen3vl_ros.engines.llama.encoder import Encoding
from qwen3vl_ros.engines.llama.grammar import Grammar
from qwen3vl_ros.engines.llama.prompt import Prompt
from qwen3vl_ros.engines.llama.sampling import Sampler
from qwen3vl_ros.engines.llama.slots import Slot
from qwen3vl_ros.engines.llama.vision import Embedding
from qwen3vl_ros.engines.llama.vocabulary import Vocabulary
from qwen3vl_ros.engines.recommended import Recommended
from qwen3vl_ros.engines.thinking import ReasoningLimit
from qwen3vl_ros.engines.token_probabilities import Token, token_of_logits


class Answer:
    """One request on its way through the model.

    Its caller's thread makes it and reads ``chunks``, which an exception ends, too. Whichever thread ends the answer
    first decides how it ended. All else belongs to the scheduler's thread, which fills in ``slot``, ``encoding`` (while
    images are encoded), ``embeddings`` and ``encode_time``; ``rows`` counts those that are decoded of the image after
    the slot's contents. ``next_token``: sampled, not decoded; None before the first one.
    """

    def __init__(
        self,
        request: Request,
        prompt: Prompt,
        closing: Sequence[int],
        context: LlamaContext,
        vocabulary: Vocabulary,
        unset: Recommended,
        grammar: Grammar | None,
        cancel: Cancel,
        started: float,
    ) -> None:
        """Check the request.

        Args:
            request: What is asked.
            prompt: The tokens of its conversation.
            closing: Tokens that end the reasoning.
            context: The model.
            vocabulary: Of the model.
            unset: Values of the request's unset options.
            grammar: Constrains the answer, not the reasoning before it.
            cancel: Ends the answer.
            started: time.monotonic() when the request came.

        Raises:
            BadRequest: An option makes no sense.
            PromptTooLong: Prompt and images do not fit the context.
        """
        self._started = started
        self.prompt = prompt
        self._context = context
        self._vocabulary = vocabulary
        self._choices = request.choices
        self.cancel = cancel
        self._ended = False
        self._lock = threading.Lock()
        self._image_tokens = n_cells([p for p in prompt.pieces if not isinstance(p, int)])
        self._prompt_tokens, room = n_cells(prompt.pieces), context.n_ctx
        if self._prompt_tokens >= room:
            raise PromptTooLong(
                f"The prompt has {self._prompt_tokens} tokens, {self._image_tokens} of them for images, and the "
                f"context holds {room}, answer included. Ask with less text, fewer or smaller images, or raise n_ctx."
            )
        options = request.options
        if options.max_tokens is not None and options.max_tokens < 1:
            raise BadRequest(f"max_tokens: an answer has at least 1 token, not {options.max_tokens}.")
        limit = room if options.max_tokens is None else options.max_tokens
        self._limit = min(room - self._prompt_tokens + 1, limit)

        self.slot: Slot | None = None
        self.encoding: Encoding | None = None
        self.embeddings: dict[ImageSpan, Embedding] = {}
        self.encode_time = 0.0
        self.rows = 0
        self.next_token: int | None = None
        self.stage = Stage.PREFILL
        self.chunks: queue.SimpleQueue[Chunk | Exception] = queue.SimpleQueue()

        self._text = AnswerText(options.stop, prompt.reasoning)
        self._reasoning_limit = ReasoningLimit(request.max_reasoning_tokens, prompt.reasoning)
        self._closing = deque(closing)
        self._first_token = FirstToken(request.choices)
        self._tells_tokens = request.token_probabilities
        self._tokens: list[Token] = []
        self._completion_tokens = 0
        self._cached_tokens: int | None = None
        self._first_token_time: float | None = None
        with contextlib.ExitStack() as frees:

            def sampler(grammar: Grammar | None) -> Sampler:
                seen = (p for p in prompt.pieces if isinstance(p, int))
                new = Sampler(context, options, unset, grammar, seen)
                frees.callback(new.close)
                return new

            self._answering = sampler(grammar)
            # The grammar constrains the answer only; the reasoning before it is free text.
            self._reasoning = sampler(None) if grammar and prompt.reasoning else self._answering
            self._close = frees.pop_all().close

    # For any thread.

    def cancelled(self) -> bool:
        """Return whether the answer has ended or is to end."""
        return self._ended or self.cancel.is_set()

    def end(self, reason: FinishReason | Exception) -> None:
        """Send the last chunk, or the exception, unless the answer has ended already."""
        with self._lock:
            if not self._ended:
                self._ended = True
                self.chunks.put(reason if isinstance(reason, Exception) else self._last_chunk(reason))

    # For the scheduler.

    def close(self) -> None:
        """Free the samplers. Idempotent."""
        self._close()

    @property
    def encoded(self) -> bool:
        """Whether no image waits for the encoder."""
        return self.encoding is None or self.encoding.done

    @property
    def unread(self) -> bool:
        """Whether a part of the prompt is still to be decoded."""
        return self.next_token is None

    @property
    def begun(self) -> bool:
        """Whether reading the prompt has begun."""
        return self._cached_tokens is not None

    def begin(self) -> None:
        """Count what the slot has of the prompt, of which the rest is read now."""
        assert self.slot is not None
        self._cached_tokens = n_cells(self.slot.pieces)

    def enter(self, stage: Stage) -> None:
        """Tell the caller that ``stage`` begins."""
        self.stage = stage
        self.chunks.put(Chunk(stage))

    def sample(self, output: int) -> FinishReason | None:
        """Sample the next token from the logits after token ``output`` of the last batch, and send its text.

        Returns:
            Why the answer ends here; None if ``next_token`` is to be decoded.
        """
        with self._lock:
            return "cancelled" if self._ended else self._sample(output)

    def _sample(self, output: int) -> FinishReason | None:
        self.stage = Stage.DECODE
        text = self._text
        thinking = text.reasoning
        sampled = not (self._reasoning_limit.reached and self._closing)
        if sampled:
            token = (self._reasoning if thinking else self._answering).sample(output)
        else:  # written in the model's place, so no penalty counts it
            token = self._closing.popleft()
        self._completion_tokens += 1
        if self._first_token_time is None:
            self._first_token_time = time.monotonic() - self._started
            self.chunks.put(Chunk(self.stage, completion_tokens=1))
        if self._context.ends_answer(token):
            return "stop"
        written = self._context.token_bytes(token)
        answer, thought = text.feed(written)
        self._reasoning_limit.count(thinking, text.reasoning)
        if text.reasoning:
            self._first_token.reset()
            self._tokens.clear()
        elif sampled and not thinking:
            if self._tells_tokens:
                context = self._context
                self._tokens.append(
                    token_of_logits(context.logits(output), token, context.token_bytes, self._vocabulary.closed)
                )
            self._first_token.take(
                written.decode("utf-8", "replace"),
                lambda: self._vocabulary.probabilities(self._context.logits(output), self._choices),
            )
        if answer or thought:
            self.chunks.put(Chunk(self.stage, answer, thought, self._completion_tokens))
        if text.stopped:
            return "stop"
        if self._completion_tokens >= self._limit:
            return "length"
        self.next_token = token
        return None

    def _last_chunk(self, finish: FinishReason) -> Chunk:
        answer, thought = self._text.finish()
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            image_tokens=self._image_tokens,
            cached_tokens=self._cached_tokens or 0,
            completion_tokens=self._completion_tokens,
            encode_time=self.encode_time if self.prompt.images else None,
            first_token_time=self._first_token_time,
            total_time=time.monotonic() - self._started,
        )
        probabilities, tokens = self._first_token.probabilities, tuple(self._tokens)
        return Chunk(self.stage, answer, thought, self._completion_tokens, finish, usage, probabilities, tokens)
