"""Where the page of `qwen3vl-ros demo --keep` is: for this machine alone, or for a phone as well."""

from __future__ import annotations

import errno
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qwen3vl_ros.cli import phone

PAGE_PORT = 8080


class DemoError(Exception):
    """The demo cannot continue; the message says why and what to do."""


@dataclass(frozen=True)
class Page:
    """Where the page of `demo --keep` is, and the parameters of the node ``web`` that put it there."""

    host: str
    port: int
    parameters: tuple[str, ...] = ()
    token: str = ""

    @property
    def url(self) -> str:
        """Its address, without the token."""
        return f"{'https' if self.token else 'http'}://{self.host}:{self.port}"


@contextmanager
def place_for_page(port: int | None, phone_address: str | None) -> Iterator[Page]:
    """Find host and port of the page; for a phone also make a token and, for as long, a certificate.

    Raises:
        DemoError: The address or the port cannot be had.
    """
    if phone_address is None:
        yield Page("127.0.0.1", _free_port("127.0.0.1", port))
        return
    with tempfile.TemporaryDirectory(prefix="qwen3vl_ros_phone_") as directory:
        try:
            host = phone_address or phone.network_address()
            certificate, key = phone.make_certificate(host, Path(directory))
        except (phone.NoNetwork, ValueError) as error:
            raise DemoError(str(error)) from None
        files = (f"host:={host}", f"tls_certificate:={certificate}", f"tls_key:={key}")
        yield Page(host, _free_port(host, port), files, phone.new_token())


def _free_port(host: str, wanted: int | None) -> int:
    """Return the port that is wanted for the page; for None the usual one, or any free one.

    Raises:
        DemoError: The one that is wanted is taken, or this machine does not have the address.
    """
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the page's server does
        try:
            trial.bind((host, wanted or PAGE_PORT))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise DemoError(f"This machine has no address {host}: --phone alone finds the right one.") from None
            if wanted is not None:
                raise DemoError(
                    f"The page cannot have port {wanted} ({error.strerror}): choose another --port."
                ) from None
            trial.bind((host, 0))
        return int(trial.getsockname()[1])
