"""`qwen3vl-ros summarize`: a time-stamped summary of a long video, from the captions of its index."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from qwen3vl_ros.client.exceptions import PromptTooLong
from qwen3vl_ros.index.entries import IndexFileError, Window
from qwen3vl_ros.index.find import in_pieces, periods
from qwen3vl_ros.index.show import said, span_text, time_text
from qwen3vl_ros.index.store import Store

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection
    from qwen3vl_ros.client import VlmClient

_PIECE: Final = 6000
"""Characters of notes in a question: some 2000 tokens of English; fewer are sent where they do not fit."""

_SMALLEST_PIECE: Final = 500

_PROMPT: Final = (
    "These are notes about a video, in order:\n{notes}\nSummarise in one or two "
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
            sources = store.sources()
            for source in sources:
                if len(sources) > 1:
                    print(f"{source.name} {source.topic}".rstrip() + ":")
                of_source = (window for window in store.windows() if window.source == source)
                for start, windows in periods(of_source, every):
                    end = max(window.end_ns for window in windows)
                    summary = _summary(connection.vlm_client(), windows, timeout)
                    print(f"{time_text(source, start)} - {time_text(source, end)}  {summary}", flush=True)
    except IndexFileError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _summary(client: VlmClient, windows: Sequence[Window], timeout: float) -> str:
    """Have the notes of windows summarised, in pieces that fit, and the summaries of the pieces again."""
    size = _PIECE
    notes = [f"{span_text(window)}: {said(window)}" for window in windows]
    while True:
        pieces = list(in_pieces(notes, size))
        try:
            answers = [
                client.ask(
                    _PROMPT.format(notes="\n".join(piece)), text_only=True, max_tokens=_ANSWER_TOKENS, timeout=timeout
                )
                for piece in pieces
            ]
        except PromptTooLong:
            if size <= _SMALLEST_PIECE:
                raise
            size //= 2
            continue
        # A part of a piece at most, so that there are fewer pieces each time.
        notes = [" ".join(answer.text.split())[: size // 4] for answer in answers]
        if len(notes) == 1:
            return notes[0]
