"""The files of the node's memory: an index (``qwen3vl_ros.index``) in a directory that belongs to its owner alone."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from qwen3vl_ros.index.entries import IndexFileError
from qwen3vl_ros.index.store import Store

NAME: Final = "memory.index"
"""Of the index, in the directory."""

NOTICE: Final = """\
This directory is the memory of a robot: images that its cameras took, and what was seen in them. It was made by the
node vlm of the ROS 2 package qwen3vl_ros, because its parameter memory.enabled is true.

There may be people in the images: their faces, their homes, their screens and papers. Who keeps, copies or passes on
these files answers for what becomes of them, under the law of the place (in Europe the GDPR): ask those who may be
seen, keep no more than is needed, and delete it then. Only the user who ran the node can read the files.

To delete the memory, delete this directory; to end it, set memory.enabled to false and configure the node again.
"""

_OURS: Final = (NAME, "lock", "NOTICE")
"""How the names of the files begin."""

_FOR_OWNER: Final = 0o600


class MemoryFile:
    """Opens the index when it is first used, and anew where somebody has deleted the directory. Thread-safe.

    Args:
        directory: Made if it is missing.
        on_open: Called each time that it is opened.
    """

    def __init__(self, directory: Path, on_open: Callable[[], None]) -> None:
        self.path = directory / NAME
        self._directory = directory
        self._on_open = on_open
        self._mutex = threading.Lock()
        self._store: Store | None = None
        self._lock = -1
        self._closed = False

    def store(self) -> Store:
        """Return the open index.

        Raises:
            IndexFileError: It cannot be opened, another process writes it, or :meth:`close` was called.
        """
        with self._mutex:
            if self._closed:
                raise IndexFileError(f"{self.path} was closed, as the node is not configured any more.")
            if self._store is not None and not self._is_there():
                self._drop()
            if self._store is None:
                self._store = self._open()
                self._on_open()
            return self._store

    def close(self) -> None:
        """Close it for good, and let others write it. Idempotent."""
        with self._mutex:
            self._closed = True
            self._drop()

    def _open(self) -> Store:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._close_to_others()
            self._take_lock()
            notice = self._directory / "NOTICE"
            if not notice.exists():
                _write(notice, NOTICE)
            return Store(self.path, create=True)
        except OSError as error:
            self._drop()
            raise IndexFileError(
                f"{self._directory} cannot be written ({error.strerror or error}): make room there, or set "
                "memory.directory to another directory"
            ) from error
        except IndexFileError:
            self._drop()
            raise

    def _close_to_others(self) -> None:
        """Have the directory for its owner alone. Raises IndexFileError where it has other files, OSError."""
        mode = self._directory.stat().st_mode & 0o7777
        if mode == 0o700:
            return
        if mode & stat.S_ISVTX or any(not path.name.startswith(_OURS) for path in self._directory.iterdir()):
            raise IndexFileError(
                f"{self._directory} has other files, and is open to others: set memory.directory to a directory of its "
                "own, or have this one for its owner alone (chmod 700)"
            )
        self._directory.chmod(0o700)

    def _take_lock(self) -> None:
        """Hold the directory's lock. Raises IndexFileError, OSError."""
        self._lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, _FOR_OWNER)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IndexFileError(
                f"another process writes {self._directory}: give each node a memory.directory of its own"
            ) from None

    def _is_there(self) -> bool:
        try:
            same = os.path.samestat(os.fstat(self._lock), (self._directory / "lock").stat())
        except FileNotFoundError:
            return False
        return same and self.path.exists()

    def _drop(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            with suppress(IndexFileError):
                store.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FOR_OWNER), "w", encoding="utf-8") as file:
        file.write(text)
