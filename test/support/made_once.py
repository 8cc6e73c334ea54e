"""Folders that take long to make: made once, for all processes that run tests and for the next runs."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return ``folder``, which ``make`` fills unless it is there; a second process that wants it waits meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


def digest(files: Iterable[Path], packages: Iterable[str] = ()) -> str:
    """A name for what is made of these files by these packages: another one when a file or a version changes."""
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    for package in packages:
        found.update(f"{package} {version(package)} ".encode())
    return found.hexdigest()[:16]
