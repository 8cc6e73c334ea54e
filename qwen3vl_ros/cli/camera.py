"""`qwen3vl-ros camera`: its options, which are parameters of the node `camera` in other words."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

_KINDS = {
    "device": ("N", "a webcam: the number or the path of its video device, 0 or /dev/video0"),
    "video": ("FILE", "a video file, at its own rate"),
    "stream": ("URL", "a network stream: rtsp://HOST/PATH, or http://HOST/PATH that sends JPEG images"),
    "images": ("DIR", "a folder of images, one after the other, over and over"),
}

USAGE = "qwen3vl-ros camera [--device N | --video FILE [--loop] | --stream URL | --images DIR] [--ros-args ...]"
TEXT = (
    "Publish a webcam, a video, a stream or a folder of images; without any of them, run the simulated camera. "
    "Arguments after --ros-args go to ROS: --ros-args -p world:=FILE.sdf"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `qwen3vl-ros camera`."""
    sources = parser.add_mutually_exclusive_group()
    for name, (value, text) in _KINDS.items():
        sources.add_argument(f"--{name}", metavar=value, default="", help=text)
    parser.add_argument("--loop", action="store_true", help="start the video again at its end")
    parser.add_argument(
        "--period", metavar="S", type=float, help="seconds from one image of DIR to the next (default 1)"
    )
    parser.add_argument(
        "--rate", metavar="HZ", type=float, help="images a second at most (default: as many as there are)"
    )
    parser.add_argument(
        "--calibration", metavar="YAML", default="", help="a file of camera_calibration, for the topic camera_info"
    )


def ros_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of `qwen3vl-ros camera` as the node takes them; exits with status 2 if they are wrong."""
    from qwen3vl_ros.sim.sources import Kind, SourceError, check_source

    split = arguments.index("--ros-args") if "--ros-args" in arguments else len(arguments)
    parser = argparse.ArgumentParser(prog="qwen3vl-ros camera", usage=USAGE, allow_abbrev=False)
    add_options(parser)
    given = parser.parse_args(arguments[:split])
    kind = next((kind for kind in Kind if getattr(given, kind.value)), None)
    if kind is None and (given.loop or given.period is not None or given.calibration):
        parser.error("--loop, --period and --calibration are for --device, --video, --stream and --images")
    if given.loop and kind is not Kind.VIDEO:
        parser.error("--loop is for --video")
    if given.period is not None and kind is not Kind.IMAGES:
        parser.error("--period is for --images")
    values: dict[str, object] = {"source": getattr(given, kind.value) if kind else ""}
    values |= {name: getattr(given, name) for name in ("loop", "period", "rate", "calibration")}
    if kind is not None:
        try:
            check_source(str(values["source"]), kind)
        except SourceError as error:
            parser.exit(2, f"camera: {error}\n")
    set_here = [f"{name}:={json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value]
    if not set_here:
        return list(arguments[split:])
    return ["--ros-args", *(part for text in set_here for part in ("-p", text)), "--", *arguments[split:]]
