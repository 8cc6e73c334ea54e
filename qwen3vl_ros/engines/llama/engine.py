"""The ``llama`` engine: Qwen3-VL from a GGUF file, in this process, on llama.cpp.

Uses llama-cpp-python's low-level API: its high-level one, whose MTMDChatHandler takes Qwen3-VL like any vision model,
counts M-RoPE positions instead of tokens, and clears the KV cache before each request. This engine reuses the prompt's
prefix in the KV cache and the embeddings of images, so a second question about the same image skips the slow part,
and answers several callers at once (:mod:`qwen3vl_ros.engines.llama.scheduler`).
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

from qwen3vl_ros.engines import tool_template
from qwen3vl_ros.engines.base import (
    Cancel,
    Chunk,
    Description,
    EngineError,
    ImageInput,
    ModelNotFound,
    Progress,
    Request,
)
from qwen3vl_ros.engines.llama import log
from qwen3vl_ros.engines.llama.answer import Answer
from qwen3vl_ros.engines.llama.context import LlamaContext
from qwen3vl_ros.engines.llama.files import find_model, parts_of
from qwen3vl_ros.engines.llama.grammar import GrammarTokenizer
from qwen3vl_ros.engines.llama.prompt import ChatPrompt
from qwen3vl_ros.engines.llama.sampling import family
from qwen3vl_ros.engines.llama.saved_prefixes import SavedPrefixes
from qwen3vl_ros.engines.llama.scheduler import Scheduler
from qwen3vl_ros.engines.llama.vision import VisionTower
from qwen3vl_ros.engines.llama.vocabulary import Vocabulary
from qwen3vl_ros.engines.model_card import METADATA_KEY, model_card
from qwen3vl_ros.engines.recommended import for_request
from qwen3vl_ros.engines.thinking import check_thinking

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
        "probabilities",
    }
)

_MOST_IMAGE_TOKENS = 4096
"""Most tokens of an image where the model's file has no limit: llama.cpp's own for Qwen3-VL (mtmd, clip.cpp)."""

_ADVISED_IMAGE_TOKENS = 1024
"""What llama.cpp's advice is about."""


