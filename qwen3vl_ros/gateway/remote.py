"""Fetches images from other servers: only from listed hosts, and never through a redirect to a private network."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

import anyio
import anyio.to_thread
import httpx

from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.images import ImageLimits, checked

_TIMEOUT: Final = 15.0
"""Seconds for a whole image, redirects included."""

_MOST_REDIRECTS: Final = 3


class RemoteImages:
    """Fetches from ``hosts`` (names or addresses).

    A listed host may be in a private network, since the gateway's owner listed it. A redirect may lead only to listed
    hosts with public addresses, since the other server chooses its target. A name is resolved once, and the connection
    uses the checked address, so that a second resolution cannot give another one.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = frozenset(host.lower() for host in hosts if host)

    async def fetch(self, url: str, limits: ImageLimits) -> bytes:
        """Return the image file at ``url``, checked. Raises :class:`ApiError` 400, 413 and 415."""
        if not self._hosts:
            raise _refused("images are not fetched from other servers here; send a data: URL")
        try:
            with anyio.fail_after(_TIMEOUT):
                content = await self._follow(httpx.URL(url), limits.size)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise _refused(f"the image cannot be fetched: {type(error).__name__}") from None
        return await anyio.to_thread.run_sync(checked, content, limits)

    async def _follow(self, url: httpx.URL, size: int) -> bytes:
        # Ignore this machine's environment: no proxy, no .netrc.
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT) as client:
            for hop in range(_MOST_REDIRECTS + 1):
                request = await self._request(client, url, redirected=hop > 0)
                response = await client.send(request, stream=True)
                try:
                    if response.has_redirect_location:
                        url = url.join(response.headers["location"])
                        continue
                    if response.status_code != 200:
                        raise _refused(f"the image's server answered {response.status_code}")
                    return await _content(response, size)
                finally:
                    await response.aclose()
        raise _refused(f"the image's URL was redirected more than {_MOST_REDIRECTS} times")

    async def _request(self, client: httpx.AsyncClient, url: httpx.URL, *, redirected: bool) -> httpx.Request:
        """Return a request to a checked address; TLS and the Host header use the name."""
        if url.scheme not in ("http", "https") or url.userinfo or url.host.lower() not in self._hosts:
            raise _refused("the host of the image's URL is not one that this gateway fetches from")
        port = url.port or (443 if url.scheme == "https" else 80)
        if port > 65535:
            raise _refused(f"the image's URL names port {port}, which there is not")
        found = await anyio.getaddrinfo(url.host, port, type=socket.SOCK_STREAM)
        address = str(found[0][4][0])
        if redirected and not ipaddress.ip_address(address.partition("%")[0]).is_global:
            raise _refused("the image's URL is redirected to an address inside a private network")
        headers = {"Host": url.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"}
        return client.build_request(
            "GET", url.copy_with(host=address), headers=headers, extensions={"sni_hostname": url.host}
        )


async def _content(response: httpx.Response, size: int) -> bytes:
    """Return the body of a response, up to the first piece beyond ``size`` bytes: checking then refuses it."""
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > size:
            break
    return bytes(content)


def _refused(message: str) -> ApiError:
    return ApiError(400, "invalid_image_url", message, param="messages")
