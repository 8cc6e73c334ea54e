"""The parameters of what the node keeps: frames, conversations, a recording, a memory. A group for each."""

from __future__ import annotations

from dataclasses import dataclass

from qwen3vl_ros.ros.parameters import flag, number, text, texts


@dataclass(frozen=True, slots=True)
class History:
    """The frames that are kept of each camera for clips and watches."""

    always: bool = flag(False, "Keep frames all the time, not only from the first clip or watch on.")
    rate: float = number(2.0, 0.01, 30.0, "Frames kept per second.")
    seconds: float = number(60.0, 0.1, 86400.0, "Seconds for which a frame is kept.")
    megabytes: float = number(64.0, 0.1, 1e6, "Most megabytes (10^6 bytes) of the frames of one camera.")
    max_side: int = number(
        1280, 32, 16384, "Most pixels of the longer side of a frame that is kept; a larger one is made smaller."
    )


@dataclass(frozen=True, slots=True)
class Session:
    """Conversations that the node keeps for goals that name a session."""

    max_sessions: int = number(16, 1, 10000, "Conversations kept; one more, and the longest unused one is forgotten.")
    max_turns: int = number(16, 1, 1000, "Questions of a conversation that are kept, with their answers.")
    max_tokens: int = number(
        0,
        0,
        10_000_000,
        "Tokens that earlier turns may take in a question's prompt, estimated. 0: half of the engine's context.",
    )
    megabytes: float = number(
        256.0,
        1.0,
        1e6,
        "Most megabytes (10^6 bytes) of the images of all conversations; for more, the longest unused conversation is "
        "forgotten, and of a single one its oldest questions.",
    )
    max_age: float = number(3600.0, 1.0, 1e7, "Seconds after its last question that a conversation is forgotten.")


@dataclass(frozen=True, slots=True)
class Record:
    """A recording of questions, answers and images on the node's disk."""

    directory: str = text(
        "", "Directory of the recording; it is made, for its owner alone. Empty: nothing is recorded."
    )
    megabytes: float = number(
        1000.0, 1.0, 1e9, "Most megabytes (10^6 bytes) of the recording; the oldest answers are deleted for new ones."
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """What the node remembers of what its cameras saw, for the task where_last and for searches."""

    enabled: bool = flag(False, "Look through every camera again and again, and keep what was seen (docs/memory.md).")
    directory: str = text(
        "",
        "Directory of the memory; it is made, for its owner alone. Empty: qwen3vl_ros/memory in the user's folder for "
        "data, $XDG_DATA_HOME or else ~/.local/share.",
    )
    period: float = number(
        10.0,
        0.1,
        86400.0,
        "Seconds between two looks through a camera. The model is only asked where the image has changed since, by "
        "more than `watch_change`.",
        live=True,
    )
    things: tuple[str, ...] = texts(
        ("objects",),
        "What to look for: a single description, as the task locate takes it, or several categories, as detect does.",
        live=True,
    )
    megabytes: float = number(
        500.0,
        10.0,
        1e6,
        "Most megabytes (10^6 bytes) of the memory; what is oldest is deleted for what is new.",
        live=True,
    )
