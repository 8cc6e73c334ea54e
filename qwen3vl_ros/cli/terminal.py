"""Asks on a terminal: streams the answer to stdout, prints everything else to stderr, and returns an exit status."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from qwen3vl_ros.client.exceptions import VlmError

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time
    from typing_extensions import Unpack

    from qwen3vl_ros.client import VlmClient
    from qwen3vl_ros.client.answer import Answer, Region
    from qwen3vl_ros.client.answer_future import AnswerFuture, AnswerStream
    from qwen3vl_ros.client.goal import Arguments
    from qwen3vl_ros.client.tasks import Task

_STAGES = ("in the queue", "waiting for a frame", "looking at the image", "reading the prompt", "answering")
_MOST_SCORES = 10
_BROKEN_PIPE = 141


def ask_on_terminal(
    client: VlmClient,
    prompt: str,
    *,
    told: set[str] | None = None,
    refused: tuple[type[VlmError], ...] = (),
    **arguments: Unpack[Arguments],
) -> tuple[Answer | None, int]:
    """Ask, stream the answer, then print its times, its notes and its usage.

    ``told`` collects the notes of several questions, each of which is printed once. ``refused``: errors that are raised
    instead of printed, where there is no text yet.

    With a response schema, the checked JSON is printed once, indented. KeyboardInterrupt cancels the question and
    prints the text so far; a second one stops waiting for that and is passed on.

    Returns:
        The answer, if there is one, and the exit status.
    """
    as_json = arguments.get("response_schema") is not None
    shown = 0  # characters of the answer
    try:
        stream = client.stream(prompt, **arguments)
        try:
            with _waiting(stream.future) as stop_waiting:
                for piece in stream:
                    stop_waiting()
                    if not as_json:
                        shown += len(piece)
                        _show(piece)
            answer = stream.answer
        except KeyboardInterrupt:
            answer = _after_cancel(stream)
        _show(json.dumps(answer.json, indent=2, ensure_ascii=False) if as_json else answer.text[shown:])
        _show("" if answer.text.endswith("\n") and not as_json else "\n")
    except VlmError as error:
        if isinstance(error, refused) and not error.text:
            raise
        if not as_json:
            _show(error.text[shown:] + ("\n" if error.text else ""))
        elif error.text:
            print(error.text, file=sys.stderr)
        print(f"{error.name}: {error}", file=sys.stderr)
        return None, error.exit_status
    except BrokenPipeError:
        return None, nobody_reads()
    for line in moment_lines(answer):
        print(line, file=sys.stderr)
    told = set() if told is None else told
    for note in answer.notes:
        if note not in told:
            print(note, file=sys.stderr)
    told.update(answer.notes)
    print(usage_line(answer), file=sys.stderr)
    return answer, 0


def tasks_on_terminal(client: VlmClient, names: Sequence[str] = ()) -> int:
    """List the node's tasks, or those called ``names``; return the exit status, 2 for an unknown name."""
    try:
        tasks = {task.name: task for task in client.tasks()}
    except VlmError as error:
        print(f"{error.name}: {error}", file=sys.stderr)
        return error.exit_status
    if not tasks:
        print("The node knows no tasks yet: it is not configured; its log says why.", file=sys.stderr)
        return 1
    if unknown := [name for name in names if name not in tasks]:
        print(f"There is no task {', '.join(unknown)}; there are {', '.join(tasks)}.", file=sys.stderr)
        return 2
    try:
        _show("\n".join(line for name in names or tasks for line in _lines(tasks[name])) + "\n")
    except BrokenPipeError:
        return nobody_reads()
    return 0


def _lines(task: Task) -> Iterator[str]:
    """Yield the description of a task and its slots, line by line."""
    needs = f" Needs {task.min_images} images." if task.min_images > 1 else ""
    yield f"{task.name}: {task.description}{needs}"
    for slot in task.slots:
        marks = [slot.type, "the prompt"] if slot.name == task.main else [slot.type]
        marks += ["required"] if slot.required else [f"default {json.dumps(slot.default, ensure_ascii=False)}"]
        if slot.choices:
            marks.append(f"one of {', '.join(slot.choices)}")
        yield f"    {slot.name} ({', '.join(marks)}): {slot.description}"


def moment_lines(answer: Answer) -> Iterator[str]:
    """Yield a line for each time in an answer about a clip: from its first frame on, and what happens."""
    for moment in answer.moments:
        first = _seconds(answer.image_headers[0].stamp)
        start, end = (_clock(_seconds(stamp) - first) for stamp in (moment.stamp, moment.end_stamp))
        yield f"{start if start == end else f'{start} - {end}'}  {moment.label}".rstrip()


