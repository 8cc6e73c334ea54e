"""The options of `ask` about a video file or a bag, and the images that they stand for.

Imports nothing heavy, so that --help is instant.
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from typing import TYPE_CHECKING

from qwen3vl_ros.vision.frame_times import DEFAULT_FRAMES, MOST_FRAMES, SECOND, in_seconds, nanoseconds

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time

    from qwen3vl_ros.client.goal import Arguments

_PART = {"--from": "start", "--to": "end", "--at": "at"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--video", metavar="FILE", default="", help="ask about this video, not a camera")
    parser.add_argument(
        "--bag", metavar="BAG", default="", help="ask about images of this bag (a directory, .mcap or .db3)"
    )
    parser.add_argument("--topic", metavar="T", default="", help="of the bag (default: the only one with images)")
    parser.add_argument(
        "--from",
        dest="start",
        metavar="TIME",
        type=_time,
        help="where the part of --video or --bag begins: 2.5 or 1:02.5 since its beginning; of a bag also a stamp",
    )
    parser.add_argument("--to", dest="end", metavar="TIME", type=_time, help="where it ends (default: at the end)")
    parser.add_argument("--at", metavar="TIME", type=_time, help="the single image at this time of --video or --bag")


def check_options(parsed: argparse.Namespace) -> None:
    """End the command with a sentence where the options contradict each other."""
    given = [option for option, name in _PART.items() if getattr(parsed, name) is not None]
    if parsed.video and parsed.bag:
        parsed.error("--video and --bag exclude each other: ask about one of them")
    if not parsed.video and not parsed.bag:
        given += ["--topic"] if parsed.topic else []
        if parsed.clip is None:
            given += ["--clip-frames"] if parsed.clip_frames else []
        if given:
            also = ", or ask about a camera's --clip" if given[0] == "--clip-frames" else ""
            parsed.error(f"{given[0]} is for --video or --bag: name a file{also}")
        return
    others = [
        option
        for option in ("image", "camera", "text_only", "clip", "clip_end", "clip_pick")
        if getattr(parsed, option)
    ]
    if others:
        parsed.error(f"--{others[0].replace('_', '-')} and a file exclude each other: ask about one of them")
    if parsed.topic and parsed.video:
        parsed.error("--topic is of a --bag: a video file has none")
    if "--at" in given and len(given) > 1:
        parsed.error("--at is a single image, --from and --to are a part: choose one")
    if "--at" in given and parsed.clip_frames:
        parsed.error("--at is a single image: --clip-frames goes with --from and --to")
    if not 0 <= parsed.clip_frames <= MOST_FRAMES:
        parsed.error(f"--clip-frames is a number from 1 to {MOST_FRAMES}")
    if parsed.start is not None and parsed.end is not None and parsed.start > parsed.end:
        parsed.error("--from is after --to")


def images_of(parsed: argparse.Namespace) -> tuple[Arguments, str]:
    """Return the arguments of :meth:`VlmClient.ask` for the file, {} without one, and a sentence about them.

    Raises:
        BadImage: The file cannot be read, or has no such image.
    """
    if not parsed.video and not parsed.bag:
        return {}, ""
    from qwen3vl_ros.client import clip_files

    count = parsed.clip_frames or DEFAULT_FRAMES
    times = (getattr(parsed, name) for name in _PART.values())
    start, end, at = (None if time is None else Fraction(time, SECOND) for time in times)
    if at is not None:
        image = (
            clip_files.frame_of_video(parsed.video, at)
            if parsed.video
            else clip_files.image_of_bag(parsed.bag, parsed.topic, time=at)
        )
        return {"images": [image]}, f"The image at {_spoken(image.header.stamp)} of {parsed.video or parsed.bag}."
    if parsed.video:
        frames = clip_files.clip_of_video(parsed.video, start=start or 0, end=end, frames=count)
    else:
        frames = clip_files.clip_of_bag(parsed.bag, parsed.topic, start=start, end=end, frames=count)
    first, last = (_spoken(frame.header.stamp) for frame in (frames[0], frames[-1]))
    note = f"{len(frames)} frames of {parsed.video or parsed.bag}, from {first} to {last}."
    if parsed.bag or frames[0].header.stamp.sec or frames[0].header.stamp.nanosec:
        note += " Times in the words of the answer count from the first one."
    return {"images": frames, "images_are_clip": True, "clip_frames": len(frames)}, note


def _spoken(stamp: Time) -> str:
    return in_seconds(stamp.sec * SECOND + stamp.nanosec)


def _time(text: str) -> int:
    try:
        return nanoseconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
