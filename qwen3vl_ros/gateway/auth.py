"""Authentication of requests, and the security headers of every response. ASGI middleware."""

from __future__ import annotations

import hashlib
import hmac
import urllib.parse
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.settings import Access

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src data:; "
        "connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        # The page's policy `answers` is all that turns text into HTML, and it gets what /api/render has cleaned.
        "require-trusted-types-for 'script'; trusted-types answers"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Security headers of every response."""


class Authentication:
    """Accepts requests with the token, or if there is none, those from this same site; refuses all others."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._hosts = access.hosts
        self._digest = _digest(access.token) if access.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            self._check(scope["path"], Headers(scope=scope))
        except ApiError as error:
            await error.response()(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _check(self, path: str, headers: Headers) -> None:
        if self._digest is not None:
            if not _is_page(path):
                self._check_token(headers.get("authorization", ""))
        elif self._hosts:
            self._check_site(headers)

    def _check_token(self, authorization: str) -> None:
        assert self._digest is not None
        scheme, _, token = authorization.partition(" ")
        # Compare digests, which have equal lengths, so that the time does not even reveal the token's length.
        if not (hmac.compare_digest(self._digest, _digest(token.strip())) and scheme.lower() == "bearer"):
            raise ApiError(
                401,
                "invalid_api_key" if authorization else "missing_api_key",
                "this gateway wants a token: send the header Authorization: Bearer TOKEN (api_key of OpenAI's clients)",
            )

    def _check_site(self, headers: Headers) -> None:
        """Refuse requests that a browser on this machine sends on behalf of another site (DNS rebinding, CSRF)."""
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            raise ApiError(
                403,
                "unknown_host",
                f"this gateway is not known as {host[:100]!r}: add the name to the parameter allowed_hosts",
            )
        origin = headers.get("origin")
        if origin is not None and urllib.parse.urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, "foreign_origin", "pages of other sites may not ask here (CORS is off)")


def _is_page(path: str) -> bool:
    """Return whether the path is the page's, which is public: it shows nothing until a user enters the token."""
    return path == "/" or path.startswith("/static/")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _name(host: str) -> str:
    """Return the name in a Host header, without the port; "" for a malformed one."""
    try:
        return (urllib.parse.urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
