"""The ``llama`` engine: Qwen3-VL from a GGUF file, in this process, on llama.cpp.

Uses llama-cpp-python's low-level API: its high-level one, whose MTMDChatHandler takes Qwen3-VL like any vision model,
counts M-RoPE positions instead of tokens, and clears the KV cache before each request. This engine reuses the prompt's
prefix in the KV cache and the embeddings of images, so a second question about the same image skips the slow part.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# llama.cpp's threads synchronise hundreds of times per token. At a barrier they spin, by OpenMP's default for
# milliseconds; when another program competes for the cores, the spinning threads take the time of the thread they wait
# for. Sleeping at once costs the time to wake up. docs/performance.md has figures. OpenMP reads this variable when it
# is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from llama_cpp import llama_cpp as lib

from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import (
    BadRequest,
    Cancel,
    Chunk,
    Description,
    EngineError,
    FinishReason,
    ImageInput,
    Progress,
    PromptTooLong,
    Request,
    Stage,
    Usage,
)
from qwen3vl_ros.engines.choices import FirstToken
from qwen3vl_ros.engines.llama import log
from qwen3vl_ros.engines.llama.context import CancelledError, ImageSpan, LlamaContext, n_cells
from qwen3vl_ros.engines.llama.files import find_model, parts_of
from qwen3vl_ros.engines.llama.grammar import Grammar, GrammarTokenizer
from qwen3vl_ros.engines.llama.prompt import ChatPrompt, Prompt
from qwen3vl_ros.engines.llama.sampling import Recommended, Sampler, recommended
from qwen3vl_ros.engines.llama.vision import Embedding, VisionTower
from qwen3vl_ros.engines.llama.vocabulary import Vocabulary
from qwen3vl_ros.engines.model_card import METADATA_KEY, model_card

_SUPPORTS = frozenset(
    {
        "system_prompt",
        "json_schema",
        "seed",
        "stop",
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "text_only",
        "probabilities",
    }
)


class LlamaEngine:
    """Answers with a GGUF model, one request at a time. Implements :class:`qwen3vl_ros.engines.base.Engine`."""

    def __init__(
        self,
        model: str,
        mmproj: str = "",
        n_ctx: int = 4096,
        n_batch: int = 256,
        n_threads: int = 0,
        max_image_tokens: int = 300,
        image_cache_mb: int = 64,
        progress: Progress = lambda _: None,
    ) -> None:
        """Load the model.

        Args:
            model: A GGUF file, or a folder with one.
            mmproj: The model's vision part; "" takes the file beside the model, without which the engine is text-only.
            n_ctx: Tokens of prompt and answer together; lowered to the context length the model was trained with.
            n_batch: Prompt tokens per decode call; a smaller batch reacts to a cancel sooner, a larger one is not
                faster on a CPU.
            n_threads: 0 = one per physical core. A small model decodes on one thread all the same.
            max_image_tokens: Limit for one image; the model's own may be lower.
            image_cache_mb: Memory for the embeddings of recent images, in MB (10^6 bytes).
            progress: Called with sentences about the loading.

        Raises:
            ModelNotFound: A file is missing or cannot be loaded.
            EngineNotReady: There is no memory for it now.
        """
        log.install()
        model_path, mmproj_path = find_model(model, mmproj)
        threads = n_threads or physical_cores()
        self._busy = threading.Lock()
        with contextlib.ExitStack() as frees:
            self._context = LlamaContext(model_path, n_ctx, n_batch, threads, progress)
            frees.callback(self._context.close)
            self._vision: VisionTower | None = None
            if mmproj_path is not None:
                limit = min(max_image_tokens, self._context.n_ctx - 1)
                self._vision = VisionTower(mmproj_path, self._context, limit, threads, image_cache_mb * 1_000_000)
                frees.callback(self._vision.close)
            self._prompts = ChatPrompt(self._context, self._vision)
            self._vocabulary = Vocabulary(self._context)
            self._grammars = GrammarTokenizer(self._context)
            self._close = frees.pop_all().close  # in reverse: mtmd before the model it points to
        thinking = self._prompts.thinking
        self._recommended: Recommended = recommended(self._context, thinking)
        self._description = self._describe(model_path, mmproj_path, threads, thinking)

    @staticmethod
    def probe(*, model: str, mmproj: str = "", **_: object) -> str:
        """Check that the files exist, and name the model; raises :class:`ModelNotFound`."""
        return f"{find_model(model, mmproj)[0]}, on this machine's CPU"

    @staticmethod
    def files(*, model: str, mmproj: str = "", **_: object) -> list[Path]:
        """Return the files that llama.cpp maps; raises :class:`ModelNotFound`."""
        model_path, mmproj_path = find_model(model, mmproj)
        return [*parts_of(model_path), *([] if mmproj_path is None else [mmproj_path])]

    def _describe(self, model: Path, mmproj: Path | None, threads: int, thinking: bool) -> Description:
        vision, n_ctx = self._vision, self._context.n_ctx
        name = self._context.metadata("general.name") or model.stem
        image_input = ImageInput() if vision is None else ImageInput(vision.multiple, vision.max_tokens)
        return Description(
            engine="llama",
            model=name,
            context_length=n_ctx,
            prompt_limit=n_ctx - 1,
            # Every image is enclosed by two control tokens.
            max_images=0 if vision is None else max(1, n_ctx // (vision.max_tokens + 2)),
            image_input=image_input,
            supports=_SUPPORTS,
            card=model_card(name, self._context.metadata(METADATA_KEY)),
            details={
                "file": str(model),
                "mmproj": str(mmproj or "none: text only"),
                "kind": self._context.description(),
                "reasoning": "yes" if thinking else "no",
                "threads": str(threads),
                "llama.cpp": (lib.llama_print_system_info() or b"").decode(),
            },
        )

    def describe(self) -> Description:
        """Return the description of this engine and its model."""
        return self._description

    def close(self) -> None:
        """Free the model. Idempotent; no call may follow."""
        self._close()

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Answer ``request``; see :class:`qwen3vl_ros.engines.base.Engine`.

        Completion tokens include the end-of-turn token. Stop strings apply to the answer, not to the reasoning.

        Raises:
            BadRequest: The request makes no sense; raised before any work, as are the next three.
            BadImage: An image cannot be used.
            PromptTooLong: Prompt and images do not fit the context.
            Unsupported: The request has images, and the model no vision part.
            EngineError: A request is running already, or llama.cpp failed.
        """
        if not self._busy.acquire(blocking=False):
            raise EngineError("The llama engine answers one request at a time: end or close the running one first.")
        try:
            self._context.cancel_with(cancel)
            if self._vision is not None:
                self._vision.cancel_with(cancel)
            started = time.monotonic()
            prompt = self._prompts.build(request.messages)
            answer = _Answer(self._context, self._vision, prompt, self._vocabulary, started)
            schema = request.response_schema
            grammar = None if schema is None else self._grammars.grammar(schema)
            yield from answer.run(request, self._recommended, grammar)
        finally:
            self._busy.release()


