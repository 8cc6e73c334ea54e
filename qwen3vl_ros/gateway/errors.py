"""Errors in the form that OpenAI's clients expect: an HTTP status and ``{"error": {...}}``."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from qwen3vl_ros.client.exceptions import Cancelled, PromptTooLong, VlmError

CLIENT_CLOSED_REQUEST = Cancelled.http_status
"""HTTP status of a question that was cancelled before it was answered."""


class ApiError(Exception):
    """An error response: HTTP ``status``, OpenAI's ``code`` and ``param``, and a sentence.

    ``retry_after``: seconds after which a retry may help, None if it does not.
    """

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(_sentence(message))
        self.status = status
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        return {"error": {"message": str(self), "type": _type(self.status), "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)


def of_vlm(error: VlmError) -> ApiError:
    """Return the HTTP error of a question that failed."""
    code = "context_length_exceeded" if isinstance(error, PromptTooLong) else error.name.lower()
    return ApiError(error.http_status, code, str(error), retry_after=error.retry_after)


def _sentence(message: str) -> str:
    """Return the message with a full stop, which many reasons lack: other sentences follow it on the page."""
    return message if message.rstrip().endswith((".", "!", "?", "。")) else f"{message.rstrip()}."


def _type(status: int) -> str:
    """Return OpenAI's ``type`` of an error."""
    special = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    return special.get(status, "invalid_request_error" if status < 500 else "server_error")
