"""A line on the terminal about what the node is doing, while a command waits for its reply."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import StatusReader


@contextlib.contextmanager
def waiting_for_node(reader: StatusReader, what: str) -> Iterator[None]:
    """Show ``what`` with the seconds since and the node's own words in a line of stderr, if that is a terminal.

    Args:
        reader: The node's status.
        what: Begins the line, such as "loading".
    """
    if not sys.stderr.isatty():
        yield
        return
    import rich.console
    import rich.live
    from rich.text import Text

    since = time.monotonic()

    def line() -> Text:
        words = "" if reader.status is None else reader.status.message
        return Text(f"{what} ... {time.monotonic() - since:.0f} s" + f": {words}" * bool(words), style="dim")

    console = rich.console.Console(stderr=True)
    with rich.live.Live(get_renderable=line, console=console, transient=True, redirect_stdout=False):
        yield
