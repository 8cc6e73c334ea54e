"""Decodes the ``data:`` URLs of images and videos, and checks the format and size of image files."""

from __future__ import annotations

import base64
import io
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import PIL.Image

from qwen3vl_ros.gateway.errors import ApiError

Kind: TypeAlias = Literal["image", "video"]

_EXAMPLES: Final[Mapping[Kind, str]] = {"image": "data:image/jpeg;base64,", "video": "data:video/mp4;base64,"}
_WITH_ARTICLE: Final[Mapping[Kind, str]] = {"image": "an image", "video": "a video"}
_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_DATA_URL: Final = re.compile(r"data:\s*(?P<type>[^;,]*)(?P<parameters>(?:;[^;,]*)*),", re.IGNORECASE)
_ESCAPED: Final = re.compile("%(2b|2f|3d|09|0a|0d|20)", re.IGNORECASE)
"""Percent escapes of base64 in URLs; a stray percent sign must not consume letters of the image."""

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_BLANKS: Final = b" \t\r\n\f\v"
_LETTERS: Final = string.ascii_letters.encode() + string.digits.encode()
_ALPHABETS: Final = (_LETTERS + b"+/", _LETTERS + b"-_")
"""Base64's standard and URL-safe alphabets (RFC 4648, 4 and 5)."""

_ORDINARY: Final = bytes.maketrans(b"-_", b"+/")

_FOREIGN: Final[Mapping[str, re.Pattern[bytes]]] = {
    name: re.compile(magic, re.DOTALL)
    for name, magic in {
        "GIF": rb"GIF8",
        "BMP": rb"BM",
        "TIFF": rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+",
        "PDF": rb"%PDF",
        "ICO": rb"\x00\x00[\x01\x02]\x00",
        "HEIC": rb".{4}ftyp(?:hei[cxms]|hev[cxms])|.{4}ftyp(?:mif1|msf1).{0,40}(?:hei[cxms]|hev[cxms])",
        "AVIF": rb".{4}ftyp.{0,40}avi[fs]|.{4}ftyp(?:mif1|msf1)",
        "a film": rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ",
        "JPEG 2000": rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51",
        "JPEG XL": rb"\x00\x00\x00\x0cJXL |\xff\x0a",
        "SVG": rb"(?:\xef\xbb\xbf)?\s{0,100}<(?:svg|\?xml|!DOCTYPE svg)",
        "PPM": rb"P[1-7]\s",
        "Photoshop": rb"8BPS",
    }.items()
}
"""First bytes of unsupported formats that clients send as images; the first match names the format."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """``size`` in bytes of the file, ``pixels`` of the image in it."""

    size: int
    pixels: int


def source_of(url: str, kind: Kind = "image") -> Literal["data", "http", "file"]:
    """Return where the URL of an image or a video leads: inline data, another server, or a file.

    A file is a path, with or without ``file://``.

    Raises :class:`ApiError` 400 for a URL of another kind.
    """
    found = _SCHEME.match(url.lstrip(), 0, 30)
    scheme = found[0].lower() if found else ""
    if scheme in ("data:", "http:", "https:"):
        return "data" if scheme == "data:" else "http"
    if scheme in ("", "file:") and url.strip():
        return "file"
    raise ApiError(
        400,
        f"invalid_{kind}_url",
        f"the URL of {_WITH_ARTICLE[kind]} begins with {_EXAMPLES[kind]}"
        + (" (or http:// where the gateway allows its host)" if kind == "image" else ""),
        param="messages",
    )


def of_data_url(url: str, limits: ImageLimits) -> bytes:
    """Return the image file in a ``data:`` URL, checked. Raises :class:`ApiError` 400, 413 and 415."""
    return checked(content_of_data_url(url, "image", limits.size), limits)


def content_of_data_url(url: str, kind: Kind, size: int) -> bytes:
    """Return the file in a ``data:`` URL, of at most ``size`` bytes. Raises :class:`ApiError` 400, 413 and 415."""
    url = url.lstrip()
    head = _DATA_URL.match(url, 0, 300)
    if head is None:
        raise _broken(f"the data: URL has no comma before its data: write {_EXAMPLES[kind]}...", kind)
    named = head["type"].strip().lower()
    if named and not named.startswith((f"{kind}/", *(("application/octet-stream",) if kind == "video" else ()))):
        raise _unsupported(f"the data: URL holds {head['type'][:60]!r}, not {_WITH_ARTICLE[kind]}", kind)
    if head["parameters"].lower().rpartition(";")[2].strip() != "base64":
        raise _broken(f"the data: URL is not in base64: write {_EXAMPLES[kind]}...", kind)
    return _of_base64(url[head.end() :], kind, size)


def _of_base64(text: str, kind: Kind, size: int) -> bytes:
    """Decode base64 with or without padding, white space and percent escapes; anything else counts as damage."""
    if "%" in text:
        text = _ESCAPED.sub(lambda escape: chr(int(escape[1], 16)), text)
    encoded = text.encode("ascii", "replace").translate(None, _BLANKS)  # "?" is not a character of base64
    if len(encoded) > size * 4 // 3 + 100:
        raise _too_large(size, kind)
    letters = encoded.rstrip(b"=")
    padding = len(encoded) - len(letters)
    if padding > 2 or all(letters.translate(None, alphabet) for alphabet in _ALPHABETS):
        raise _broken("the base64 in the data: URL is damaged: it has characters that are none of base64's", kind)
    if len(letters) % 4 == 1 or (padding and len(encoded) % 4):
        raise _broken("the base64 in the data: URL is damaged: some of its characters are missing", kind)
    return base64.b64decode(letters.translate(_ORDINARY) + b"=" * (-len(letters) % 4))


def checked(content: bytes, limits: ImageLimits) -> bytes:
    """Return ``content`` if it is an image file within the limits; reads only its header, not its pixels.

    Raises:
        ApiError: As of :func:`of_data_url`.
    """
    if len(content) > limits.size:
        raise _too_large(limits.size)
    if not content:
        raise _broken("the image is empty")
    if (foreign := next((name for name, magic in _FOREIGN.items() if magic.match(content)), None)) is not None:
        video = ": videos are parts of the type video_url" if foreign == "a film" else ""
        raise _unsupported(f"the image is {foreign}, which is not taken{video}")
    try:
        with PIL.Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            pixels = image.width * image.height
            shown = f"{image.width}x{image.height} pixels"
    except PIL.Image.DecompressionBombError:
        pixels = limits.pixels + 1
        shown = "far more pixels than a camera's image"
    except Exception as error:  # noqa: BLE001 Pillow may raise anything on untrusted bytes
        raise _broken(
            f"the image's {len(content)} bytes are no JPEG, PNG or WebP that can be read ({type(error).__name__})"
        ) from None
    if pixels > limits.pixels:
        raise ApiError(
            413,
            "image_too_large",
            f"the image has {shown}; {limits.pixels} are accepted: scale it down",
            param="messages",
        )
    return content


def _broken(message: str, kind: Kind = "image") -> ApiError:
    return ApiError(400, f"bad_{kind}", message, param="messages")


def _unsupported(message: str, kind: Kind = "image") -> ApiError:
    formats = "JPEG, PNG or WebP" if kind == "image" else "MP4, WebM, Matroska or AVI"
    return ApiError(415, f"unsupported_{kind}", f"{message}; send {formats}", param="messages")


def _too_large(size: int, kind: Kind = "image") -> ApiError:
    return ApiError(413, f"{kind}_too_large", f"the {kind} is larger than {size} bytes", param="messages")