class LlamaEngine:
    """Answers with a GGUF model. Implements :class:`qwen3vl_ros.engines.base.Engine`."""

    def __init__(
        self,
        model: str,
        mmproj: str = "",
        n_ctx: int = 4096,
        n_batch: int = 256,
        n_threads: int = 0,
        slots: int = 2,
        max_image_tokens: int = 300,
        image_cache_mb: int = 64,
        n_gpu_layers: int = -1,
        state_directory: str = "",
        state_mb: int = 256,
        progress: Progress = lambda _: None,
    ) -> None:
        """Load the model.

        Args:
            model: A GGUF file, or a folder with one.
            mmproj: The model's vision part; "" takes the file beside the model, without which the engine is text-only.
            n_ctx: Tokens of prompt and answer together; lowered to the context length the model was trained with.
            n_batch: Prompt tokens per decode call at most; a larger batch is not faster on a CPU.
            n_threads: 0 = one per physical core. A small model decodes on one thread all the same.
            slots: Answers at a time, each of ``n_ctx`` tokens. 1 for a model with a recurrent state, whatever is asked.
            max_image_tokens: Of one image, where nobody asks for another number; the model's own limit may be lower.
            image_cache_mb: Memory for the embeddings of recent images, in MB (10^6 bytes).
            n_gpu_layers: Layers of the language model on a GPU, in a llama-cpp-python that was built for one. -1 = all;
                0 = none, and the vision part on the CPU as well.
            state_directory: Where prefixes of prompts are kept from one run to the next; "" = they are not.
            state_mb: Disk space for them, in MB (10^6 bytes).
            progress: Called with sentences about the loading.

        Raises:
            ModelNotFound: A file is missing or cannot be loaded, or there is no GPU for ``n_gpu_layers``.
            EngineNotReady: There is no memory for it now.
        """
        log.install()
        _check_gpu(n_gpu_layers)
        model_path, mmproj_path = find_model(model, mmproj)
        threads = n_threads or physical_cores()
        with contextlib.ExitStack() as frees:
            self._context = LlamaContext(model_path, n_ctx, n_batch, threads, n_gpu_layers, slots, progress)
            frees.callback(self._context.close)
            self._vision: VisionTower | None = None
            if mmproj_path is not None:
                limit = min(max(max_image_tokens, _MOST_IMAGE_TOKENS), self._context.n_ctx - 1)
                self._vision = VisionTower(mmproj_path, self._context, limit, threads, use_gpu=n_gpu_layers != 0)
                frees.callback(self._vision.close)
            self._prompts = ChatPrompt(self._context, self._vision)
            self._vocabulary = Vocabulary(self._context)
            self._grammars = GrammarTokenizer(self._context)
            self._scheduler = Scheduler(self._context, self._vision, image_cache_mb * 1_000_000)
            if state_directory:
                files = self.files(model=model, mmproj=mmproj)
                saved = SavedPrefixes(Path(state_directory).expanduser(), state_mb * 1_000_000, files)
                progress(f"prefixes of prompts of the last run: {saved.restore(self._context, self._scheduler.slots)}")
                frees.callback(saved.save, self._context, self._scheduler.slots)
            frees.callback(self._scheduler.close)
            self._image_input = _image_input(self._vision, max_image_tokens)
            self._close = frees.pop_all().close  # in reverse: the threads, then mtmd, then the model it points to
        self._free = threading.Semaphore(self._context.n_sequences)
        self._description = self._describe(model_path, mmproj_path, threads)
        self._family = family(self._context, self._description.model, self._prompts.thinking.by_default)

    @staticmethod
    def probe(*, model: str, mmproj: str = "", n_gpu_layers: int = -1, **_: object) -> str:
        """Check that the files exist, and a GPU if one is needed; name the model. Raises :class:`ModelNotFound`."""
        _check_gpu(n_gpu_layers)
        processor = "GPU" if n_gpu_layers and lib.llama_supports_gpu_offload() else "CPU"
        return f"{find_model(model, mmproj)[0]}, on this machine's {processor}"

    @staticmethod
    def files(*, model: str, mmproj: str = "", **_: object) -> list[Path]:
        """Return the files that llama.cpp maps; raises :class:`ModelNotFound`."""
        model_path, mmproj_path = find_model(model, mmproj)
        return [*parts_of(model_path), *([] if mmproj_path is None else [mmproj_path])]

    def _describe(self, model: Path, mmproj: Path | None, threads: int) -> Description:
        vision, n_ctx = self._vision, self._context.n_ctx
        name = self._context.metadata("general.name") or model.stem
        return Description(
            engine="llama",
            model=name,
            context_length=n_ctx,
            prompt_limit=n_ctx - 1,
            # Every image is enclosed by two control tokens.
            max_images=0 if vision is None else max(1, n_ctx // (self._image_input.usual_tokens + 2)),
            image_input=self._image_input,
            concurrency=self._context.n_sequences,
            supports=_SUPPORTS | self._prompts.thinking.abilities,
            card=model_card(name, self._context.metadata(METADATA_KEY)),
            details={
                "file": str(model),
                "mmproj": str(mmproj or "none: text only"),
                "kind": self._context.description(),
                "reasoning": self._prompts.thinking.detail,
                tool_template.DETAIL: self._prompts.tools,
                "threads": str(threads),
                "llama.cpp": (lib.llama_print_system_info() or b"").decode(),
                "advice": _advice(self._image_input),
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
            Unsupported: The request has images, and the model no vision part; or the model cannot think, or do without.
            EngineError: As many requests as there are slots are running already, or llama.cpp failed.
        """
        if not self._free.acquire(blocking=False):
            count = self._context.n_sequences
            requests = "one request" if count == 1 else f"{count} requests"
            raise EngineError(f"The llama engine answers {requests} at a time: end or close a running one first.")
        try:
            started = time.monotonic()
            check_thinking(request.thinking, request.max_reasoning_tokens, self._description)
            prompt = self._prompts.build(request.messages, request.thinking)
            schema = request.response_schema
            grammar = None if schema is None else self._grammars.grammar(schema)
            if request.choices:
                self._vocabulary.prepare()
            unset = for_request(self._family.thinking if prompt.reasoning else self._family.at_once, request)
            closing = self._prompts.closing
            new = Answer(request, prompt, closing, self._context, self._vocabulary, unset, grammar, cancel, started)
            with contextlib.closing(new) as answer, cancel.calling(self._scheduler.wake):
                yield from self._scheduler.stream(answer)
        finally:
            self._free.release()


def _image_input(vision: VisionTower | None, usual: int) -> ImageInput:
    if vision is None:
        return ImageInput()
    return ImageInput(vision.multiple, vision.max_tokens, default_tokens=min(usual, vision.max_tokens))


def _advice(image_input: ImageInput) -> str:
    """Return what llama.cpp says about the tokens of an image, if that many are possible; "" for nothing."""
    said = log.advice()
    if not said or not image_input.usual_tokens < _ADVISED_IMAGE_TOKENS <= image_input.max_tokens:
        return ""
    return (
        f"llama.cpp says that {said}, and an image has {image_input.usual_tokens} at most here where nobody asks for "
        "more: give a goal max_image_tokens, or raise llama.max_image_tokens"
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


def _check_gpu(n_gpu_layers: int) -> None:
    if n_gpu_layers > 0 and not lib.llama_supports_gpu_offload():
        raise ModelNotFound(
            f"n_gpu_layers: {n_gpu_layers} layers are to run on a GPU, and llama-cpp-python finds none, or was built "
            "without support for it: docs/gpu.md has the commands. 0 or -1 uses the CPU."
        )
