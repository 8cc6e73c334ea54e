"""The ``openvino`` engine: Qwen3-VL as OpenVINO IR, on OpenVINO GenAI's ContinuousBatchingPipeline.

For x86 and ARM CPUs, Intel's GPUs and NPUs. The model is a directory that optimum-intel exported: docs/openvino.md.

Here prompts are built and tokens become text. The pipeline has a process of its own (:mod:`.pipeline`), which a cancel
reaches between two steps; the cancelled answer ends at once.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import openvino
from openvino_genai import Tokenizer

from qwen3vl_ros.engines import tool_template
from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import (
    Cancel,
    Chunk,
    Description,
    FinishReason,
    ImageInput,
    ModelNotFound,
    Options,
    Progress,
    PromptTooLong,
    Request,
    Stage,
    Unsupported,
    Usage,
)
from qwen3vl_ros.engines.model_card import model_card
from qwen3vl_ros.engines.openvino.files import (
    EXPORT_COMMAND,
    MODEL_FILES,
    TILE,
    check_device,
    find_model,
    image_limits,
)
from qwen3vl_ros.engines.openvino.pipeline import Job, batches
from qwen3vl_ros.engines.openvino.pipeline_process import PipelineProcess, Run
from qwen3vl_ros.engines.openvino.prompt import ChatPrompt, Prompt, reason
from qwen3vl_ros.engines.openvino.recommended import FileSampling
from qwen3vl_ros.engines.thinking import CLOSING, ReasoningLimit, check_thinking

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
        "reasoning_budget",
        "text_only",
        "video",
    }
)

_NPU_ANSWER_SHARE = 0.25
"""Share of the context reserved for the answer on an NPU, which runs programs compiled for fixed lengths."""


class OpenvinoEngine:
    """Answers with an OpenVINO model. Implements :class:`qwen3vl_ros.engines.base.Engine`."""

    def __init__(
        self,
        model: str,
        device: str = "CPU",
        concurrency: int = 4,
        n_batch: int = 64,
        max_image_tokens: int = 300,
        context_length: int = 4096,
        properties: Mapping[str, Any] = MappingProxyType({}),
        progress: Progress = lambda _: None,
    ) -> None:
        """Load the model.

        Args:
            model: The directory of an exported model.
            device: CPU, GPU, NPU, AUTO, ...; compiling for a GPU or an NPU takes up to minutes.
            concurrency: Requests that are answered at once, on a CPU or a GPU.
            n_batch: Tokens of prompts that are read between two tokens of running answers.
            max_image_tokens: Of one image, where nobody asks for another number; the model's own limit may be lower.
            context_length: Tokens of prompt and answer together.
            properties: OpenVINO's properties of all networks, such as INFERENCE_PRECISION_HINT: JSON values.
            progress: Called with sentences about the loading.

        Raises:
            ModelNotFound: A file or the device is missing, or OpenVINO cannot load the model.
            EngineError: OpenVINO's process died while it was loading.
        """
        folder = find_model(model)
        limits = image_limits(folder)
        npu = check_device(device) == "NPU"
        self._context_length = context_length
        answer_room = int(context_length * _NPU_ANSWER_SHARE) if npu else 1
        self._prompt_limit = context_length - answer_room
        fixed = {"MAX_PROMPT_LEN": self._prompt_limit, "MIN_RESPONSE_LEN": answer_room} if npu else {}
        scheduler = {"max_num_seqs": concurrency, "max_num_batched_tokens": max(n_batch, concurrency)}
        progress(f"compiling {folder.name} for {device}")
        try:
            self._tokenizer = Tokenizer(folder)
            self._pipeline = PipelineProcess(str(folder), device, scheduler, {**properties, **fixed})
        except RuntimeError as error:
            raise ModelNotFound(
                f"OpenVINO cannot load '{model}' on {device}: {reason(error)} If the files are damaged, export it "
                f"again: `{EXPORT_COMMAND}`."
            ) from error
        most_image_tokens = min(limits.most // TILE**2, self._prompt_limit)
        max_image_tokens = min(max_image_tokens, most_image_tokens)
        self._prompts = ChatPrompt(self._tokenizer, limits, most_image_tokens, npu=npu)
        self._pieces = _Pieces(self._tokenizer)
        self._sampling = FileSampling(folder, self._prompts.thinking.by_default)
        thinking = self._prompts.thinking
        self._description = Description(
            engine="openvino",
            model=folder.resolve().name,
            context_length=context_length,
            prompt_limit=self._prompt_limit,
            # Every image is enclosed by two control tokens.
            max_images=max(1, self._prompt_limit // (max_image_tokens + 2)),
            image_input=ImageInput(TILE, most_image_tokens, default_tokens=max_image_tokens),
            concurrency=concurrency if batches(device) else 1,
            supports=_SUPPORTS - ({"text_only", "video"} if npu else set()) | thinking.abilities,
            card=model_card(folder.resolve().name),
            details={
                "directory": str(folder),
                "device": f"{device} ({full_name(device)})",
                "reasoning": thinking.detail,
                tool_template.DETAIL: tool_template.format_of_name(folder.resolve().name),
                "OpenVINO": openvino.get_version(),
            },
        )

    @staticmethod
    def probe(*, model: str, device: str = "CPU", **_: object) -> str:
        """Check that the files and the device exist, and name them; raises :class:`ModelNotFound`."""
        return f"{find_model(model)}, on {check_device(device)} ({full_name(device)})"

    @staticmethod
    def files(*, model: str, **_: object) -> list[Path]:
        """Return the files of the model, whose weights OpenVINO may map; raises :class:`ModelNotFound`."""
        folder = find_model(model)
        return [folder / name for name in MODEL_FILES]

    def describe(self) -> Description:
        """Return the description of this engine and its model."""
        return self._description

    def close(self) -> None:
        """End the pipeline's process and what it is doing. Idempotent; no call may follow."""
        self._pipeline.close()

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Answer ``request``; see :class:`qwen3vl_ros.engines.base.Engine`.

        More requests than ``concurrency`` wait in the pipeline's process. Completion tokens include the end-of-turn
        token. Stop strings apply to the answer, not to the reasoning.

        Raises:
            BadRequest: The request makes no sense; raised before any work, as are the next three, unless the reason
                is a JSON Schema that OpenVINO alone cannot follow.
            BadImage: An image cannot be used.
            PromptTooLong: Prompt and images do not fit the context.
            Unsupported: The request asks for something that OpenVINO GenAI or the model cannot do.
            EngineError: OpenVINO failed.
        """
        started = time.monotonic()
        check_thinking(request.thinking, request.max_reasoning_tokens, self._description)
        prompt = self._prompts.build(request.messages, request.thinking)
        options = self._sampling.options(request, prompt.reasoning)
        job = self._job(request, options, prompt)
        limit = ReasoningLimit(request.max_reasoning_tokens, prompt.reasoning)
        answer = _Answer(prompt, AnswerText(options.stop, prompt.reasoning), self._pieces, limit, started)
        if cancel.is_set():
            yield answer.last("cancelled")
            return
        yield Chunk(answer.stage)
        if not limit.reached:
            yield from self._follow(answer, job, cancel)
        if answer.ended:
            return
        # The pipeline takes no tokens in the middle of an answer, so the rest is the answer to a longer prompt.
        closed = self._prompts.closed(prompt, answer.written)
        yield from answer.close_reasoning(self._prompts.n_closing)
        left = None if options.max_tokens is None else options.max_tokens - answer.completion_tokens
        if closed.tokens > self._prompt_limit or (left is not None and left < 1):
            yield answer.last("length")
            return
        yield from self._follow(answer, self._job(request, replace(options, max_tokens=left), closed), cancel)

    def _follow(self, answer: _Answer, job: Job, cancel: Cancel) -> Iterator[Chunk]:
        run = self._pipeline.start(job)
        try:
            yield from answer.follow(run, cancel)
        finally:
            run.cancel()

    def _job(self, request: Request, options: Options, prompt: Prompt) -> Job:
        if prompt.tokens > self._prompt_limit:
            raise PromptTooLong(
                f"The prompt has {prompt.tokens} tokens, {prompt.image_tokens} of them for images, and may have "
                f"{self._prompt_limit} of the {self._context_length} of the context, which holds the answer too. Ask "
                "with less text, fewer or smaller images, or raise context_length."
            )
        if request.choices:
            raise Unsupported("choices: OpenVINO GenAI tells that of the token it chose alone; leave them out.")
        # The last token of an answer is never decoded, so it takes no room in the context.
        room = self._context_length - prompt.tokens + 1
        job = Job(prompt.text, tuple(prompt.images), options, room, request.response_schema, prompt.reasoning)
        job.configure(self._sampling.config())
        return job


class _Pieces:
    """Maps a token to the bytes of its text; b"" for control tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._bytes: dict[int, bytes] = {token: piece for piece, token in tokenizer.get_vocab().items()}
        # A part of a character decodes to U+FFFD, and only a control token to "".
        self._is_text = lru_cache(maxsize=None)(lambda token: tokenizer.decode([token]) != "")

    def __getitem__(self, token: int) -> bytes:
        return self._bytes.get(token, b"") if self._is_text(token) else b""


