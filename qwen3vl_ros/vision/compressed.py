"""Decodes image files, and messages that contain one, to RGB arrays, for the node, its clients and the gateway.

Pillow reads the header, so that an image too large is refused before it is decoded; OpenCV decodes JPEG and PNG (four
times as fast as Pillow for a 1080p JPEG). Pillow decodes what has transparency, which it can blend, and other formats.

Where image_transport wrote the field ``format`` of a CompressedImage, it is "ORIGINAL; CODEC compressed [TARGET]" or
"ORIGINAL; compressedDepth [CODEC]" (CompressedImage.msg): the encodings of the raw image and of what the codec got.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from typing import Any, Final

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage as CompressedImageMessage
from sensor_msgs.msg import Image as ImageMessage

from qwen3vl_ros.engines.base import BadImage, Image
from qwen3vl_ros.vision.encodings import MAX_PIXELS, is_colour, is_measurement, to_rgb
from qwen3vl_ros.vision.image_message import byte_field, image_message

_JPEG_START: Final = b"\xff\xd8\xff"
_JPEG_END: Final = b"\xff\xd9"
_PNG_START: Final = b"\x89PNG\r\n\x1a\n"
_PIXELS_OF_4K: Final = 4096 * 2160

_DARK: Final = 1 << 14
"""Thermal cameras and others have 14 bits or fewer."""

_FORMAT: Final = re.compile(r" *(?P<original>\w+) *; *\w+ compressed *(?P<target>\w*)")
_DEPTH_FORMAT: Final = re.compile(r" *(?P<original>\w+) *; *compressedDepth *(?P<codec>\w*)")
_DEPTH_HEADER: Final = struct.Struct("<iff")
"""Format, quantization A and B: ConfigHeader of compressed_depth_image_transport/compression_common.hpp."""


def pixels_of(msg: ImageMessage | CompressedImageMessage) -> Image:
    """Return the image in a message of either kind, as :func:`decode` and :func:`to_rgb` do. Raises BadImage."""
    return decode(msg) if isinstance(msg, CompressedImageMessage) else to_rgb(msg)


def decode(msg: CompressedImageMessage) -> Image:
    """Return the image in ``msg`` as :func:`decode_file` does.

    The bytes say whether it is JPEG or PNG, not ``msg.format``, which drivers fill in as they like. That field says
    what grey values mean: a Bayer mosaic, depth and other measurements are shown as the raw message would be.

    Raises:
        BadImage: As of :func:`decode_file`, for anything but JPEG and PNG (video, TIFF ...), for compressedDepth as of
            :func:`decode_depth`, and for measurements that were compressed to 8 bits.
    """
    if "compressedDepth" in msg.format:
        return to_rgb(decode_depth(msg))
    data, what = bytes(msg.data), f"The compressed image of format {msg.format!r}"
    if not data.startswith((_JPEG_START, _PNG_START)):
        raise BadImage(f"{what} is neither JPEG nor PNG: its {len(data)} bytes begin with {data[:8].hex(' ')!r}.")
    match = _FORMAT.match(msg.format)
    original = match["original"] if match else ""
    if original == "mono16" or original.startswith("bayer_") or is_measurement(original):
        samples = _guarded(_decode_unchanged, data, what)
        if samples.ndim == 2:
            return to_rgb(image_message(samples, encoding=_encoding_of(samples, original, what)))
    return decode_file(data, what)


def jpeg_file(msg: CompressedImageMessage) -> bytes:
    """Return the JPEG file in ``msg`` if every viewer shows it as :func:`decode` does, else b""."""
    match = _FORMAT.match(msg.format)
    original = match["original"] if match else ""
    data = bytes(msg.data)
    if not data.startswith(_JPEG_START) or original.startswith(("mono16", "bayer_")) or is_measurement(original):
        return b""
    try:
        turned = PIL.Image.open(io.BytesIO(data), formats=("JPEG",)).getexif().get(PIL.ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 third-party decoders raise what they like
        return b""
    return data if turned == 1 else b""


def decode_depth(msg: CompressedImageMessage) -> ImageMessage:
    """Return the depth image in a message of image_transport's compressedDepth, as the raw message that it was.

    Args:
        msg: With a PNG of 16 bits behind its header. "16UC1": the depths themselves, millimetres. "32FC1": quantized
            inverse depth, A / depth + B (codec.cpp of compressed_depth_image_transport); the result is metres, NaN
            where unknown.

    Raises:
        BadImage: Its codec is RVL, or it is cut off or broken.
    """
    data, what = bytes(msg.data), f"The depth image of format {msg.format!r}"
    match = _DEPTH_FORMAT.match(msg.format)
    if match is None or match["codec"] not in ("", "png"):
        raise BadImage(f"{what} is none that can be read: set compressedDepth's format to png in the camera's driver.")
    png = data[_DEPTH_HEADER.size :]
    if not png.startswith(_PNG_START):
        raise BadImage(f"{what} has no PNG behind its header: its {len(data)} bytes begin with {data[:20].hex(' ')!r}.")
    samples = _guarded(_decode_unchanged, png, what)
    if samples.ndim != 2 or samples.dtype != np.uint16:
        raise BadImage(f"{what} has no grey PNG of 16 bits in it.")
    if match["original"] != "32FC1":
        return image_message(samples, msg.header)
    _, a, b = _DEPTH_HEADER.unpack_from(data)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(samples > 0, a / (samples.astype(np.float32) - b), np.nan)
    return image_message(depth.astype(np.float32), msg.header)


def loss_of(msg: ImageMessage | CompressedImageMessage) -> str:
    """Return a sentence about what an image lost before it came here, "" if nothing is known.

    Colour that a driver left out when it compressed, and light: mono16 of a sensor with fewer bits is nearly black.
    """
    if isinstance(msg, CompressedImageMessage):
        match = _FORMAT.match(msg.format)
        if match and match["target"] in ("mono8", "mono16") and is_colour(match["original"]):
            return f"the image has no colour: its driver compresses {match['original']} as {match['target']}"
    elif msg.encoding == "mono16" and memoryview(msg.data).nbytes >= 2:
        samples = np.frombuffer(msg.data, ">u2" if msg.is_bigendian else "<u2", memoryview(msg.data).nbytes // 2)
        if 0 < (brightest := int(samples.max())) < _DARK:
            return (
                f"the image is nearly black: mono16 counts to 65535, and its brightest pixel has {brightest}; "
                "publish measurements (thermal, depth) as 16UC1"
            )
    return ""


def is_heavy(msg: CompressedImageMessage) -> bool:
    """Return whether decoding an image may take seconds or hundreds of megabytes, so that it is to be killable.

    So it is for more pixels than 4K has, as a PNG of some hundred kilobytes can, and for a progressive JPEG, whose
    scans, of which 300 kB hold thousands, are each decoded over the whole image.
    """
    try:
        header = PIL.Image.open(io.BytesIO(bytes(msg.data)), formats=("JPEG", "PNG"))
    except Exception:  # noqa: BLE001 third-party decoders raise what they like; decode() will say what is wrong
        return False
    return header.width * header.height > _PIXELS_OF_4K or "progressive" in header.info


def decode_apart(data: bytes, format: str) -> Image:
    """Do as :func:`decode` in a process of its own, whose border ValueError can cross.

    Raises:
        ValueError: In place of BadImage.
    """
    try:
        return decode(CompressedImageMessage(format=format, data=byte_field(data)))
    except BadImage as error:
        raise ValueError(str(error)) from error


def decode_file(data: bytes, what: str) -> Image:
    """Return the image in a file: uint8, shape [height, width, 3], colour order RGB, C-contiguous.

    Reads JPEG and PNG of every kind and all other formats of Pillow: grey, palette, CMYK, 16 bits (the upper 8 are
    kept). Transparent pixels are blended onto white, as a viewer shows them (and as Qwen's own preprocessing does:
    ``qwen_vl_utils.vision_process.to_rgb``). The EXIF orientation is applied: robots' cameras do not set it, phones do,
    and every viewer shows the image upright.

    Args:
        data: Content of the file.
        what: Subject of the error sentence.

    Raises:
        BadImage: It is not an image, has more than :data:`~qwen3vl_ros.vision.encodings.MAX_PIXELS`, or is truncated
            or damaged. A JPEG that lost bytes in its middle but not its end cannot be detected: JPEG has no checksum.
    """
    rgb: Image = _guarded(_decode, data, what)
    return rgb


def rgb_of_pillow(image: PIL.Image.Image) -> Image:
    """Return an image of Pillow as :func:`decode_file` returns that in a file: upright, on white, of 8 bits.

    Raises:
        BadImage: It has no pixels, or more than :data:`~qwen3vl_ros.vision.encodings.MAX_PIXELS`, or Pillow, which
            decodes a file only when it must, fails to.
    """
    what = f"The PIL image of {image.width}x{image.height} pixels"
    if not 0 < image.width * image.height <= MAX_PIXELS:
        raise BadImage(f"{what} is refused: 1 to {MAX_PIXELS} pixels are accepted.")
    try:
        return _upright_on_white(image)
    except Exception as error:  # decoders may raise anything on untrusted bytes
        raise BadImage(f"{what} cannot be decoded: {error}.") from error


def _guarded(decoder: Callable[[bytes, str], NDArray[Any]], data: bytes, what: str) -> NDArray[Any]:
    """Return what ``decoder`` does. Raises BadImage in place of anything else."""
    try:
        return decoder(data, what)
    except BadImage:
        raise
    except MemoryError as error:
        raise BadImage(f"{what}, {len(data)} bytes, takes too much memory to decode: send a smaller one.") from error
    except Exception as error:  # third-party decoders may raise anything on untrusted bytes
        raise BadImage(f"{what}, {len(data)} bytes, cannot be decoded: {error}.") from error


def _decode(data: bytes, what: str) -> Image:
    """Decode a file to RGB; raises anything."""
    is_usual = data.startswith((_JPEG_START, _PNG_START))
    header, scan = _header(data, what, is_usual)
    if header.has_transparency_data or not is_usual:
        return _upright_on_white(header)
    what = f"{what}, {header.width}x{header.height} pixels,"
    bgr = _decode_with_opencv(data, what, scan, cv2.IMREAD_COLOR)
    return np.ascontiguousarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _upright_on_white(image: PIL.Image.Image) -> Image:
    """Return the RGB pixels of an image of any mode; raises anything."""
    if image.has_transparency_data:
        upright = PIL.ImageOps.exif_transpose(image.convert("RGBA"))
        white = PIL.Image.new("RGBA", upright.size, "white")
        return np.array(PIL.Image.alpha_composite(white, upright).convert("RGB"))
    upright = PIL.ImageOps.exif_transpose(image)
    return _upper_bits(upright) if upright.mode.startswith("I") else np.array(upright.convert("RGB"))


def _decode_unchanged(data: bytes, what: str) -> NDArray[Any]:
    """Decode a JPEG or PNG to the samples that it holds, [height, width] where it is grey; raises anything."""
    header, scan = _header(data, what, is_usual=True)
    what = f"{what}, {header.width}x{header.height} pixels,"
    return _decode_with_opencv(data, what, scan, cv2.IMREAD_UNCHANGED)


def _header(data: bytes, what: str, is_usual: bool) -> tuple[PIL.Image.Image, int]:
    """Read the header of a file; the number is where Pillow stopped: in a JPEG, where the first scan begins.

    Raises BadImage for more pixels than are accepted, and anything.
    """
    file = io.BytesIO(data)
    try:
        header = PIL.Image.open(file, formats=("JPEG", "PNG") if is_usual else None)
    except PIL.UnidentifiedImageError:
        if is_usual:
            raise
        raise BadImage(f"{what} is not an image that can be read; JPEG and PNG always can.") from None
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise BadImage(f"{what} has {width}x{height} pixels, more than the {MAX_PIXELS} that are accepted.")
    return header, file.tell()


def _decode_with_opencv(data: bytes, what: str, scan: int, flags: int) -> NDArray[Any]:
    # OpenCV 4.6 (Ubuntu 24.04) makes up what is missing after the first scan began.
    if data.startswith(_JPEG_START) and data.rfind(_JPEG_END, scan) < 0:
        raise BadImage(f"{what} is cut off: its {len(data)} bytes have no end marker.")
    samples: NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if samples is None:
        raise BadImage(f"{what} is cut off or broken: its {len(data)} bytes do not decode.")
    return samples


def _encoding_of(samples: NDArray[Any], original: str, what: str) -> str:
    """Return the encoding of the raw message that ``samples`` are of. Raises BadImage for measurements of 8 bits."""
    bits = samples.dtype.itemsize * 8
    if original.startswith("bayer_"):
        return f"{original.rstrip('0123456789')}{bits}"
    if original == "mono16":
        return f"mono{bits}"
    if bits == 8:
        raise BadImage(f"{what} has lost its measurements, which do not fit into 8 bits: use compressedDepth, or PNG.")
    return original


def _upper_bits(image: PIL.Image.Image) -> Image:
    """Return 16-bit grey as RGB; Pillow's own conversion turns all but the darkest pixels white."""
    grey: NDArray[np.uint8] = (np.clip(np.asarray(image), 0, 0xFFFF) >> 8).astype(np.uint8)
    return np.stack([grey] * 3, axis=2)
