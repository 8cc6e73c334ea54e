"""Notices that files which an engine has mapped were overwritten: what it answers from then on is noise."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class ModelFiles:
    """The files of a loaded model, as they were when this was made. A check of one takes some microseconds."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._stamps = {path: _stamp(path) for path in paths}

    def changed(self) -> Path | None:
        """Return a file that was overwritten or replaced; None if there is none.

        A file that is gone has not changed: what is mapped of it stays as it was.
        """
        for path, before in self._stamps.items():
            now = _stamp(path)
            if now is not None and now != before:
                return path
        return None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return inode, size and time of the last write; None for a file that is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