class _Answer:
    """Reads the answer to one request from the pipeline; counts its tokens and measures its times.

    ``ended``: the last chunk has come.
    """

    def __init__(
        self, prompt: Prompt, text: AnswerText, pieces: _Pieces, limit: ReasoningLimit, started: float
    ) -> None:
        self.stage = Stage.ENCODE if prompt.images else Stage.PREFILL
        self.completion_tokens = 0
        self.ended = False
        self._prompt = prompt
        self._prompt_tokens = prompt.tokens
        self._closed = False
        self._text = text
        self._pieces = pieces
        self._limit = limit
        self._written = bytearray()
        self._started = started
        self._encode_time: float | None = None
        self._first_token_time: float | None = None

    @property
    def written(self) -> str:
        """Return all of its text so far, reasoning and its marks included."""
        # An incomplete character at the end is left out.
        return codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._written))

    def follow(self, run: Run, cancel: Cancel) -> Iterator[Chunk]:
        """Yield all chunks of ``run``, or those up to the limit of the reasoning; raises :class:`EngineError`."""
        with cancel.calling(run.wake):
            while True:
                kind, content = run.events.get()
                if cancel.is_set():
                    yield self.last("cancelled")
                    return
                if kind == "error":
                    raise content
                if kind == "end":
                    finish, prompt_tokens = content
                    if not self._closed:
                        self._prompt_tokens = prompt_tokens
                    yield self.last(finish)
                    return
                if kind == "encoded":
                    self._encode_time = (self._encode_time or 0.0) + content
                    if self.stage is Stage.ENCODE:  # a device without continuous batching tells it at the end
                        self.stage = Stage.PREFILL
                        yield Chunk(self.stage)
                if kind == "tokens":
                    for token in content:
                        yield from self._read(token)
                        if self._text.stopped:
                            yield self.last("stop")
                            return
                        if self._limit.reached and not self._closed:
                            return

    def close_reasoning(self, n_tokens: int) -> Iterator[Chunk]:
        """Write what closes the reasoning, ``n_tokens`` tokens, in the model's place."""
        self._closed = True
        self.completion_tokens += n_tokens
        answer, thought = self._text.feed(CLOSING.encode())
        if answer or thought:
            yield Chunk(self.stage, answer, thought, self.completion_tokens)

    def _read(self, token: int) -> Iterator[Chunk]:
        self.completion_tokens += 1
        if self._first_token_time is None:
            self._first_token_time = time.monotonic() - self._started
            self.stage = Stage.DECODE
            yield Chunk(self.stage, completion_tokens=self.completion_tokens)
        before, piece = self._text.reasoning, self._pieces[token]
        self._written += piece
        answer, thought = self._text.feed(piece)
        self._limit.count(before, self._text.reasoning)
        if answer or thought:
            yield Chunk(self.stage, answer, thought, self.completion_tokens)

    def last(self, finish: FinishReason) -> Chunk:
        """Return the last chunk."""
        self.ended = True
        answer, thought = self._text.finish()
        usage = Usage(
            prompt_tokens=self._prompt_tokens,
            image_tokens=self._prompt.image_tokens,
            completion_tokens=self.completion_tokens,
            encode_time=self._encode_time,
            first_token_time=self._first_token_time,
            total_time=time.monotonic() - self._started,
        )
        return Chunk(self.stage, answer, thought, self.completion_tokens, finish, usage)


def full_name(device: str) -> str:
    """Return the product name of ``device``, such as a CPU's."""
    if ":" in device or device == "AUTO":
        return "whichever OpenVINO chooses"
    return str(openvino.Core().get_property(device, "FULL_DEVICE_NAME"))
