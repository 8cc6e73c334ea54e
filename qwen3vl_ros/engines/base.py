"""The engine contract: the request that an engine takes, the chunks it yields, and the exceptions it raises.

An engine turns one request (messages with images) into a stream of chunks. It is created and called in a worker
process (:mod:`qwen3vl_ros.engines.worker`), so it may block, hold the GIL or crash without harming the node. It does
not depend on ROS.
"""

from __future__ import annotations

import enum
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qwen3vl_ros.engines.token_probabilities import Token

Image: TypeAlias = NDArray[np.uint8]
"""An image: uint8, shape [height, width, 3], colour order RGB, C-contiguous."""

FitMode: TypeAlias = Literal["contain", "cover", "fill"]

FinishReason: TypeAlias = Literal["stop", "length", "cancelled"]


class Stage(enum.IntEnum):
    """The stage of a goal; the numbers are those of AskImage's feedback."""

    QUEUED = 0
    WAITING_FRAME = 1
    ENCODE = 2
    PREFILL = 3
    DECODE = 4


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The image size that an engine takes; the caller fits images with :func:`qwen3vl_ros.vision.fit.fit_image`.

    With ``size`` None, width and height are multiples of ``multiple`` pixels, at most ``max_tokens`` tiles of that
    size, and the aspect ratio is kept. An encoder of a fixed input gives its ``size`` (width, height) in pixels and
    ``fit``, how an image of another aspect ratio is fitted: ``contain`` (all of it, black bars), ``cover`` (its middle,
    cropped) or ``fill`` (all of it, stretched).

    ``max_tokens`` is the most that an image can have, ``default_tokens`` the most where neither goal nor task asks for
    a number; 0 = ``max_tokens``. An image of fewer than ``min_tokens`` is enlarged to about as many; 0 = none is.
    """

    multiple: int = 32
    max_tokens: int = 300
    size: tuple[int, int] | None = None
    fit: FitMode = "contain"
    default_tokens: int = 0
    min_tokens: int = 0

    @property
    def usual_tokens(self) -> int:
        """The most tokens of an image where nobody asks for a number."""
        return min(self.default_tokens or self.max_tokens, self.max_tokens)


ABILITIES = frozenset(
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
        "thinking",
        "thinking_off",
        "reasoning_budget",
        "video",
        "text_only",
        "probabilities",
    }
)
"""Optional abilities of an engine, beyond answering a question about an image.

``thinking``: the model reasons before it answers where a request says ``thinking=True``; ``thinking_off``: it answers
at once where a request says ``thinking=False``. ``reasoning_budget``: ``max_reasoning_tokens`` is obeyed, by a model
that does not reason in that it does not.
"""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a model is for; the fields are those of ModelCard.msg. The default is a model without limits, or unknown."""

    domain: str = ""
    demonstration: bool = False
    tasks: tuple[str, ...] = ()
    conversation: bool = True
    languages: tuple[str, ...] = ()
    license: str = ""
    grounding_image_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """An engine, its model, their limits and abilities. Unknown numbers are None.

    ``supports`` names the optional abilities, out of :data:`ABILITIES`. A request that uses another one is refused
    with :class:`Unsupported`.
    """

    engine: str
    model: str
    context_length: int | None = None
    prompt_limit: int | None = None
    max_images: int | None = None
    image_input: ImageInput = field(default_factory=ImageInput)
    concurrency: int = 1
    supports: frozenset[str] = frozenset()
    details: Mapping[str, str] = field(default_factory=dict)
    card: ModelCard = ModelCard()


