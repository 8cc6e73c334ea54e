"""`qwen3vl-ros record`: lists, shows, corrects and exports the answers of a recording. Imports nothing heavy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3vl_ros.cli import arguments

if TYPE_CHECKING:
    from qwen3vl_ros.vlm.recorded_answers import RecordedAnswer

FORMATS = ("qwen-vl", "messages")
_WIDTH = 60
"""Characters of a question and of an answer in a list."""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        command: Makes the parser of one, from its name, function and help.
    """
    record = command("record", None, "Read, correct and export what a node has recorded (record.directory).")
    actions = record.add_subparsers(metavar="ACTION", title="actions", required=True)

    def action(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *, needs_directory: bool = True
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        made.set_defaults(run=_reporting(run))
        about = "of the recording" if needs_directory else "of the recording (default: the running node's)"
        made.add_argument("--directory", metavar="DIR", type=Path, required=needs_directory, help=about)
        return made

    action("list", _list, "List the answers, the oldest first: identifier, time, question, answer.")
    show = action("show", _show, "Print an answer with everything that was recorded of it, as JSON.")
    show.add_argument("id", metavar="ID", help="identifier of the answer, or its beginning")
    correct = action("correct", _correct, "Say what the right answer would have been.", needs_directory=False)
    correct.add_argument("id", metavar="ID", help="identifier of the answer, or its beginning")
    correct.add_argument(
        "text", metavar="TEXT", nargs="?", default="-", help="the right answer (default: asked for, or read from stdin)"
    )
    arguments.add_node(correct)
    export = action("export", _export, "Write questions, images and right answers as a data set for fine-tuning.")
    export.add_argument(
        "--format", choices=FORMATS, required=True, help="that of Qwen-VL's own training code, or chat messages"
    )
    export.add_argument("--corrected-only", action="store_true", help="only what somebody has corrected")
    export.add_argument("output", metavar="OUT", type=Path, help="directory to make, for the data set and its images")


def _reporting(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a command that prints what is wrong with the recording as a sentence."""

    def run_reporting(parsed: argparse.Namespace) -> int:
        from qwen3vl_ros.cli.terminal import nobody_reads
        from qwen3vl_ros.vlm.recorded_answers import RecordingError

        try:
            status = run(parsed)
            sys.stdout.flush()
        except RecordingError as error:
            print(error, file=sys.stderr)
            return 2
        except BrokenPipeError:
            return nobody_reads()
        except OSError as error:
            print(f"{error.filename or parsed.directory}: {error.strerror or error}", file=sys.stderr)
            return 1
        return status

    return run_reporting


def _list(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.vlm.recorded_answers import read_answers

    for answer in read_answers(parsed.directory):
        print(_line(answer))
    return 0


def _line(answer: RecordedAnswer) -> str:
    entry, error = answer.entry, answer.entry.get("error")
    said = error["name"] if error else _short(entry.get("text", ""))
    if answer.correction is not None:
        said += f"  corrected: {_short(answer.correction)}"
    task = f"[{entry['task']}] " if entry.get("task") else ""
    return f"{answer.goal_id}  {entry.get('time', '')}  {task}{_short(entry.get('prompt', ''))}  ->  {said}"


def _short(text: str) -> str:
    line = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 3]}..."


def _show(parsed: argparse.Namespace) -> int:
    import json

    from qwen3vl_ros.vlm.recorded_answers import find_answer

    answer = find_answer(parsed.directory, parsed.id)
    print(json.dumps({**answer.entry, "correction": answer.correction}, indent=2, ensure_ascii=False))
    return 0


def _correct(parsed: argparse.Namespace) -> int:
    text = _asked_for() if parsed.text == "-" else parsed.text
    return _correct_in_directory(parsed, text) if parsed.directory is not None else _correct_by_node(parsed, text)


def _asked_for() -> str:
    if sys.stdin.isatty():
        print("The right answer (Ctrl-D ends it):", file=sys.stderr)
    return sys.stdin.read().strip()


def _correct_in_directory(parsed: argparse.Namespace, text: str) -> int:
    from qwen3vl_ros.vlm.recorded_answers import check_recording
    from qwen3vl_ros.vlm.recording import Recording

    check_recording(parsed.directory)  # it is not to be made here
    recording = Recording(parsed.directory, float("inf"))
    try:
        recording.correct(parsed.id, text)
    finally:
        recording.close()
    return 0


def _correct_by_node(parsed: argparse.Namespace, text: str) -> int:
    from qwen3vl_ros.cli.connection import Connection

    arguments.interrupt_on_signals()
    with Connection(parsed.node, parsed.wait) as connection:
        from qwen3vl_ros.client.exceptions import BadRequest, VlmError
        from qwen3vl_ros.srv import CorrectAnswer

        try:
            response = connection.call(
                CorrectAnswer,
                "correct_answer",
                CorrectAnswer.Request(goal_id=parsed.id, text=text),
                start="qwen3vl-ros node --ros-args -p record.directory:=DIR",
            )
        except VlmError as error:
            print(f"{error.name}: {error}", file=sys.stderr)
            return error.exit_status
    if not response.success:
        print(response.message, file=sys.stderr)
        return BadRequest.exit_status
    return 0


def _export(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.record_export import export

    report = export(parsed.directory, parsed.output, parsed.format, corrected_only=parsed.corrected_only)
    print(report.file)
    print(report, file=sys.stderr)
    return 0 if report.samples else 1
