"""Types of command line arguments, and how a command ends on a signal.

Imports nothing heavy, so that --help is instant.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time


def schema(text: str) -> Mapping[str, Any]:
    """Return the JSON Schema in ``text``, which is the schema itself or a file's name."""
    try:
        parsed = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"this is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise argparse.ArgumentTypeError('a JSON Schema is an object, such as {"type": "object"}')
    return parsed


def slots(text: str) -> Mapping[str, Any]:
    """Return the slots of a task in the JSON object ``text``."""
    try:
        parsed = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"this is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise argparse.ArgumentTypeError('slots are a JSON object, such as {"what": "red cup"}')
    return parsed


def seconds(text: str) -> float:
    """Return a number of seconds greater than zero."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("a number of seconds greater than zero is needed")
    return value


def moment(text: str) -> Time:
    """Return a stamp: the seconds in ``text`` where they are positive, so many before now where they are negative."""
    from builtin_interfaces.msg import Time

    value = float(text)
    if not 0 < abs(value) < 2**31:
        raise argparse.ArgumentTypeError("a stamp in seconds is needed, or seconds before now, such as -20")
    nanoseconds = int(Decimal(text) * 10**9) if value > 0 else time.time_ns() + int(value * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def image_tokens(text: str) -> int | Literal["auto"]:
    """Return a number of image tokens greater than zero, or "auto"."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not 0 < int(text) < 2**32 - 1:
        raise argparse.ArgumentTypeError("a number of tokens greater than zero is needed, or auto")
    return int(text)


def port(text: str) -> int:
    """Return the number of a TCP port."""
    value = int(text)
    if not 0 < value < 65536:
        raise argparse.ArgumentTypeError("a TCP port is a number from 1 to 65535")
    return value


def node_name(text: str) -> str:
    """Return the name of a node, such as /robot1/vlm."""
    if not re.fullmatch(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a node's name, which looks like /robot1/vlm")
    return text


def add_node(parser: argparse.ArgumentParser, name: str = "/vlm") -> None:
    """Add the options --wait and --node, by which a command finds the node that it talks to."""
    parser.add_argument(
        "--wait", metavar="S", type=seconds, default=5.0, help="seconds to look for the node (default 5)"
    )
    parser.add_argument(
        "--node", metavar="NAME", type=node_name, default=name, help=f"name of the node to ask (default {name})"
    )


def interrupt_on_signals() -> None:
    """Have SIGTERM end the command as Ctrl-C does, and SIGHUP, too, unless it is ignored, as by ``nohup``."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    _handle(interrupt)


def exit_on_signals() -> None:
    """Have SIGTERM and SIGHUP end a command in which Ctrl-C ends an answer alone."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(130)

    _handle(leave)


def _handle(end: Any) -> None:
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def hang_up(*_: object) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # kernel and shell may both send one
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in terminals:  # gone: writing there would raise
            os.dup2(nowhere, descriptor)
        end()

    signal.signal(signal.SIGTERM, end)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, hang_up)
