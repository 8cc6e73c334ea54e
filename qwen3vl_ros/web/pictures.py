"""Pictures in questions: out of ``data:`` URLs, and none larger than allowed."""

from __future__ import annotations

import base64
import binascii
import io
import re
import urllib.parse
from dataclasses import dataclass
from typing import Final

import PIL.Image

from qwen3vl_ros.web.errors import ApiError

_FORMATS: Final = ("JPEG", "PNG", "WEBP")
_DATA_URL: Final = re.compile(r"data:(?P<type>[^;,]*)(?P<parameters>(?:;[^;,]*)*),", re.IGNORECASE)
_FOREIGN: Final = (b"GIF8", b"BM", b"II*\x00", b"MM\x00*", b"%PDF", b"\x00\x00\x01\x00")
"""What GIF, BMP, TIFF, PDF and ICO begin with: whole, but not taken."""


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """``size`` in bytes of the file, ``pixels`` of the picture in it."""

    size: int
    pixels: int


def is_remote(url: str) -> bool:
    """Whether a URL is one to fetch. Raises :class:`ApiError` 400 for one that is neither that nor a ``data:`` URL."""
    scheme = url[:8].lower()
    if scheme.startswith("data:"):
        return False
    if scheme.startswith(("http://", "https://")):
        return True
    raise ApiError(
        400,
        "invalid_image_url",
        "a picture's URL begins with data:image/jpeg;base64, (or http:// where the gateway allows its host); files of "
        "this machine are not read",
        param="messages",
    )


def of_data_url(url: str, limits: PictureLimits) -> bytes:
    """The picture file in a ``data:`` URL, checked. Raises :class:`ApiError` 400, 413 and 415."""
    head = _DATA_URL.match(url, 0, 300)
    if head is None:
        raise _broken("the data: URL has no comma before its data: write data:image/jpeg;base64,...")
    if head["type"] and not head["type"].lower().startswith("image/"):
        raise _unsupported(f"the data: URL holds {head['type'][:60]!r}, not a picture")
    if not head["parameters"].lower().endswith(";base64"):
        raise _broken("the data: URL is not in base64: write data:image/jpeg;base64,...")
    encoded = url[head.end() :]
    if len(encoded) > limits.size * 3 // 2 + 100:  # a third more by base64, and room for line breaks
        raise _too_large(limits)
    try:
        content = base64.b64decode(urllib.parse.unquote(encoded), validate=False)
    except (binascii.Error, ValueError) as error:
        raise _broken(f"the base64 in the data: URL is broken: {error}") from None
    return checked(content, limits)


def checked(content: bytes, limits: PictureLimits) -> bytes:
    """A picture file that may be decoded: its header is read, its pixels are not. Raises as :func:`of_data_url`."""
    if len(content) > limits.size:
        raise _too_large(limits)
    if not content:
        raise _broken("the picture is empty")
    if content.startswith(_FOREIGN):
        raise _unsupported("the picture is neither JPEG, PNG nor WebP")
    try:
        with PIL.Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            width, height = picture.size
    except PIL.Image.DecompressionBombError:
        width = height = limits.pixels
    except Exception as error:  # noqa: BLE001 Pillow on untrusted bytes raises what it likes
        raise _broken(
            f"the picture's {len(content)} bytes are no JPEG, PNG or WebP that can be read ({type(error).__name__})"
        ) from None
    if width * height > limits.pixels:
        raise ApiError(
            413,
            "image_too_large",
            f"the picture has {width}x{height} pixels or more; {limits.pixels} are accepted: scale it down",
            param="messages",
        )
    return content


def _broken(message: str) -> ApiError:
    return ApiError(400, "bad_image", message, param="messages")


def _unsupported(message: str) -> ApiError:
    return ApiError(415, "unsupported_image", f"{message}; send JPEG, PNG or WebP", param="messages")


def _too_large(limits: PictureLimits) -> ApiError:
    return ApiError(413, "image_too_large", f"the picture is larger than {limits.size} bytes", param="messages")
