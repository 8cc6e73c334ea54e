"""The ``openvino`` engine: Qwen3-VL as OpenVINO IR, in this process, on OpenVINO GenAI's VLMPipeline.

For Intel's CPUs, GPUs and NPUs. The model is a directory that optimum-intel exported: docs/openvino.md.

The pipeline answers one prompt at a time and can be stopped only when it emits a token, which the prefill of a long
prompt or a large image delays by seconds. So each call of the pipeline has its own thread: a cancelled answer ends at
once, its thread when the pipeline returns, and the next request waits for that.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino_genai import GenerationConfig, GenerationFinishReason, StreamerBase, StreamingStatus, VLMPipeline

from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import (
    Cancel,
    Chunk,
    Description,
    EngineError,
    FinishReason,
    ImageInput,
    Message,
    ModelNotFound,
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
from qwen3vl_ros.engines.openvino.prompt import ChatPrompt, Prompt, reason
from qwen3vl_ros.engines.openvino.sampling import configure, constraint, schema_error

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
    }
)

_NPU_ANSWER_SHARE = 0.25
"""Share of the context reserved for the answer on an NPU, which runs programs compiled for fixed lengths."""


class OpenvinoEngine:
    """Answers with an OpenVINO model, one request at a time. Implements :class:`qwen3vl_ros.engines.base.Engine`."""

    def __init__(
        self,
        model: str,
        device: str = "CPU",
        max_image_tokens: int = 300,
        context_length: int = 4096,
        progress: Progress = lambda _: None,
    ) -> None:
        """Load the model.

        Args:
            model: The directory of an exported model.
            device: CPU, GPU, NPU, AUTO, ...; compiling for a GPU or an NPU takes up to minutes.
            max_image_tokens: Limit for one image; the model's own may be lower.
            context_length: Tokens of prompt and answer together.
            progress: Called with sentences about the loading.

        Raises:
            ModelNotFound: A file or the device is missing, or OpenVINO cannot load the model.
        """
        folder = find_model(model)
        limits = image_limits(folder)
        npu = check_device(device) == "NPU"
        answer_room = int(context_length * _NPU_ANSWER_SHARE) if npu else 1
        fixed = {"MAX_PROMPT_LEN": context_length - answer_room, "MIN_RESPONSE_LEN": answer_room} if npu else {}
        progress(f"compiling {folder.name} for {device}")
        try:
            pipeline = VLMPipeline(folder, device, **fixed)
        except RuntimeError as error:
            raise ModelNotFound(
                f"OpenVINO cannot load '{model}' on {device}: {reason(error)} If the files are damaged, export it "
                f"again: `{EXPORT_COMMAND}`."
            ) from error
        self._pipeline: VLMPipeline | None = pipeline
        self._run: _Run | None = None
        self._answering = threading.Lock()
        self._context_length = context_length
        self._prompt_limit = context_length - answer_room
        max_image_tokens = min(max_image_tokens, limits.most // TILE**2, self._prompt_limit)
        tokenizer = pipeline.get_tokenizer()
        self._prompts = ChatPrompt(tokenizer, limits, max_image_tokens, text_only=not npu)
        self._pieces = _Pieces(tokenizer)
        blank = np.zeros((TILE, TILE, 3), np.uint8)
        thinking = self._prompts.build((Message("user", (blank,)),)).reasoning
        self._description = Description(
            engine="openvino",
            model=folder.resolve().name,
            context_length=context_length,
            prompt_limit=self._prompt_limit,
            # Every image is enclosed by two control tokens.
            max_images=max(1, self._prompt_limit // (max_image_tokens + 2)),
            image_input=ImageInput(TILE, max_image_tokens),
            supports=_SUPPORTS - {"text_only"} if npu else _SUPPORTS,
            card=model_card(folder.resolve().name),
            details={
                "directory": str(folder),
                "device": f"{device} ({full_name(device)})",
                "reasoning": "yes" if thinking else "no",
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
        """Wait until a running or cancelled answer has ended, then free the model. Idempotent; no call may follow."""
        if self._run is not None:
            self._run.stop()
            self._run.join()
        self._pipeline = None

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Answer ``request``; see :class:`qwen3vl_ros.engines.base.Engine`.

        Encoding images and prefill are one call of the pipeline: the stage is ENCODE with images, else PREFILL.
        After a cancelled answer the next one may stay in QUEUED for some seconds: see the top of this file.
        Completion tokens include the end-of-turn token. Stop strings apply to the answer, not to the reasoning.

        Raises:
            BadRequest: The request makes no sense; raised before any work, as are the next three, unless the reason
                is a JSON Schema that OpenVINO alone cannot follow.
            BadImage: An image cannot be used.
            PromptTooLong: Prompt and images do not fit the context.
            Unsupported: The request asks for something that OpenVINO GenAI cannot do.
            EngineError: A request is running already, or OpenVINO failed.
        """
        if not self._answering.acquire(blocking=False):
            raise EngineError("The openvino engine answers one request at a time: end or close the running one first.")
        try:
            started = time.monotonic()
            prompt = self._prompts.build(request.messages)
            config = self._configure(request, prompt)
            answer = _Answer(prompt, AnswerText(request.options.stop, prompt.reasoning), self._pieces, started)
            yield from self._wait_until_free(cancel)
            if cancel.is_set():
                yield answer.last("cancelled")
                return
            assert self._pipeline is not None
            self._run = _Run(self._pipeline, prompt, config)
            try:
                yield Chunk(answer.stage)
                yield from answer.follow(self._run, cancel)
            finally:
                self._run.stop()
        finally:
            self._answering.release()

    def _configure(self, request: Request, prompt: Prompt) -> GenerationConfig:
        if prompt.tokens > self._prompt_limit:
            raise PromptTooLong(
                f"The prompt has {prompt.tokens} tokens, {prompt.image_tokens} of them for images, and may have "
                f"{self._prompt_limit} of the {self._context_length} of the context, which holds the answer too. Ask "
                "with less text, fewer or smaller images, or raise context_length."
            )
        if request.choices:
            raise Unsupported("choices: OpenVINO GenAI tells that of the token it chose alone; leave them out.")
        assert self._pipeline is not None
        # Start from the model's: a new GenerationConfig would have only one of the tokens that end an answer.
        config = self._pipeline.get_generation_config()
        # The last token of an answer is never decoded, so it takes no room in the context.
        configure(config, request.options, max_tokens=self._context_length - prompt.tokens + 1)
        if request.response_schema is not None:
            config.structured_output_config = constraint(request.response_schema, prompt.reasoning)
        return config

    def _wait_until_free(self, cancel: Cancel) -> Iterator[Chunk]:
        """Wait until the pipeline has returned from a cancelled answer, or ``cancel`` is set."""
        before = self._run
        if before is None or before.over:
            return
        yield Chunk(Stage.QUEUED)
        with cancel.calling(before.wake):
            while not (before.over or cancel.is_set()):
                before.events.get()


