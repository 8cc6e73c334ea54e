"""Images in a directory of this machine, which questions name by paths relative to it: the parameter ``media_path``."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.images import ImageLimits, checked
from qwen3vl_ros.gateway.settings import SettingsError

_SCHEME: Final = "file://"
"""Optional prefix of the path, which stays relative, as with llama-server's ``--media-path``."""

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class MediaDirectory:
    """Reads image files below a directory, and nothing else on this machine.

    Each component of a path is opened relative to the directory opened before it, without following symbolic links, so
    that the file is below the directory even if the file system changes at the same time. Percent escapes are not
    decoded: ``%2e`` is not a dot.
    """

    def __init__(self, path: str) -> None:
        """``path``: the directory; "" allows no file. Raises :class:`SettingsError` if it does not exist."""
        self._root = Path(path).expanduser().resolve() if path else None
        if self._root is not None and not self._root.is_dir():
            raise SettingsError(f"media_path {path}: there is no such directory")

    def read(self, url: str, limits: ImageLimits) -> bytes:
        """Return the image file at ``url``, a relative path or a ``file://`` URL with one, checked.

        Raises:
            ApiError: 400 if there is no such file, 413 and 415 as :func:`~qwen3vl_ros.gateway.images.checked`.
        """
        if self._root is None:
            raise _refused(
                "an image's URL begins with data:image/jpeg;base64, (or http:// where the gateway allows its host); "
                "files of this machine are not read, unless the gateway's parameter media_path names a directory"
            )
        url = url.strip()
        path = url[len(_SCHEME) :] if url[: len(_SCHEME)].lower() == _SCHEME else url
        steps = [step for step in path.split("/") if step not in ("", ".")]
        if path.startswith("/") or ".." in steps or not steps:
            raise _refused("the path of an image is relative to the gateway's media_path, and does not lead out of it")
        try:
            content = _content(self._root, steps, limits.size + 1)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            raise _refused(
                "the gateway's media_path has no such image; only plain files are read, and no symbolic links followed"
            ) from None
        return checked(content, limits)


def _content(root: Path, steps: Sequence[str], most: int) -> bytes:
    """Return the first ``most`` bytes of a plain file below ``root``. Raises OSError if there is none."""
    directory = os.open(root, _DIRECTORY)
    try:
        for step in steps[:-1]:
            inner = os.open(step, _DIRECTORY, dir_fd=directory)
            os.close(directory)
            directory = inner
        _check_plain(os.stat(steps[-1], dir_fd=directory, follow_symlinks=False))  # opening a device may do something
        file = os.open(steps[-1], _FILE, dir_fd=directory)
    finally:
        os.close(directory)
    with os.fdopen(file, "rb") as opened:
        _check_plain(os.fstat(file))
        return opened.read(most)


def _check_plain(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError("no plain file")


def _refused(message: str) -> ApiError:
    return ApiError(400, "invalid_image_url", message, param="messages")
