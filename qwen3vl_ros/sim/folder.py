"""A folder of images as a source: one after the other, over and over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.sim.sources import Kind, Source, SourceError, SourceFrame, check_source, images_in
from qwen3vl_ros.vision.compressed import decode_file

_FORMATS = {b"\xff\xd8\xff": "jpeg", b"\x89PN": "png"}
"""Formats of CompressedImage, by the first bytes of a file."""


class Folder(Source):
    """The images of a folder in the order of their names; new ones are seen in the next round.

    An image counts as taken when it is published.
    """

    def __init__(self, path: str, period: float) -> None:
        """``period``: seconds from one image to the next."""
        super().__init__(path, Kind.IMAGES)
        self._path = path
        self._period = period

    def frames(self, warn: Callable[[str], None]) -> Iterator[SourceFrame]:
        """Yield images; the sentence of one that cannot be read goes to ``warn``. Raises SourceError if none can."""
        due = time.monotonic()
        while not self._closed.is_set():
            readable, reason = 0, ""
            check_source(self._path, Kind.IMAGES)
            for path in images_in(self._path):
                if self._closed.wait(max(0.0, due - time.monotonic())):
                    return
                try:
                    frame = _read(path)
                except (BadImage, OSError) as error:
                    reason = str(error)
                    warn(f"Left out: {reason}")
                    continue
                readable += 1
                due = max(due, time.monotonic() - self._period) + self._period
                yield frame
            if not readable:
                raise SourceError(f"The folder {self._path} has no image that can be read: {reason}")


def _read(path: Path) -> SourceFrame:
    """Read an image, so that one that is broken is noticed here. Raises BadImage and OSError."""
    data = path.read_bytes()
    pixels = decode_file(data, f"The image {path}")
    kind = _FORMATS.get(data[:3], "")
    size = (pixels.shape[1], pixels.shape[0])
    return SourceFrame(time.monotonic(), size, lambda: pixels, data if kind else b"", kind)
