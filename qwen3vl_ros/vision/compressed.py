"""Image files, and messages with one in them, to RGB arrays: of the node, of its clients and of the gateway.

Pillow reads the header, so that an image too large is refused before it is decoded; OpenCV decodes JPEG and PNG (four
times as fast as Pillow for a 1080p JPEG). Pillow decodes what has transparency, which it can blend, and other formats.
"""

from __future__ import annotations

import io
from typing import Final

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage as CompressedImageMessage
from sensor_msgs.msg import Image as ImageMessage

from qwen3vl_ros.engines.base import BadImage, Image
from qwen3vl_ros.vision.encodings import MAX_PIXELS, to_rgb

_JPEG_START: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"


def pixels_of(msg: ImageMessage | CompressedImageMessage) -> Image:
    """Return the image in a message of either kind, as :func:`decode` and :func:`to_rgb` do. Raises BadImage."""
    return decode(msg) if isinstance(msg, CompressedImageMessage) else to_rgb(msg)


def decode(msg: CompressedImageMessage) -> Image:
    """Return the image in ``msg`` as :func:`decode_file` does.

    The bytes say whether it is JPEG or PNG, not ``msg.format``, which drivers fill in as they like.

    Raises:
        BadImage: As of :func:`decode_file`, and for anything but JPEG and PNG (compressedDepth, video, TIFF ...).
    """
    data = bytes(msg.data)
    what = f"The compressed image of format {msg.format!r}"
    if "compressedDepth" in msg.format:
        raise BadImage(f"{what} is a depth image of the transport compressedDepth; send a JPEG or PNG image instead.")
    if not data.startswith((_JPEG_START, _PNG_START)):
        raise BadImage(f"{what} is neither JPEG nor PNG: its {len(data)} bytes begin with {data[:8].hex(' ')!r}.")
    return decode_file(data, what)


def decode_file(data: bytes, what: str) -> Image:
    """Return the image in a file: uint8, shape [height, width, 3], colour order RGB, C-contiguous.

    JPEG and PNG of every kind, and of other formats what Pillow reads: grey, palette, CMYK, 16 bits (the upper 8 are
    kept). Transparent pixels are blended onto white, as a viewer shows them (and as Qwen's own preprocessing does:
    ``qwen_vl_utils.vision_process.to_rgb``). The orientation in EXIF is applied: cameras on robots do not set it,
    phones do, and everybody who looks at the image sees it upright.

    Args:
        data: What is in the file.
        what: Begins the sentence that says what is wrong with it.

    Raises:
        BadImage: It is no image, has more than :data:`~qwen3vl_ros.vision.encodings.MAX_PIXELS`, or is cut off or
            broken. A JPEG that lost bytes in its middle but not its end cannot be told from a whole one: JPEG has no
            checksum.
    """
    try:
        return _decode(data, what)
    except BadImage:
        raise
    except Exception as error:  # third-party decoders on untrusted bytes: they raise what they like
        raise BadImage(f"{what}, {len(data)} bytes, cannot be decoded: {error}.") from error


def _decode(data: bytes, what: str) -> Image:
    """Decode a file; raises anything."""
    file = io.BytesIO(data)
    is_usual = data.startswith((_JPEG_START, _PNG_START))
    try:
        header = PIL.Image.open(file, formats=("JPEG", "PNG") if is_usual else None)
    except PIL.UnidentifiedImageError:
        if is_usual:
            raise
        raise BadImage(f"{what} is not an image that can be read; JPEG and PNG always can.") from None
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"{what} has {width}x{height} pixels, more than the {MAX_PIXELS} that are accepted.")
    if header.has_transparency_data:
        image = PIL.ImageOps.exif_transpose(header.convert("RGBA"))
        white = PIL.Image.new("RGBA", image.size, "white")
        return np.array(PIL.Image.alpha_composite(white, image).convert("RGB"))
    if not is_usual:
        image = PIL.ImageOps.exif_transpose(header)
        return _upper_bits(image) if image.mode.startswith("I") else np.array(image.convert("RGB"))
    # Pillow stops reading where the first scan begins. OpenCV 4.6 (Ubuntu 24.04) makes up what is missing after that.
    if data.startswith(_JPEG_START) and data.rfind(_JPEG_END, file.tell()) < 0:
        raise BadImage(f"{what}, {width}x{height} pixels, is cut off: its {len(data)} bytes have no end marker.")
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if bgr is None:
        raise BadImage(f"{what}, {width}x{height} pixels, is cut off or broken: its {len(data)} bytes do not decode.")
    return np.ascontiguousarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _upper_bits(image: PIL.Image.Image) -> Image:
    """Return grey of 16 bits as RGB; Pillow's own conversion makes white of all but the darkest."""
    grey: NDArray[np.uint8] = (np.clip(np.asarray(image), 0, 0xFFFF) >> 8).astype(np.uint8)
    return np.stack([grey] * 3, axis=2)
