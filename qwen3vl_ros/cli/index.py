"""`qwen3vl-ros index`: asks about each window of a video, a bag or a recording, and writes the answers into a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qwen3vl_ros.cli.footage import Footage, Frame, OpenFootage
from qwen3vl_ros.cli.index_questions import NODE_IS_GONE, WindowQuestions, jpeg_of_frame
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.index.entries import IndexFileError, Source, Window
from qwen3vl_ros.index.show import clock
from qwen3vl_ros.index.store import Store
from qwen3vl_ros.vision.frame_times import SECOND, in_seconds

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection

_GOES_ON: Final = "The same command goes on where this one stopped."
_LONG: Final = 300.0
"""Seconds from which on somebody at a terminal is asked whether to go on."""

_HOUR: Final = 3600 * SECOND


def run_index(
    connection: Connection,
    path: str,
    index: Path,
    *,
    topic: str,
    window: float,
    clip_frames: int,
    things: str,
    timeout: float,
    yes: bool,
) -> int:
    """Index a file; return the exit status.

    Args:
        connection: To the node.
        path: Of the video, bag or recording.
        index: File to write.
        topic: Of a bag, the camera of a recording.
        window: Length of a window in seconds.
        clip_frames: Frames of a window that are sent as a clip; 1 for the middle one alone.
        things: What to name in the middle frame; "" for nothing.
        timeout: Seconds for each answer.
        yes: Whether not to ask at a terminal before what takes long.
    """
    from qwen3vl_ros.cli.connection import StatusReader

    try:
        with OpenFootage(path, topic) as footage, Store(index, create=True) as store:
            source = _source_of(footage, store, round(window * SECOND))
            starts = list(_open_windows(footage, store, source))
            if not starts:
                _tell(f"{index} has all windows of {source.name} already.")
                return 0
            card = StatusReader(connection).first().model_card
            questions = WindowQuestions(
                connection.vlm_client(), tuple(card.tasks), things=things, clip=clip_frames > 1, timeout=timeout,
                tell=_tell,
            )  # fmt: skip
            if not questions.can_ask:
                _tell("The model knows neither the task caption nor the task locate: nothing can be indexed with it.")
                return 1
            return _Run(footage, store, source, questions, clip_frames).run(starts, yes=yes)
    except KeyboardInterrupt:
        _tell(f"Stopped. {_GOES_ON}")
        return 130
    except (BadImage, IndexFileError) as error:
        _tell(str(error))
        return 2
    except NODE_IS_GONE as error:
        _tell(f"{error.name}: {error} {_GOES_ON}")
        return error.exit_status


class _Run:
    """Asks about windows one after the other, and writes each as soon as it is answered."""

    def __init__(
        self, footage: Footage, store: Store, source: Source, questions: WindowQuestions, clip_frames: int
    ) -> None:
        self._footage = footage
        self._store = store
        self._source = source
        self._questions = questions
        self._count = clip_frames
        self._written = 0

    def run(self, starts: Sequence[int], *, yes: bool) -> int:
        """Ask about the windows that begin at these times."""
        begun = time.monotonic()
        done = 0
        for start in starts:  # until there is one with a frame in it, which tells what a window costs
            done += 1
            if self._add(start):
                break
        left = starts[done:]
        cost = time.monotonic() - begun
        if left and self._written and not self._agreed(cost, len(left), yes=yes):
            _tell(f"Nothing more was done. {_GOES_ON}")
            return 1
        with _progress(len(starts), done) as advance:
            for start in left:
                self._add(start)
                advance()
        failed = f"; {self._questions.failed} questions got no answer" if self._questions.failed else ""
        _tell(f"{self._store.path}: {self._written} windows were added, {self._store.count()} are in it{failed}.")
        return 1 if self._questions.failed else 0

    def _add(self, start: int) -> bool:
        """Ask about a window and write it, if there is a frame in it; return whether there is."""
        end = min(start + self._source.window_ns, self._footage.last + 1)
        frames = self._frames(start, end)
        if not frames:
            return False
        middle = min(frames, key=lambda frame: abs(frame.time - (start + end) // 2))
        caption, things = self._questions.ask(frames, middle)
        self._store.add(Window(self._source, start, end, middle.time, caption, things, jpeg_of_frame(middle)))
        self._written += 1
        return True

    def _frames(self, start: int, end: int) -> list[Frame]:
        """Return the frames of a window: each in the middle of an even part of it, none twice."""
        count = self._count if self._questions.clip else 1
        found: list[Frame] = []
        for number in range(count):
            frame = self._footage.at(start + (end - start) * (2 * number + 1) // (2 * count))
            if frame.time >= start and (not found or frame.time > found[-1].time):
                found.append(frame)
        if not found and (late := next(self._footage.between(start, end), None)):
            found.append(late)
        return found

    def _agreed(self, cost: float, left: int, *, yes: bool) -> bool:
        """Say what the windows cost, and ask where it takes long and somebody is there; return whether to go on."""
        kind, length = self._source.kind, self._source.window_ns
        hour = cost * _HOUR / length
        what = "clips of" if self._questions.clip else "the middle frame of"
        _tell(
            f"Asked about {what} each window. The first one of {in_seconds(length)} took {cost:.1f} s: an hour of this "
            f"{kind} takes {_duration(hour)}. {left} windows are left, about {_duration(cost * left)}."
        )
        if yes or cost * left < _LONG or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return True
        sys.stderr.write("Go on? [y/N] ")
        sys.stderr.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")


def _source_of(footage: Footage, store: Store, window: int) -> Source:
    """Return the source as the index has it, and refuse to go on with other windows or another file."""
    source = replace(footage.source, window_ns=window)
    for there in store.sources():
        if (there.kind, there.name, there.topic) != (source.kind, source.name, source.topic):
            continue
        if there.fingerprint != source.fingerprint:
            raise IndexFileError(
                f"{source.name} is not the file any more that {store.path} has windows of: index it into another file."
            )
        if there.window_ns != window:
            raise IndexFileError(
                f"{store.path} has windows of {in_seconds(there.window_ns)} of {source.name}: go on with --window "
                f"{there.window_ns / SECOND:g}, or index into another file."
            )
        # What a recording had first may be deleted by now: its windows begin where they did.
        return there
    return source


def _open_windows(footage: Footage, store: Store, source: Source) -> Iterable[int]:
    """Return when the windows begin that are not in the index yet."""
    done = store.done_until(source)
    zero = source.start_ns if source.kind == "recording" else footage.first
    if done is None:
        return footage.windows(zero, zero, source.window_ns)
    return footage.windows(zero, done, source.window_ns) if done <= footage.last else ()


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else clock(round(seconds) * SECOND).removesuffix(".0")


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal; yields what is called for each further window."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("windows", total=total, completed=done)
        yield lambda: bar.advance(task)
