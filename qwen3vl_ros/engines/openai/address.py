"""Where the servers of the ``openai`` engine are and with what key: its parameters, checked; what must stay secret."""

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
    """A key, "" for none. ``source``: a phrase that says where it is from, or where it would be looked for."""

    value: str = field(repr=False)
    source: str


@dataclass(frozen=True, slots=True)
class Address:
    """``url`` has no credentials and can be shown; ``headers`` have them."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def redacted(self, text: str) -> str:
        """``text`` of foreign origin without the key and the password: servers repeat them in their complaints."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def find_key(env: str, file: str) -> ApiKey:
    """The key in ``file``, else in the environment variable ``env``. Raises :class:`ModelNotFound`.

    A file that others may read is used, with a warning in the log: mounted secrets often are like that.
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
    if not re.fullmatch(r"[!-~]*", value):  # what an HTTP header can carry; libraries show the value when it cannot
        raise ModelNotFound(f"What is in {source} is no API key: it has spaces, line breaks or non-ASCII characters.")
    return ApiKey(value, source)


def find_addresses(base_urls: Sequence[str], key: ApiKey) -> list[Address]:
    """The addresses in order, each once; blank ones do not count. Raises :class:`ModelNotFound`.

    The key wins over a user and password in an address, since both travel in the header ``Authorization``.
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
        # Longest first: one may be part of another.
        found.setdefault(
            shown, Address(shown, headers, tuple(sorted(filter(None, set(secrets)), key=len, reverse=True)))
        )
    if not found:
        raise ModelNotFound(
            "openai: parameter openai.base_urls is empty: give it the addresses of your servers, up to and with /v1, "
            "such as ['http://10.0.0.5:8000/v1']."
        )
    return list(found.values())