def _clock(seconds: float) -> str:
    """Return 0:04.5 for 4.5 seconds."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes}:{tenths / 10:04.1f}"


def _place(region: Region) -> str:
    """Return "cup at x 1.10, y 0.20, z 0.50 m in base_link"."""
    where = region.position
    assert where is not None
    return f"{region.label or 'unnamed'} at x {where.x:.2f}, y {where.y:.2f}, z {where.z:.2f} m in {where.frame_id}"


def usage_line(answer: Answer) -> str:
    """Return one line about the answer's usage and its image."""
    usage = answer.usage
    tokens = f"{usage.prompt_tokens} tokens in"
    details = [f"{usage.image_tokens} of images"] if usage.image_tokens else []
    details += [f"at most {usage.max_image_tokens} each"] if usage.max_image_tokens else []
    details += [f"{usage.cached_tokens} reused"] if usage.cached_tokens else []
    parts = [tokens + (f" ({', '.join(details)})" if details else ""), f"{usage.completion_tokens} out"]
    if usage.first_token_time is not None:
        expected = usage.expected_first_token_time
        known = "" if expected is None else f" ({expected:.2f} s expected)"
        parts.append(f"first after {usage.first_token_time:.2f} s{known}")
    if usage.tokens_per_second:
        parts.append(f"{usage.tokens_per_second:.1f} tokens/s")
    if usage.total_time is not None:
        parts.append(f"{usage.total_time:.2f} s in all")
    if answer.finish_reason == "length":
        parts.append("cut at the token limit (--max-tokens)")
    if answer.probability is not None:
        parts.append(f"probability {answer.probability:.3g} (of {answer.probability_mass or 0:.3g})")
    if scores := [f"{r.label or 'unnamed'} {r.score:.2f}" for r in answer.regions if r.score is not None]:
        parts.append(f"scores: {'; '.join(scores[:_MOST_SCORES])}{'; ...' * (len(scores) > _MOST_SCORES)}")
    if places := [_place(region) for region in answer.regions if region.position is not None]:
        parts.append(f"{'; '.join(places[:_MOST_SCORES])}{'; ...' * (len(places) > _MOST_SCORES)}")
    if usage.image_change is not None:
        parts.append(f"image changed by {usage.image_change:.1f} of 255")
    # A node of an earlier version tells no stamps of pixels.
    frames = itertools.zip_longest(answer.image_headers, answer.pixel_stamps)
    for camera, group in itertools.groupby(frames, lambda frame: frame[0].frame_id):
        of_camera = list(group)
        header, pixels = of_camera[-1]
        stamp = _seconds(header.stamp)
        if stamp:
            age = time.time() - stamp
            # A simulated clock is unrelated to this machine's: print the stamp itself then.
            when = f"{age:.2f} s old now" if 0 <= age < 86400 else f"stamped {stamp:.3f}"
            earlier = 0.0 if pixels is None else stamp - _seconds(pixels)
            again = f", pixels of {earlier:.2f} s before" if earlier else ""
            name = camera or "an unnamed camera"
            if len(of_camera) > 1:  # a clip
                span = stamp - _seconds(of_camera[0][0].stamp)
                parts.append(f"{len(of_camera)} frames of {name} over {span:.2f} s, the last {when}{again}")
            else:
                parts.append(f"frame of {name} {when}{again}")
    return f"[{answer.engine} {os.path.basename(answer.model)}: {', '.join(parts)}]"  # noqa: PTH119 it may be a served name


def _seconds(stamp: Time) -> float:
    return float(stamp.sec + stamp.nanosec * 1e-9)


def print_dim(sentence: str) -> None:
    """Print a remark to stderr, dim where that is a terminal."""
    import rich.console

    rich.console.Console(stderr=True, highlight=False).print(sentence, style="dim", markup=False, soft_wrap=True)


def nobody_reads() -> int:
    """Replace a closed stdout, into which the interpreter must not flush again; return the exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _BROKEN_PIPE


def _after_cancel(stream: AnswerStream) -> Answer:
    stream.cancel()
    return stream.future.result()


def _show(text: str) -> None:
    if text:
        sys.stdout.write(text)
        sys.stdout.flush()


class _Waiting:
    """Renders the state of a question at every refresh of the screen."""

    def __init__(self, future: AnswerFuture) -> None:
        self._future = future
        self._since = time.monotonic()

    def __rich__(self) -> str:
        place = f", {self._future.queue_position} before it" if self._future.queue_position else ""
        what = "thinking" if self._future.reasoning else _STAGES[min(self._future.stage, len(_STAGES) - 1)]
        return f"[dim]{what}{place} ... {time.monotonic() - self._since:.0f} s[/dim]"


@contextlib.contextmanager
def _waiting(future: AnswerFuture) -> Iterator[Callable[[], None]]:
    """Show the question's state in a line until the first text arrives, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    import rich.console
    import rich.live

    waiting = _Waiting(future)
    console = rich.console.Console(stderr=True)
    # redirect_stdout: False, since the answer goes to stdout.
    live = rich.live.Live(
        get_renderable=waiting.__rich__, console=console, transient=True, redirect_stdout=False, refresh_per_second=5
    )
    with live:
        yield live.stop