class _Run(StreamerBase):  # type: ignore[misc]
    """One call of the pipeline, on its own thread.

    ``events`` receives each token, and None as a wake-up: the reader then checks ``over`` and its own cancel event.
    Once ``over`` is True, either ``result`` or ``error`` is set.
    """

    def __init__(self, pipeline: VLMPipeline, prompt: Prompt, config: GenerationConfig) -> None:
        super().__init__()
        self.events: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self.over = False
        self.result: Any = None
        self.error: Exception | None = None
        self._stopping = False
        images = [openvino.Tensor(np.ascontiguousarray(image)[np.newaxis]) for image in prompt.images]
        arguments = (pipeline, prompt.text, images, config)
        self._thread = threading.Thread(target=self._generate, args=arguments, name="openvino generate", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Wake the reader of ``events``."""
        self.events.put(None)

    def stop(self) -> None:
        """Stop the pipeline at its next token."""
        self._stopping = True

    def join(self) -> None:
        """Wait for the thread."""
        self._thread.join()

    def write(self, token: Any) -> StreamingStatus:
        """Take one or several tokens from the pipeline, which swallows exceptions: nothing here may raise."""
        for one in token if isinstance(token, list) else [token]:
            self.events.put(one)
        return StreamingStatus.CANCEL if self._stopping else StreamingStatus.RUNNING

    def end(self) -> None:
        """Ignore the pipeline's end of tokens: the answer ends when the call of the pipeline returns."""

    def _generate(self, pipeline: VLMPipeline, text: str, images: list[Any], config: GenerationConfig) -> None:
        try:
            self.result = pipeline.generate(text, images=images, generation_config=config, streamer=self)
        except Exception as error:  # noqa: BLE001 raised by _Answer.follow
            self.error = error
        finally:
            # Even outside a chat the pipeline keeps the tokens of every prompt until this call, and after a failed
            # call the next one fails on them.
            pipeline.finish_chat()
            self.over = True
            self.wake()


class _Pieces:
    """Maps a token to the bytes of its text; b"" for control tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._bytes: dict[int, bytes] = {token: piece for piece, token in tokenizer.get_vocab().items()}
        # A part of a character decodes to U+FFFD, and only a control token to "".
        self._is_text = lru_cache(maxsize=None)(lambda token: tokenizer.decode([token]) != "")

    def __getitem__(self, token: int) -> bytes:
        return self._bytes.get(token, b"") if self._is_text(token) else b""


class _Answer:
    """Reads the answer to one request from the pipeline; counts its tokens and measures its times."""

    def __init__(self, prompt: Prompt, text: AnswerText, pieces: _Pieces, started: float) -> None:
        self.stage = Stage.ENCODE if prompt.images else Stage.PREFILL
        self._prompt = prompt
        self._text = text
        self._pieces = pieces
        self._started = started
        self._completion_tokens = 0
        self._encode_time: float | None = None
        self._first_token_time: float | None = None

    def follow(self, run: _Run, cancel: Cancel) -> Iterator[Chunk]:
        """Yield all chunks of ``run``; raises :class:`EngineError` when the pipeline failed."""
        with cancel.calling(run.wake):
            while True:
                token = run.events.get()
                if cancel.is_set():
                    yield self.last("cancelled")
                    return
                if token is not None:
                    yield from self._read(token)
                    if self._text.stopped:
                        run.stop()
                elif run.over:
                    break
        if run.error is not None:
            raise schema_error(run.error) or EngineError(f"OpenVINO failed: {reason(run.error)}") from run.error
        if self._prompt.images:
            # The vision network runs in this step, not in the one named vision encoding; the rest takes no time.
            durations = run.result.perf_metrics.vlm_raw_metrics.prepare_embeddings_durations
            self._encode_time = sum(durations) / 1e6  # from microseconds
        length = run.result.finish_reasons == [GenerationFinishReason.LENGTH]
        yield self.last("length" if length and not self._text.stopped else "stop")

    def _read(self, token: int) -> Iterator[Chunk]:
        if self._text.stopped:
            return
        self._completion_tokens += 1
        if self._first_token_time is None:
            self._first_token_time = time.monotonic() - self._started
            self.stage = Stage.DECODE
            yield Chunk(self.stage, completion_tokens=1)
        answer, thought = self._text.feed(self._pieces[token])
        if answer or thought:
            yield Chunk(self.stage, answer, thought, self._completion_tokens)

    def last(self, finish: FinishReason) -> Chunk:
        """Return the last chunk."""
        answer, thought = self._text.finish()
        usage = Usage(
            prompt_tokens=self._prompt.tokens,
            image_tokens=self._prompt.image_tokens,
            completion_tokens=self._completion_tokens,
            encode_time=self._encode_time,
            first_token_time=self._first_token_time,
            total_time=time.monotonic() - self._started,
        )
        return Chunk(self.stage, answer, thought, self._completion_tokens, finish, usage)


def full_name(device: str) -> str:
    """Return the product name of ``device``, such as a CPU's."""
    if ":" in device or device == "AUTO":
        return "whichever OpenVINO chooses"
    return str(openvino.Core().get_property(device, "FULL_DEVICE_NAME"))
