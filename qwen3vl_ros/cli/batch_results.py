"""The results of `qwen3vl-ros batch`: a file with a line of JSON for each image, which a later run goes on with."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwen3vl_ros.cli.batch_inputs import BatchImage


class ResultsError(ValueError):
    """The file cannot be gone on with; the text is a sentence."""


class Results:
    """An open file of results. Any thread may add a line.

    Attributes:
        asked: What every line says of the question.
        done: The images that have a line.
        failed: How many of these lines are errors.
    """

    def __init__(self, file: Any, asked: Mapping[str, Any]) -> None:
        self.asked = asked
        self._file = file
        self._lock = threading.Lock()
        self.done: set[BatchImage] = set()
        self.failed = 0

    def add(self, image: BatchImage, result: Mapping[str, Any]) -> None:
        """Write the line of an image: ``error`` is null, or what went wrong."""
        said = {"page": image.page, **self.asked}
        line = {"image": image.path, **{name: value for name, value in said.items() if value}, **result}
        with self._lock:
            self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            self.done.add(image)
            self.failed += result["error"] is not None


@contextmanager
def open_results(path: Path, asked: Mapping[str, Any], *, retry: bool) -> Iterator[Results]:
    """Open a file of results, or begin one.

    Args:
        path: Of the file.
        asked: What every line says of the question, by which a file with answers to another one is recognized.
        retry: Whether to drop the lines with errors, so that these images are asked about again.

    Raises:
        ResultsError: It cannot be written, another batch writes it, or it has something else in it.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise ResultsError(f"{path} cannot be written: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ResultsError(f"{path} is being written by another batch: name another file with --out.") from error
        results = Results(file, asked)
        kept, size = _read(file, path, results, retry=retry)
        if retry and results.failed:
            os.truncate(file.fileno(), 0)
            file.write(b"".join(kept))
            file.flush()
            results.failed = 0
        else:
            os.truncate(file.fileno(), size)
        yield results


def _read(file: Any, path: Path, results: Results, *, retry: bool) -> tuple[list[bytes], int]:
    """Note the lines that are there; return those to keep, and the size up to a last one that was not finished."""
    file.seek(0)
    kept, size = [], 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break  # the run before was killed while it wrote that
        size += len(line)
        try:
            found = json.loads(line)
            image, failed = BatchImage(found["image"], found.get("page", 0)), found["error"] is not None
            other = [name for name, value in results.asked.items() if (found.get(name) or None) != (value or None)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultsError(f"{path}, line {number}: no result of a batch. Name another file with --out.") from error
        if other:
            raise ResultsError(
                f"{path} has answers to another question, line {number} by its {' and '.join(other)}: name another "
                "file with --out."
            )
        results.failed += failed
        if failed and retry:
            continue
        kept.append(line)
        results.done.add(image)
    return kept, size
