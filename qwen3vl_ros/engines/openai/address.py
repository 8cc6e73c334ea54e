"""Checks the addresses and the API key of the ``openai`` engine's servers, and redacts secrets in foreign text."""

from __future__ import annotations

import base64
import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from qwen3vl_ros.engines.base import ModelNotFound

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, "" for none. ``source``: a phrase that names the file or variable it was read from, or would be."""

    value: str = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class Address:
    """A server's address. ``url`` has no credentials and may be shown; ``headers`` carry them."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def redacted(self, text: str) -> str:
        """Return ``text`` from a server with key and password replaced by ``***``: servers quote them in errors."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def find_key(env: str, file: str) -> ApiKey:
    """Read the key from ``file``, or without one from the environment variable ``env``.

    A file that other users may read is used with a warning in the log, because mounted secrets often have such modes.

    Raises:
        ModelNotFound: The file cannot be read, or the key has characters that no HTTP header can carry.
    """
    if file:
        path = Path(file).expanduser()
        source = f"the file {path} (openai.api_key_file)"
        try:
            value = path.read_text(encoding="utf-8").strip()
            mode = path.stat().st_mode
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ModelNotFound(f"The API key cannot be read from {source}: {reason}.") from None
        if not value:
            raise ModelNotFound(f"There is no API key in {source}: it is empty.")
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            _log.warning(
                "Other users of this machine can read the API key in %s; `chmod 600 %s` ends that.", path, path
            )
    else:
        value = os.environ.get(env, "").strip() if env else ""
        source = f"the environment variable {env} (openai.api_key_env)" if env else "openai.api_key_file"
    if not re.fullmatch(r"[!-~]*", value):  # else an HTTP library would refuse the header and print the key
        raise ModelNotFound(f"What is in {source} is no API key: it has spaces, line breaks or non-ASCII characters.")
    return ApiKey(value, source)


def find_addresses(base_urls: Sequence[str], key: ApiKey) -> list[Address]:
    """Parse ``base_urls`` in order, without duplicates and blank entries.

    The key wins over user and password in an address, since both are sent in the header ``Authorization``.

    Raises:
        ModelNotFound: An entry is not an address, or there is none.
    """
    found: dict[str, Address] = {}
    for text in filter(None, map(str.strip, base_urls)):
        try:
            url = httpx.URL(text)
            usable = url.scheme in ("http", "https") and bool(url.host) and not url.query and not url.fragment
        except (httpx.InvalidURL, ValueError):
            usable = False
        if not usable:
            shown = re.sub(r"//.*@", "//", text).partition("?")[0]
            raise ModelNotFound(
                f"openai.base_urls: {shown!r} is not an address of the kind http://HOST:PORT/v1, without ? and #."
            )
        secrets = [key.value]
        authorization = f"Bearer {key.value}" if key.value else ""
        if url.userinfo:
            credentials = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
            raw_password = url.userinfo.decode("ascii").partition(":")[2]
            secrets += [url.password, raw_password, credentials]
            authorization = authorization or f"Basic {credentials}"
        shown = str(url.copy_with(username=None, password=None)).rstrip("/")
        headers = {"Authorization": authorization} if authorization else {}
        # Redact the longest first: one secret may be part of another.
        found.setdefault(
            shown, Address(shown, headers, tuple(sorted(filter(None, set(secrets)), key=len, reverse=True)))
        )
    if not found:
        raise ModelNotFound(
            "openai: parameter openai.base_urls is empty: give it the addresses of your servers, up to and with /v1, "
            "such as ['http://10.0.0.5:8000/v1']."
        )
    return list(found.values())
