"""ASGI middleware for reverse proxies in front of the gateway: finds the address of the client."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send

from qwen3vl_ros.gateway.settings import SettingsError

_Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"


class TrustedProxies:
    """Reads the client's address, and http or https, from the headers of trusted proxies only.

    A proxy appends its peer's address to ``X-Forwarded-For``; earlier entries came with the request and may be forged.
    So the last address counts, or if that is a trusted proxy itself, the one before.
    """

    def __init__(self, app: ASGIApp, proxies: Sequence[str]) -> None:
        """Parse the proxies, "" for none; raises :class:`SettingsError` unless all are IP addresses or networks."""
        self._app = app
        self._networks = [_network(proxy) for proxy in proxies if proxy]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request with the client's address in ``scope["client"]``."""
        if scope["type"] == "http" and self._networks and (peer := scope.get("client")):
            headers = scope["headers"]
            client = self.client_of(peer[0], [value for name, value in headers if name == b"x-forwarded-for"])
            if client != peer[0]:
                scope["client"] = (client, 0)
            if self._trusts(peer[0]):
                for name, value in headers:
                    if name == b"x-forwarded-proto" and value.strip().lower() in (b"http", b"https"):
                        scope["scheme"] = value.strip().lower().decode()
        await self._app(scope, receive, send)

    def client_of(self, peer: str, forwarded: Sequence[bytes]) -> str:
        """Return the address of the client.

        Args:
            peer: Address of the connection's other end.
            forwarded: Values of the request's X-Forwarded-For headers, in their order.
        """
        client = peer
        for text in reversed(b",".join(forwarded).split(b",")):
            if not self._trusts(client) or (address := _address(text.decode("latin-1").strip())) is None:
                break
            client = str(address)
        return client

    def _trusts(self, client: str) -> bool:
        address = _address(client)
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> _Address | None:
    """Parse an IP address without a zone, which is free text; an IPv4-mapped IPv6 address is returned as IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    return address.ipv4_mapped or (None if address.scope_id else address)


def _network(text: str) -> _Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise SettingsError(
            f"trusted_proxies: {text!r} is neither an IP address nor a network such as 10.0.0.0/8"
        ) from None
