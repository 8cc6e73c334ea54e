"""`qwen3vl-ros search`: says when something was seen, from an index alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from qwen3vl_ros.index.entries import IndexFileError, Window
from qwen3vl_ros.index.find import find, within
from qwen3vl_ros.index.show import as_json, said, span_text
from qwen3vl_ros.index.store import Store


def run_search(words: str, index: Path, *, limit: int, since: int | None, until: int | None, in_json: bool) -> int:
    """Print the windows with ``words`` by their times; return the exit status, 1 where there are none.

    Args:
        words: In any language.
        index: The file.
        limit: Most windows: the best ones.
        since: Nanoseconds since the beginning, or a stamp; None for the beginning.
        until: The same.
        in_json: As a line of JSON for each.
    """
    try:
        with Store(index) as store:
            windows, exact = find(store, words)
            several = len(store.sources()) > 1
    except IndexFileError as error:
        print(error, file=sys.stderr)
        return 2
    windows = list(within(windows, since, until))
    if not windows:
        print(f"{index} has no window with {words!r}.", file=sys.stderr)
        return 1
    if not exact and len(words.split()) > 1:
        print(f"No window has {words!r} as it stands; these have all its words.", file=sys.stderr)
    if len(windows) > limit:
        print(f"The best {limit} of {len(windows)} windows; --limit N shows more.", file=sys.stderr)
    for window in by_time(windows[:limit]):
        print(json.dumps(as_json(window), ensure_ascii=False) if in_json else line_of(window, several=several))
    return 0


def by_time(windows: list[Window]) -> list[Window]:
    """Return windows by their source and time."""
    return sorted(windows, key=lambda window: (window.source.name, window.source.topic, window.start_ns))


def line_of(window: Window, *, several: bool) -> str:
    """Return a window as a line; ``several``: with its source, where an index has more than one."""
    of = f"{Path(window.source.name).name}{f' {window.source.topic}' if window.source.topic else ''}  " * several
    return f"{of}{span_text(window)}  {said(window)}"