class _Answer:
    """Runs one request through the model; counts its tokens and measures its times."""

    def __init__(
        self,
        context: LlamaContext,
        vision: VisionTower | None,
        prompt: Prompt,
        vocabulary: Vocabulary,
        started: float,
    ) -> None:
        self._started = started
        self._vocabulary = vocabulary
        self._context = context
        self._vision = vision
        self._prompt = prompt
        self._stage = Stage.PREFILL
        self._completion_tokens = 0
        self._cached_tokens = 0
        self._encode_time: float | None = None
        self._first_token_time: float | None = None

    def run(self, request: Request, unset: Recommended, grammar: Grammar | None) -> Iterator[Chunk]:
        """Yield all chunks of the answer."""
        prompt, options = self._prompt, request.options
        size, room = n_cells(prompt.pieces), self._context.n_ctx
        if size >= room:
            raise PromptTooLong(
                f"The prompt has {size} tokens, {self._image_tokens()} of them for images, and the context holds "
                f"{room}, answer included. Ask with less text, fewer or smaller images, or raise n_ctx."
            )
        if options.max_tokens is not None and options.max_tokens < 1:
            raise BadRequest(f"max_tokens: an answer has at least 1 token, not {options.max_tokens}.")
        text = AnswerText(options.stop, prompt.reasoning)
        limit = min(room - size + 1, room if options.max_tokens is None else options.max_tokens)
        with contextlib.ExitStack() as frees:

            def sampler(grammar: Grammar | None) -> Sampler:
                seen = (p for p in prompt.pieces if isinstance(p, int))
                new = Sampler(self._context, options, unset, grammar, seen)
                frees.callback(new.close)
                return new

            answering = sampler(grammar)
            # The grammar constrains the answer only; the reasoning before it is free text.
            reasoning = sampler(None) if grammar and prompt.reasoning else answering
            finish: FinishReason
            first_token = FirstToken(request.choices)

            def read_probabilities() -> tuple[float, ...]:
                return self._vocabulary.probabilities(self._context.logits(), request.choices)

            try:
                yield from self._read_prompt()
                self._stage = Stage.DECODE
                while True:
                    thinking = text.reasoning
                    token = (reasoning if thinking else answering).sample()
                    self._completion_tokens += 1
                    if self._first_token_time is None:
                        self._first_token_time = time.monotonic() - self._started
                        yield Chunk(self._stage, completion_tokens=1)
                    if self._context.ends_answer(token):
                        finish = "stop"
                        break
                    written = self._context.token_bytes(token)
                    answer, thought = text.feed(written)
                    if text.reasoning:
                        first_token.reset()
                    elif not thinking:
                        first_token.take(written.decode("utf-8", "replace"), read_probabilities)
                    if answer or thought:
                        yield Chunk(self._stage, answer, thought, self._completion_tokens)
                    if text.stopped:
                        finish = "stop"
                        break
                    if self._completion_tokens >= limit:
                        finish = "length"
                        break
                    self._context.decode((token,))
            except CancelledError:
                finish = "cancelled"
        answer, thought = text.finish()
        usage = self._usage()
        yield Chunk(self._stage, answer, thought, self._completion_tokens, finish, usage, first_token.probabilities)

    def _read_prompt(self) -> Iterator[Chunk]:
        """Encode the images that are not cached, then prefill the part of the prompt that is not in the KV cache."""
        context, pieces = self._context, self._prompt.pieces
        known = context.keep_prefix(context.shared_prefix(pieces))
        self._cached_tokens = n_cells(pieces[:known])
        if self._prompt.images:
            self._encode_time = 0.0
        embeddings: dict[ImageSpan, Embedding] = {}
        if self._vision is not None:
            for span in dict.fromkeys(p for p in pieces[known:] if not isinstance(p, int)):
                kept = self._vision.cached(span)
                if kept is None:
                    if self._stage != Stage.ENCODE:
                        self._stage = Stage.ENCODE
                        yield Chunk(self._stage)
                    begun = time.monotonic()
                    kept = self._vision.encode(span, self._prompt.images[span])
                    self._encode_time = (self._encode_time or 0.0) + time.monotonic() - begun
                embeddings[span] = kept

        self._stage = Stage.PREFILL
        yield Chunk(self._stage)
        tokens: list[int] = []
        for piece in pieces[known:]:
            if isinstance(piece, int):
                tokens.append(piece)
                continue
            context.decode(tokens)
            tokens = []
            assert self._vision is not None
            self._vision.decode(piece, embeddings[piece])
        context.decode(tokens)

    def _image_tokens(self) -> int:
        return n_cells([p for p in self._prompt.pieces if not isinstance(p, int)])

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=n_cells(self._prompt.pieces),
            image_tokens=self._image_tokens(),
            cached_tokens=self._cached_tokens,
            completion_tokens=self._completion_tokens,
            encode_time=self._encode_time,
            first_token_time=self._first_token_time,
            total_time=time.monotonic() - self._started,
        )


def physical_cores() -> int:
    """Return the number of physical cores this process may run on; two threads on one core slow llama.cpp down."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            cores.add(((topology / "physical_package_id").read_text(), (topology / "core_id").read_text()))
        except OSError:  # some containers hide /sys: count every logical CPU as a core
            cores.add((str(cpu), ""))
    return len(cores)
