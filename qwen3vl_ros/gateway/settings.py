"""How the gateway is set up: each field is a parameter of the node ``web``, described where it is declared."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qwen3vl_ros.ros.parameters import flag, number, text, texts

TOKEN_VARIABLE = "QWEN3VL_WEB_TOKEN"
"""Environment variable that has the bearer token where no file is named."""

_SHORTEST_TOKEN = 16


class SettingsError(ValueError):
    """The gateway cannot be started like this; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The parameters of the node ``web``. Times in seconds, sizes in bytes."""

    host: str = text(
        "127.0.0.1", "Address to listen on. Beyond this machine's own it needs a token, or allow_without_token."
    )
    port: int = number(8080, 0, 65535, "TCP port to listen on. 0: a free one, which the log names.")
    node_name: str = text("vlm", "Name of the node to ask; relative to this node's namespace.")
    token_file: str = text(
        "", f"File with the bearer token that every client has to send. Empty: the environment's {TOKEN_VARIABLE}."
    )
    tls_certificate: str = text(
        "", "File with the certificate, PEM, with which the gateway serves https instead of http; with tls_key."
    )
    tls_key: str = text("", "File with the private key of tls_certificate, PEM, without a password.")
    allow_without_token: bool = flag(
        False, "Listen beyond this machine without a token: everybody who reaches the port may look and ask."
    )
    allowed_hosts: tuple[str, ...] = texts(
        ("",),
        "Without a token: names by which browsers reach this gateway, beside this machine's own (Host header), such as "
        "that of a reverse proxy.",
    )
    trusted_proxies: tuple[str, ...] = texts(
        ("",),
        "Addresses or networks of reverse proxies whose X-Forwarded-For says who the client is. Empty: nobody's does.",
    )
    timeout: float = number(120.0, 1.0, 86400.0, "Seconds that a question may take, waiting in the queue included.")
    concurrency: int = number(3, 1, 1000, "Questions at a time; one more gets status 503.")
    rate_limit: int = number(
        60, 0, 100_000, "Questions a minute from one client's address; more get status 429. 0: any number."
    )
    max_image_bytes: int = number(10_000_000, 1000, 1_000_000_000, "Largest image in a question, bytes.")
    max_image_pixels: int = number(
        40_000_000, 1000, 100_000_000, "Most pixels of an image in a question; looked at before it is decoded."
    )
    max_video_bytes: int = number(20_000_000, 1000, 1_000_000_000, "Largest video in a question, bytes.")
    max_video_duration: float = number(300.0, 1.0, 86400.0, "Longest video in a question, seconds.")
    max_request_bytes: int = number(30_000_000, 10_000, 1_000_000_000, "Largest request, bytes.")
    body_timeout: float = number(
        30.0,
        1.0,
        3600.0,
        "Seconds that a client may take to send its question, images included; then it gets status 408.",
    )
    remote_image_hosts: tuple[str, ...] = texts(
        ("",), "Hosts that images may be fetched from when a question has their http(s) URL. Empty: none."
    )
    media_path: str = text(
        "", "Directory whose image files questions may name by relative paths, or file:// and one. Empty: none."
    )
    strict_model: bool = flag(
        False, "Refuse questions that name another model than the one that answers, with status 404."
    )
    log_directory: str = text(
        "", "Where access.log, model.log and error.log go. Empty: qwen3vl_web in ROS's log directory."
    )


@dataclass(frozen=True, slots=True)
class Access:
    """What authentication checks: ``token``, or, where that is "", names in the Host header; no ``hosts``: any."""

    token: str
    hosts: frozenset[str]


def access(settings: Settings, environment: Mapping[str, str] = os.environ) -> Access:
    """Return what the settings mean for clients.

    Raises:
        SettingsError: The gateway would be open to the network without anybody having said so.
    """
    token = _token(settings, environment)
    if not token and not is_loopback(settings.host) and not settings.allow_without_token:
        raise SettingsError(
            f"host {settings.host} can be reached from other machines, and there is no token: put one into a file and "
            f"name it in token_file, or into the environment's {TOKEN_VARIABLE}; or set allow_without_token, and "
            "everybody who reaches the port may look through the cameras"
        )
    hosts = (
        frozenset()
        if settings.allow_without_token
        else frozenset(
            {"localhost", "127.0.0.1", "::1", settings.host.lower(), *(host.lower() for host in settings.allowed_hosts)}
        )
    )
    return Access(token, frozenset() if token else hosts - {""})


def check_tls(settings: Settings) -> None:
    """Raise SettingsError where certificate and key are not what the server can use."""
    if not settings.tls_certificate and not settings.tls_key:
        return
    if not settings.tls_certificate or not settings.tls_key:
        raise SettingsError("tls_certificate and tls_key go together: name both files, or none for http")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_certificate, settings.tls_key, password=lambda: ""
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SettingsError(
            f"tls_certificate {settings.tls_certificate} with tls_key {settings.tls_key} cannot be used ({error}): "
            "both are PEM files, and the key has no password and belongs to the certificate"
        ) from error


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _token(settings: Settings, environment: Mapping[str, str]) -> str:
    if settings.token_file:
        path = Path(settings.token_file).expanduser()
        try:
            token = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"token_file {path} cannot be read: {error}") from error
        source = f"token_file {path}"
    else:
        token, source = environment.get(TOKEN_VARIABLE, "").strip(), f"the environment's {TOKEN_VARIABLE}"
        if not token:
            return ""
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or " " in token:
        raise SettingsError(
            f"{source} has to be one word of at least {_SHORTEST_TOKEN} ASCII characters; "
            "make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return token
