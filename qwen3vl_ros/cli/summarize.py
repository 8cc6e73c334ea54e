"""`qwen3vl-ros summarize`: a time-stamped summary of a long video, from the captions of its index."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qwen3vl_ros.index.entries import IndexFileError, Window
from qwen3vl_ros.index.find import in_pieces, periods
from qwen3vl_ros.index.show import said, span_text, time_text
from qwen3vl_ros.index.store import Store

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection
    from qwen3vl_ros.client import VlmClient

_PIECE: Final = 6000
"""Characters of notes in a question: some 2000 tokens, which fit into half of the node's default context."""

_PROMPT: Final = (
    "These are notes about a video, in order, each with its time from - to:\n{notes}\nSummarise in one or two "
    "sentences what happens. Name what changes, and leave out what stays as it is."
)
_ANSWER_TOKENS: Final = 160


def run_summarize(connection: Connection, index: Path, *, every: int, timeout: float) -> int:
    """Print a line for each period of an index: its times, and what happens in it; return the exit status.

    Args:
        connection: To the node.
        index: The file.
        every: Length of a period in nanoseconds.
        timeout: Seconds for each answer.

    Raises:
        VlmError: The node does not answer, or its engine answers no question without an image.
    """
    from qwen3vl_ros.cli.connection import StatusReader

    try:
        with Store(index) as store:
            if not store.count():
                print(f"{index} has no windows.", file=sys.stderr)
                return 1
            status = StatusReader(connection).first()
            if status.model_card.tasks:
                print(
                    "The model knows single tasks only, and summaries are none of them: get another one with "
                    "`qwen3vl-ros model use 2b`.",
                    file=sys.stderr,
                )
                return 1
            several = len(store.sources()) > 1
            name = ""
            for start, windows in periods(store.windows(), every):
                source = windows[0].source
                if several and source.name != name:
                    name = source.name
                    print(f"{name}:")
                end = windows[-1].end_ns
                summary = _summary(connection.vlm_client(), windows, timeout)
                print(f"{time_text(source, start)} - {time_text(source, end)}  {summary}", flush=True)
    except IndexFileError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _summary(client: VlmClient, windows: Sequence[Window], timeout: float) -> str:
    """Have the notes of windows summarised, in pieces that fit, and the summaries of the pieces again."""
    lines = [f"{span_text(window)}: {said(window)}" for window in windows]
    while True:
        pieces = list(in_pieces(lines, _PIECE))
        answers = [
            client.ask(
                _PROMPT.format(notes="\n".join(piece)), text_only=True, max_tokens=_ANSWER_TOKENS, timeout=timeout
            )
            for piece in pieces
        ]
        lines = [" ".join(answer.text.split()) for answer in answers]
        if len(lines) == 1:
            return lines[0]
