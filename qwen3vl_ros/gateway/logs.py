"""Rotating logs of requests, loaded models and errors. They never contain an image, a question or a token."""

from __future__ import annotations

import json
import logging
import logging.handlers
import re
import time
import traceback
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen3vl_ros import defect
from qwen3vl_ros.gateway.errors import CLIENT_CLOSED_REQUEST, ApiError
from qwen3vl_ros.gateway.metrics import Metrics

ACCESS: Final = logging.getLogger("qwen3vl_ros.gateway.access")
MODEL: Final = logging.getLogger("qwen3vl_ros.gateway.model")
ERROR: Final = logging.getLogger("qwen3vl_ros.gateway.error")
SERVER: Final = logging.getLogger("uvicorn.error")
"""uvicorn's logger; it writes to error.log, too."""

_SIZE, _FILES = 5_000_000, 5

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Characters that begin a line or control a terminal."""

_CONTINUED: Final = "\n    "
"""Indentation of an entry's further lines; entries begin at the left margin, so that no client can forge one."""


class Entries(logging.Formatter):
    """Formats each record as one entry; control characters from clients are escaped."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")

    def format(self, record: logging.LogRecord) -> str:
        """Return the entry, its further lines, such as those of a traceback, indented."""
        return _CONTINUED.join(_escaped(line) for line in super().format(record).rstrip("\n").split("\n"))


def quoted(value: object, most: int) -> str:
    """Return the first ``most`` characters of a client's value as a JSON string, whose end is unambiguous."""
    return _escaped(json.dumps(str(value)[:most]))


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def open_logs(directory: Path) -> None:
    """Write access.log, model.log and error.log to ``directory``, 5 MB each, with 5 old ones kept. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {"access": [ACCESS], "model": [MODEL], "error": [ERROR, SERVER]}
    for name, loggers in files.items():
        handler = logging.handlers.RotatingFileHandler(
            directory / f"{name}.log", maxBytes=_SIZE, backupCount=_FILES, encoding="utf-8"
        )
        handler.setFormatter(Entries())
        for logger in loggers:
            logger.addHandler(handler)
            logger.propagate = False
            logger.setLevel(logging.WARNING if logger is SERVER else logging.INFO)


class Defects:
    """ASGI middleware: logs a defect of this package as a traceback in error.log, and sends OpenAI's error object."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        begun = False

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if begun:
                raise  # the server closes the connection: the client sees that the response is not whole
            calls = "".join(traceback.format_tb(error.__traceback__))
            # Truncated, since the message may quote the request.
            what = quoted(scope["method"], 20), quoted(scope["path"], 200), type(error).__name__, quoted(error, 300)
            ERROR.error("%s %s: %s: %s\n%s", *what, calls)
            self._metrics.failed("unknown")
            message = defect(f"{type(error).__name__} (error.log has the details)")
            await ApiError(500, "unknown", message).response()(scope, receive, send)


class AccessLog:
    """ASGI middleware: writes a line at the end of every request, and counts it in the metrics."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        status, begin = 500, time.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            duration = time.monotonic() - begin
            if state.get("gone"):
                status = CLIENT_CLOSED_REQUEST
            route = scope.get("route")
            path = getattr(route, "path", "other")
            self._metrics.responded(path, status, duration)
            client = scope["client"][0] if scope.get("client") else "-"
            image = state.get("image_name") or (f"{state['images']} images" if state.get("images") else "-")
            # The server guarantees that the client's address and the method are single words.
            shown = client, scope["method"], quoted(scope["path"], 200), quoted(image, 100)
            ACCESS.info("%s %s %s %s %d %.3f s", *shown, status, duration)
