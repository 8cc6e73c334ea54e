"""The exceptions of a failed question. No ROS imports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from qwen3vl_ros.client.answer import Answer


class VlmError(Exception):
    """A question was not answered; the message says what happened, where, and what to do now.

    VlmError
      |- BadRequest            the question makes no sense; asking again will not help
      |    |- Unsupported      the running engine cannot honour a field of the question
      |    |- BadImage         an image could not be read
      |    |- PromptTooLong    prompt and images do not fit the model's context
      |- NoFrame               no camera frame of the required freshness arrived in time
      |- GoalTimeout           the question's time ran out
      |- Busy                  the queue is full; try again later
      |- Preempted             a question of higher or equal priority took this one's place
      |- Cancelled             the question was cancelled, or the client or its ROS node ended
      |- EngineFailure         the engine failed
      |    |- EngineNotReady   no model is loaded
      |    |- EngineCrashed    the engine's process died during the answer; it restarts by itself
      |    |- EngineError      the engine reported an error of its own
      |    |- BadResponse      the answer does not satisfy the response schema
      |- Shutdown              the node was deactivated or shut down before the answer was complete
      |- InternalError         a defect of qwen3vl_ros; the message says where to report it
      |- Unreachable           no node replied: the cause is the connection, or this process
           |- ServerUnavailable   no node serves the action, or it does not accept the question in time
           |    |- ServerInactive the node rejects questions because it is not active
           |- ServerLost          the node accepted the question and then vanished, or was started anew
           |- NotSpinning         no executor spins the node that the client was given
           |- WouldDeadlock       a blocking call inside a callback that alone could have ended it

    ``code`` is the constant of AskImage.action (27300 to 27314), or -1 for all below Unreachable. ``name`` is its
    name there. The gateway responds with ``http_status`` and ``retry_after`` (seconds, None = a retry does not help), a
    command with ``exit_status``. ``text`` is the partial answer. ``answer`` has everything the node reported with the
    error (usage, headers of the images, finish reason); None if it reported nothing.
    """

    code: ClassVar[int] = -1
    name: ClassVar[str] = "VLM_ERROR"
    http_status: ClassVar[int] = 500
    retry_after: ClassVar[int | None] = None
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, text: str = "", answer: Answer | None = None) -> None:
        super().__init__(message)
        self.text = text
        self.answer = answer


class BadRequest(VlmError):
    """The question itself makes no sense: empty prompt, option out of range, schema that is not JSON Schema."""

    code = 27301
    name = "BAD_REQUEST"
    http_status = 400
    exit_status = 2


class Unsupported(BadRequest):
    """The running engine cannot honour a field of the question; the message names it."""

    code = 27302
    name = "UNSUPPORTED"


class BadImage(BadRequest):
    """An image could not be read."""

    code = 27303
    name = "BAD_IMAGE"


class NoFrame(VlmError):
    """No frame of the required freshness arrived in time."""

    code = 27304
    name = "NO_FRAME"
    http_status = 503
    retry_after = 2
    exit_status = 4


class GoalTimeout(VlmError):
    """The question's time ran out."""

    code = 27305
    name = "TIMEOUT"
    http_status = 504
    exit_status = 5


class Busy(VlmError):
    """The queue is full, or the node rejects questions while it answers another one."""

    code = 27306
    name = "BUSY"
    http_status = 503
    retry_after = 2
    exit_status = 6


class Preempted(VlmError):
    """A question of higher or equal priority took this one's place."""

    code = 27307
    name = "PREEMPTED"
    http_status = 503
    retry_after = 2
    exit_status = 6


class Cancelled(VlmError):
    """The question was cancelled, the client closed, its ROS node destroyed, or ROS shut down in this process."""

    code = 27308
    name = "CANCELLED"
    http_status = 499  # nginx's status for a request whose client disconnected
    exit_status = 130


class PromptTooLong(BadRequest):
    """Prompt and images do not fit the model's context; the message has both numbers."""

    code = 27309
    name = "PROMPT_TOO_LONG"


class EngineFailure(VlmError):
    """The engine failed."""

    exit_status = 7


class EngineNotReady(EngineFailure):
    """No model is loaded: missing, broken, or still loading at the deadline."""

    code = 27310
    name = "ENGINE_NOT_READY"
    http_status = 503
    retry_after = 5


class EngineCrashed(EngineFailure):
    """The engine's process died or hung during the answer. It restarts by itself: ask again."""

    code = 27311
    name = "ENGINE_CRASHED"
    http_status = 503
    retry_after = 5


class EngineError(EngineFailure):
    """The engine reported an error of its own."""

    code = 27312
    name = "ENGINE_ERROR"
    http_status = 502


class BadResponse(EngineFailure):
    """The answer does not satisfy the response schema; ``text`` is the unparsed answer."""

    code = 27313
    name = "BAD_RESPONSE"
    http_status = 502


class Shutdown(VlmError):
    """The node was deactivated or shut down before the answer was complete."""

    code = 27314
    name = "SHUTDOWN"
    http_status = 503
    retry_after = 5


class InternalError(VlmError):
    """A defect of qwen3vl_ros; the message has the exception. Please report it."""

    code = 27300
    name = "UNKNOWN"


class Unreachable(VlmError):
    """No node replied to the question."""

    name = "UNREACHABLE"
    http_status = 503
    retry_after = 5
    exit_status = 3


class ServerUnavailable(Unreachable):
    """No node serves the action, or it did not accept the question in time."""

    name = "SERVER_UNAVAILABLE"


class ServerInactive(ServerUnavailable):
    """The node rejects questions, because its lifecycle state is not active."""

    name = "SERVER_INACTIVE"


class ServerLost(Unreachable):
    """The node accepted the question and then vanished or was started anew, or its result is overdue."""

    name = "SERVER_LOST"


class NotSpinning(Unreachable):
    """No executor spins the node that the client was given."""

    name = "NOT_SPINNING"


class WouldDeadlock(Unreachable, RuntimeError):
    """A blocking call was made on the only thread that could have received its result."""

    name = "WOULD_DEADLOCK"


def _with_code(error: type[VlmError]) -> Iterator[type[VlmError]]:
    """Yield ``error`` and its subclasses that have a constant of AskImage.action."""
    if "code" in vars(error) and error.code > 0:
        yield error
    for special in error.__subclasses__():
        yield from _with_code(special)


_BY_CODE = {error.code: error for error in _with_code(VlmError)}


def error_of_code(code: int) -> type[VlmError]:
    """Return the exception of a constant of AskImage.action; InternalError for an unknown number."""
    return _BY_CODE.get(code, InternalError)
