"""The arguments of `qwen3vl-ros watch`. Imports nothing heavy, so that --help is instant."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen3vl_ros.cli import arguments

TEXT = "Have the node ask again and again, and print when the answer becomes yes or no."
EPILOG = """the command of --exec is a shell's, and has the event in its environment: WATCH_ID, WATCH_KIND (on, off,
update), WATCH_ACTIVE (1, 0), WATCH_MESSAGE, WATCH_ANSWER, WATCH_STAMP; and as JSON on its standard input:
  qwen3vl-ros watch "Is the door open?" --exec 'notify-send "$WATCH_MESSAGE" "$WATCH_KIND"'
"""
_FIELDS = (
    *("watch_id", "task", "slots", "cameras", "region", "condition", "condition_schema", "reference", "on_threshold"),
    *("off_threshold", "needed", "of_last", "min_period", "max_period", "cooldown", "max_duration", "kinds", "message"),
    *("priority", "max_image_tokens", "muted"),
)


def add(command: Callable[..., argparse.ArgumentParser], run: Any) -> None:
    """Add the command; ``run`` gets a namespace whose ``watch`` has the fields of the watch."""
    made = command("watch", run, TEXT, epilog=EPILOG)
    made.add_argument("prompt", metavar="PROMPT", nargs="?", default="", help="the question, or what the task is about")
    made.add_argument("--list", action="store_true", help="list the watches of the node instead")
    made.add_argument("--exec", metavar="CMD", default="", help="run this command line for each event")
    made.add_argument("--json", action="store_true", help="a line of JSON for each event, for scripts")
    made.add_argument("--save", metavar="DIR", type=Path, help="put the images of each event into this folder")
    made.add_argument("--count", metavar="N", type=int, default=0, help="end after this many events")
    made.add_argument("--task", metavar="NAME", help="a ready-made task (default: yes_no)")
    made.add_argument("--slots", metavar="JSON", type=arguments.slots, help="other slots of the task")
    made.add_argument("--camera", dest="cameras", metavar="NAME", action="append", help="look through this camera")
    made.add_argument(
        "--region",
        metavar="X,Y,...",
        type=_region,
        help="look only at this part: LEFT,TOP,RIGHT,BOTTOM, or three corners or more, in pixels of the image",
    )
    made.add_argument(
        "--condition",
        choices=("probability", "json", "text", "image"),
        help="what counts: the probability of yes (default), JSON that satisfies --schema, another text, another image",
    )
    made.add_argument(
        "--schema", dest="condition_schema", metavar="SCHEMA", type=arguments.schema, help="JSON Schema, file or text"
    )
    made.add_argument("--reference", metavar="FILE", help="image to compare with (default: the first frame)")
    made.add_argument("--on", dest="on_threshold", metavar="P", type=float, help="it is true from here on (0.7)")
    made.add_argument("--off", dest="off_threshold", metavar="P", type=float, help="it is over from here on (0.3)")
    made.add_argument("--needed", metavar="N", type=int, help="as many answers of the last M have to say so (1)")
    made.add_argument("--of-last", metavar="M", type=int, help="see --needed")
    made.add_argument("--min-period", metavar="S", type=arguments.seconds, help="least seconds between two questions")
    made.add_argument("--max-period", metavar="S", type=arguments.seconds, help="ask at least so often, in seconds")
    made.add_argument("--cooldown", metavar="S", type=arguments.seconds, help="least seconds between two events")
    made.add_argument("--max-duration", metavar="S", type=arguments.seconds, help="end after so many seconds")
    made.add_argument(
        "--kinds", metavar="KINDS", type=lambda text: text.split(","), help="some of on,off,update (default: all)"
    )
    made.add_argument("--message", metavar="TEXT", help="sentence for people in every event (default: the question)")
    made.add_argument("--name", dest="watch_id", metavar="ID", help="identifier of the watch (default: a new one)")
    made.add_argument("--priority", metavar="N", type=int, help="among watches, higher is asked first")
    made.add_argument(
        "--max-image-tokens", metavar="N|auto", type=arguments.image_tokens, help="tokens of an image at most"
    )
    arguments.add_node(made)


def fields_of(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the watch that are given."""
    return {name: getattr(parsed, name) for name in _FIELDS if getattr(parsed, name, None) is not None}


def _region(text: str) -> list[tuple[float, float]]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers") from error
    if len(numbers) == 4:
        left, top, right, bottom = numbers
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    if len(numbers) < 6 or len(numbers) % 2:
        raise argparse.ArgumentTypeError("a region is LEFT,TOP,RIGHT,BOTTOM or the x,y of three corners or more")
    return list(zip(numbers[::2], numbers[1::2], strict=True))