@dataclass(frozen=True, slots=True)
class Options:
    """Sampling options. None = the model's recommended value. Ranges as in GenerationOptions.msg."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Clip:
    """A video: ``frames`` of one size, and the time of each in seconds, rising, from a moment of the caller's choice.

    The model reads the times, and answers in them. Raises :class:`BadRequest` for another number of times than frames,
    or none; times that are negative or fall; frames of several sizes.
    """

    frames: tuple[Image, ...]
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check frames and times."""
        if not self.frames or len(self.frames) != len(self.times):
            raise BadRequest(
                f"a clip has at least one frame and a time for each, not {len(self.times)} times for "
                f"{len(self.frames)} frames"
            )
        if not all(0 <= time < math.inf for time in self.times) or list(self.times) != sorted(self.times):
            raise BadRequest("the times of a clip's frames are seconds from 0 on, in order")
        if len({frame.shape for frame in self.frames}) > 1:
            raise BadRequest("the frames of a clip have one size: fit them alike")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation: text, images and clips in the order the model reads them.

    A clip needs the ability ``video``. Raises :class:`BadRequest` for another role: a chat template may accept any, and
    the answer would be arbitrary.
    """

    role: Literal["system", "user", "assistant"]
    content: tuple[str | Image | Clip, ...]

    def __post_init__(self) -> None:
        """Check the role."""
        if self.role not in ("system", "user", "assistant"):
            raise BadRequest(f"there is no role {self.role!r} in a conversation: use system, user or assistant")


@dataclass(frozen=True, slots=True)
class Request:
    """One question. ``response_schema`` is a JSON Schema that constrains the answer, or None.

    ``choices``: words that the answer may begin with, synonyms in one tuple; the last chunk then has a probability for
    each tuple. They do not constrain the answer. () = none wanted; others need the ability ``probabilities``.
    ``token_probabilities``: the last chunk has the tokens of the answer, from an engine with that ability; others leave
    them out.
    ``thinking``: whether the model reasons before it answers; None = as it does by itself. ``max_reasoning_tokens``:
    when the reasoning has so many tokens, it is closed and the model answers; None = as many as it takes. 0 is allowed.
    """

    messages: tuple[Message, ...]
    options: Options = field(default_factory=Options)
    response_schema: Mapping[str, Any] | None = None
    choices: tuple[tuple[str, ...], ...] = ()
    token_probabilities: bool = False
    thinking: bool | None = None
    max_reasoning_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and times of an answer. Times in seconds; a time is None when that stage was not reached.

    ``bytes_sent``: size of the requests to a server, images included; 0 where the model runs in this process.
    """

    prompt_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    bytes_sent: int = 0
    encode_time: float | None = None
    first_token_time: float | None = None
    total_time: float | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A step of a running answer.

    ``text`` and ``reasoning`` were generated since the previous chunk (whole Unicode characters, either may be
    empty); ``completion_tokens`` counts all tokens so far. The first chunk of each stage may carry no text. The last
    chunk, and only that, has ``finish_reason`` and ``usage``.

    ``probabilities``, in the last chunk of a request with ``choices``: the probability that the answer begins with each
    of them, in their order (:mod:`qwen3vl_ros.engines.choices`); None if unknown, for example for an answer without a
    first token.

    ``tokens``, in the last chunk of a request with ``token_probabilities``: those of the answer, without the reasoning
    before it (:mod:`qwen3vl_ros.engines.token_probabilities`); () if unknown. White space at its beginning and text
    from a stop string on may be in the tokens and not in the answer.
    """

    stage: Stage
    text: str = ""
    reasoning: str = ""
    completion_tokens: int = 0
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    probabilities: tuple[float, ...] | None = None
    tokens: tuple[Token, ...] = ()


class EngineError(Exception):
    """Anything an engine reports; the text is a sentence with a way out.

    EngineError
      |- ModelNotFound     the model is missing or broken: do not retry until a person has changed something
      |- EngineNotReady    no model is loaded now; a retry may help
      |- BadRequest        the request makes no sense
      |    |- Unsupported  this engine cannot honour a field; ``field`` names it
      |    |- BadImage     an image cannot be used
      |    |- PromptTooLong
      |- EngineCrashed     the worker process died or hung

    ``code_name``: the constant of AskImage.action that is the goal's error code.
    """

    code_name: ClassVar[str] = "ENGINE_ERROR"


class ModelNotFound(EngineError):
    """The model file is missing or broken; the sentence names it and the command that downloads one."""

    code_name = "ENGINE_NOT_READY"


class EngineNotReady(EngineError):
    """No model is loaded at the moment."""

    code_name = "ENGINE_NOT_READY"


class BadRequest(EngineError):
    """The request makes no sense to any engine."""

    code_name = "BAD_REQUEST"


class Unsupported(BadRequest):
    """This engine cannot honour a field of the request; the sentence begins with the field's name."""

    code_name = "UNSUPPORTED"


class BadImage(BadRequest):
    """An image cannot be used."""

    code_name = "BAD_IMAGE"


class PromptTooLong(BadRequest):
    """Prompt and images do not fit; the sentence has both numbers. Raised before any work is done."""

    code_name = "PROMPT_TOO_LONG"


class EngineCrashed(EngineError):
    """The worker process died, or stopped responding and was killed."""

    code_name = "ENGINE_CRASHED"


class Cancel(threading.Event):
    """Ends a running answer. Any thread sets it, once; an engine polls it or registers a callback."""

    def __init__(self) -> None:
        super().__init__()
        self._callbacks: list[Callable[[], None]] = []
        self._callbacks_lock = threading.Lock()

    def set(self) -> None:
        """End the answer; the callbacks run on the calling thread."""
        with self._callbacks_lock:
            super().set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    @contextmanager
    def calling(self, callback: Callable[[], None]) -> Iterator[None]:
        """Call ``callback`` when the event is set within the block, on the setting thread; at once if it is set."""
        with self._callbacks_lock:
            late = self.is_set()
            if not late:
                self._callbacks.append(callback)
        if late:
            callback()
        try:
            yield
        finally:
            with self._callbacks_lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)


Progress: TypeAlias = Callable[[str], None]
"""Takes a sentence for people about the progress of loading: "waiting for http://...: connection refused"."""


class Engine(Protocol):
    """The interface of an engine: a class or factory in the entry-point group ``qwen3vl_ros.engines``.

    Called with its configuration as keywords and, always, ``progress`` (a :data:`Progress`), it loads the model, which
    may take minutes. It raises :class:`ModelNotFound` when a person has to change something first, and
    :class:`EngineNotReady` when a later retry may help, which the caller then makes.

    An optional static or class method ``probe`` takes the same configuration without ``progress`` and checks within a
    second or two whether construction can succeed: it returns a sentence about what it found (the model, the server) or
    raises an :class:`EngineError` that says what is missing. It loads no model.

    An optional static or class method ``files``, with the same arguments as ``probe``, returns the paths of the files
    that the loaded model is mapped from. When one of them is changed, the worker process is started again: running
    answers end with :class:`EngineNotReady`.
    """

    def describe(self) -> Description:
        """Return the description of this engine and its model. Cheap; constant after construction."""

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        """Answer ``request``; yields chunks as they are generated, the last with a finish reason and usage.

        Once ``cancel`` is set, from any thread and at any stage, the stream ends promptly with a last chunk whose
        finish reason is ``"cancelled"``.

        Raises:
            EngineError: The answer failed; the engine can take the next request after it.
        """

    def close(self) -> None:
        """Free the model. Idempotent; no call may follow."""
