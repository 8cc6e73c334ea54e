"""The commands about long videos, and their arguments. Imports nothing heavy, so that --help is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.cli import arguments
from qwen3vl_ros.vision.frame_times import SECOND, nanoseconds

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection

_DEFAULT = Path("index.db")
_MOST_FRAMES = 64
_SHORTEST = 0.1
"""Seconds of a window."""

_UNITS = {"s": 1, "m": 60, "h": 3600}


def add(
    command: Callable[..., argparse.ArgumentParser],
    connected: Callable[[Callable[[Connection, argparse.Namespace], int]], Any],
) -> None:
    """Add the commands.

    Args:
        command: Makes the parser of one, from its name, function, help and what else ArgumentParser takes.
        connected: Makes the function of a command that talks to the node.
    """
    index = command(
        "index",
        connected(_index),
        "Write down what a long video, a bag or a recording shows when, for search, summarize, ask --index and cut. "
        "The same command again goes on where it stopped.",
    )
    index.add_argument("file", metavar="FILE", help="a video file, a bag, or the directory of a recording")
    _add_index(index, "where it goes")
    index.add_argument("--topic", metavar="T", default="", help="of a bag, or the camera of a recording")
    index.add_argument("--window", metavar="S", type=_window, default=10.0, help="seconds of a window (default 10)")
    index.add_argument(
        "--clip-frames",
        metavar="N",
        type=_frames,
        default=5,
        help="frames of a window that are captioned as a clip, where the model takes one (default 5), or 1",
    )
    index.add_argument(
        "--things",
        metavar="TEXT",
        default="object",
        help="what is looked for in the middle frame of a window (default: object, which is all); '' for nothing",
    )
    index.add_argument("--timeout", metavar="S", type=arguments.seconds, default=120.0, help="seconds for each answer")
    index.add_argument("--yes", action="store_true", help="do not ask before what takes more than five minutes")
    arguments.add_node(index)

    search = command("search", _search, "Say when something was seen, from an index alone; no node is needed.")
    search.add_argument("words", metavar="WORDS", help="such as 'red ball'")
    _add_index(search)
    search.add_argument("--limit", metavar="N", type=_count, default=20, help="windows at most (default 20)")
    search.add_argument("--json", action="store_true", help="as lines of JSON")
    for option, name, text in (("--from", "start", "begins"), ("--to", "end", "ends")):
        search.add_argument(
            option, dest=name, metavar="TIME", type=_time, help=f"where the part {text}: 2.5, 1:02.5, or a stamp"
        )

    summarize = command("summarize", connected(_summarize), "Summarise an index: lines with times.")
    _add_index(summarize)
    summarize.add_argument(
        "--every", metavar="T", type=_length, default=300 * SECOND, help="time of a line: 90, 5m, 1h (default 5m)"
    )
    summarize.add_argument("--timeout", metavar="S", type=arguments.seconds, default=120.0, help="for each answer")
    arguments.add_node(summarize)

    cut = command("cut", _cut, "Write the seconds in which something was seen as a video; no node is needed.")
    cut.add_argument("--query", metavar="WORDS", required=True, help="what was seen, as for search")
    _add_index(cut)
    cut.add_argument("--out", metavar="FILE", type=Path, required=True, help="the video, such as clip.mp4")
    cut.add_argument(
        "--margin", metavar="S", type=_margin, default=1.0, help="seconds before and after each window (default 1)"
    )
    cut.add_argument(
        "--source", metavar="NAME", default="", help="what to cut from, where the index is of several: end of its name"
    )


def add_ask_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ask` about an index."""
    parser.add_argument("--index", metavar="FILE", type=Path, help="ask about what `qwen3vl-ros index` wrote")
    parser.add_argument(
        "--save-frames", metavar="DIR", type=Path, help="with --index, write the frames that the answer is from"
    )


def check_ask_options(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> None:
    """End `ask` with a sentence where its options contradict --index."""
    if parsed.index is None:
        if parsed.save_frames is not None:
            parser.error("--save-frames is for --index: name an index")
        return
    if not 0 <= parsed.clip_frames <= _MOST_FRAMES:
        parser.error(f"--clip-frames is a number from 1 to {_MOST_FRAMES}")
    others = (
        *("image", "camera", "text_only", "session", "task", "slots", "json", "system", "max_frame_age", "new_pixels"),
        *("clip", "clip_end", "clip_pick", "score_threshold", "video", "bag", "topic", "start", "end", "at"),
    )
    for option in others:
        if getattr(parsed, option) not in (None, "", [], False):
            name = {"start": "from", "end": "to"}.get(option, option.replace("_", "-"))
            parser.error(f"--{name} and --index exclude each other: an index is asked about alone")


def _add_index(parser: argparse.ArgumentParser, text: str = "what `qwen3vl-ros index` wrote") -> None:
    parser.add_argument("--index", metavar="FILE", type=Path, default=_DEFAULT, help=f"{text} (default {_DEFAULT})")


def _index(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.index import run_index

    return run_index(
        connection,
        parsed.file,
        parsed.index,
        topic=parsed.topic,
        window=parsed.window,
        clip_frames=parsed.clip_frames,
        things=parsed.things,
        timeout=parsed.timeout,
        yes=parsed.yes,
    )


def _search(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.index_search import run_search
    from qwen3vl_ros.cli.terminal import nobody_reads

    try:
        status = run_search(
            parsed.words,
            parsed.index,
            limit=parsed.limit,
            since=parsed.start,
            until=parsed.end,
            in_json=parsed.json,
        )
        sys.stdout.flush()
    except BrokenPipeError:
        return nobody_reads()
    return status


def _summarize(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.summarize import run_summarize

    return run_summarize(connection, parsed.index, every=parsed.every, timeout=parsed.timeout)


def _cut(parsed: argparse.Namespace) -> int:
    try:
        from qwen3vl_ros.cli.cut import run_cut
    except ImportError as error:
        print(f"cut needs av: pip install av ({error}).", file=sys.stderr)
        return 1
    arguments.interrupt_on_signals()
    return run_cut(parsed.query, parsed.index, parsed.out, margin=parsed.margin, source=parsed.source)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError("a number greater than zero is needed")
    return int(text)


def _window(text: str) -> float:
    value = arguments.seconds(text)
    if value < _SHORTEST:
        raise argparse.ArgumentTypeError(f"a window has {_SHORTEST} s at least")
    return value


def _frames(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= _MOST_FRAMES:
        raise argparse.ArgumentTypeError(f"a number from 1 to {_MOST_FRAMES} is needed")
    return int(text)


def _margin(text: str) -> float:
    value = float(text)
    if not 0 <= value < 86_400:
        raise argparse.ArgumentTypeError("a number of seconds, zero or more, is needed")
    return value


def _time(text: str) -> int:
    try:
        return nanoseconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _length(text: str) -> int:
    number, unit = (text[:-1], _UNITS[text[-1]]) if text[-1:] in _UNITS else (text, 1)
    length = _time(number) * unit
    if length < SECOND:
        raise argparse.ArgumentTypeError("a time of a second at least is needed: 90, 5m or 1h")
    return length
