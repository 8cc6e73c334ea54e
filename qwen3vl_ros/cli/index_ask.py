"""`qwen3vl-ros ask --index`: answers a question about a long video from its index, with times and frames."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qwen3vl_ros.cli.index_search import by_time, line_of
from qwen3vl_ros.client.exceptions import Unsupported
from qwen3vl_ros.index.entries import IndexFileError, Window
from qwen3vl_ros.index.find import find_for_question, question_words
from qwen3vl_ros.index.show import time_text
from qwen3vl_ros.index.store import Store

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection
    from qwen3vl_ros.client import VlmClient

_MOST_WINDOWS: Final = 12
_MOST_CHARACTERS: Final = 400
"""Of a window that is sent."""

DEFAULT_FRAMES: Final = 4


def ask_index(
    connection: Connection,
    question: str,
    index: Path,
    *,
    frames: int,
    save_frames: Path | None,
    options: dict[str, Any],
) -> int:
    """Ask about the windows that have words of the question; print the answer, then these windows.

    Args:
        connection: To the node.
        question: Such as "when did the dog come in?".
        index: The file.
        frames: Evidence frames that the model sees at most.
        save_frames: Directory to write the windows' frames to; None writes none.
        options: More arguments of :meth:`VlmClient.ask`.

    Returns:
        The exit status: 1 where no window has any of the words.
    """
    try:
        with Store(index) as store:
            best = find_for_question(store, question, _MOST_WINDOWS)
            jpegs = {window.id: store.jpeg(window) for window in best}
            several = len(store.sources()) > 1
    except IndexFileError as error:
        print(error, file=sys.stderr)
        return 2
    if not best:
        words = question_words(question)
        print(
            f"No window of {index} has any of the words {words!r}: ask with words that captions have; `qwen3vl-ros "
            "search` tells whether there are such."
            if words
            else "Ask with a word that says what it is about.",
            file=sys.stderr,
        )
        return 1
    windows = by_time(best)
    shown = by_time([window for window in best if jpegs[window.id]][:frames])
    status = _answer(connection, question, windows, shown, jpegs, options)
    saved = {} if save_frames is None else _save(save_frames, windows, jpegs)
    for window in windows:
        print(line_of(window, several=several) + (f"  {saved[window.id]}" if window.id in saved else ""))
    return status


def _answer(
    connection: Connection,
    question: str,
    windows: Sequence[Window],
    shown: Sequence[Window],
    jpegs: dict[int, bytes],
    options: dict[str, Any],
) -> int:
    """Have the question answered on the terminal, with as many frames as the engine takes; return the exit status."""
    from qwen3vl_ros.cli.connection import StatusReader

    known = StatusReader(connection).first().model_card.tasks
    if known:
        print(
            "The model knows single tasks only and answers no question about an index; these windows have words of it:",
            file=sys.stderr,
        )
        return 0
    client = connection.vlm_client()
    told: set[str] = set()
    for count in sorted({len(shown), min(1, len(shown)), 0}, reverse=True):
        part = shown[:count]
        given: dict[str, Any] = {"images": [jpegs[window.id] for window in part]} if part else {"text_only": True}
        try:
            return _ask_once(client, _prompt(question, windows, part), given | options, told)
        except Unsupported as error:
            refused = error
            print(f"{error.name}: {error}", file=sys.stderr)
    return refused.exit_status


def _ask_once(client: VlmClient, prompt: str, arguments: dict[str, Any], told: set[str]) -> int:
    """Ask on the terminal; raise Unsupported, so that less can be asked."""
    from qwen3vl_ros.cli.terminal import ask_on_terminal

    _, status = ask_on_terminal(client, prompt, told=told, refused=(Unsupported,), **arguments)
    return status


def _prompt(question: str, windows: Sequence[Window], shown: Sequence[Window]) -> str:
    """Return the question, after what was seen when."""
    several = len({window.source for window in windows}) > 1
    lines = [line_of(window, several=several)[:_MOST_CHARACTERS] for window in windows]
    frames = ", ".join(time_text(window.source, window.frame_ns) for window in shown)
    seen = f"The images are frames at {frames}.\n" if shown else ""
    return (
        "These are notes about parts of a long video, each with its time from - to:\n"
        + "\n".join(lines)
        + f"\n{seen}Answer this question from them in one or two sentences, with the times as they are written above; "
        f"say so if they do not tell.\n{question}"
    )


def _save(directory: Path, windows: Sequence[Window], jpegs: dict[int, bytes]) -> dict[int, Path]:
    """Write the frames; return the path of each by its window's id."""
    saved = {}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for window in windows:
            if jpegs[window.id]:
                name = time_text(window.source, window.frame_ns).replace(":", "-").replace(" ", "_")
                path = directory / f"{window.id:06}_{name}.jpg"
                path.write_bytes(jpegs[window.id])
                saved[window.id] = path
    except OSError as error:
        print(f"The frames cannot be written to {directory}: {error.strerror}.", file=sys.stderr)
    return saved
