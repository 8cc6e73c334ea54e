"""Converts raw ROS images to RGB arrays: every encoding of ``sensor_msgs/image_encodings.hpp`` that is an image.

:func:`to_rgb` uses cv_bridge, where it is installed, for the messages that cv_bridge converts correctly, and numpy and
OpenCV for the rest; both give the same pixels, so results do not depend on cv_bridge.

What the encodings mean here:

=====================================  =================================================================================
rgb8 bgr8 rgba8 bgra8 mono8            as named; alpha is dropped
rgb16 bgr16 rgba16 bgra16 mono16       full scale is 65535: ``round(value / 257)``, as in cv_bridge
8UC3 16UC3 8UC4 16UC4 8UC1             BGR, BGR, BGRA, BGRA, grey, as in cv_bridge's ``cvtColorForDisplay``
32FC3 64FC3 32FC4 64FC4                BGR(A) from 0 to 1; refused when a colour value lies outside (positions, normals)
16UC1 8SC1 16SC1 32SC1 32FC1 64FC1     measurements (depth, temperature): a grey ramp, see :func:`_measurements_to_rgb`
bayer_{rggb,bggr,gbrg,grbg}{8,16}      bilinear demosaicing, at least 3x3
uyvy (yuv422), yuyv (yuv422_yuy2)      4:2:2, even width
nv12 nv21 nv24                         a luma plane, then a plane of interleaved chroma
=====================================  =================================================================================

YUV is ITU-R BT.601 limited range (Y 16..235), the default of V4L2 for these formats and what OpenCV implements.
"""

from __future__ import annotations

import array
import importlib
import sys
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image as ImageMessage

from qwen3vl_ros.engines.base import BadImage, Image

MAX_PIXELS: Final = 100_000_000
"""Larger images are refused before any memory is allocated: 100 megapixels are 300 MB of RGB."""

# encoding -> (numpy sample type, samples per pixel, OpenCV conversion code, None where it is RGB already)
_COLOUR: Final[dict[str, tuple[str, int, int | None]]] = {
    "rgb8": ("u1", 3, None),
    "rgb16": ("u2", 3, None),
    "bgr8": ("u1", 3, cv2.COLOR_BGR2RGB),
    "bgr16": ("u2", 3, cv2.COLOR_BGR2RGB),
    "rgba8": ("u1", 4, cv2.COLOR_RGBA2RGB),
    "rgba16": ("u2", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "bgra16": ("u2", 4, cv2.COLOR_BGRA2RGB),
    "mono8": ("u1", 1, cv2.COLOR_GRAY2RGB),
    "mono16": ("u2", 1, cv2.COLOR_GRAY2RGB),
    "8UC1": ("u1", 1, cv2.COLOR_GRAY2RGB),
    "8UC3": ("u1", 3, cv2.COLOR_BGR2RGB),
    "8UC4": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "16UC3": ("u2", 3, cv2.COLOR_BGR2RGB),
    "16UC4": ("u2", 4, cv2.COLOR_BGRA2RGB),
    "32FC3": ("f4", 3, cv2.COLOR_BGR2RGB),
    "32FC4": ("f4", 4, cv2.COLOR_BGRA2RGB),
    "64FC3": ("f8", 3, cv2.COLOR_BGR2RGB),
    "64FC4": ("f8", 4, cv2.COLOR_BGRA2RGB),
    # OpenCV named its Bayer codes after the second row; these aliases carry the usual names.
    **{f"bayer_rggb{bits}": (f"u{bits // 8}", 1, cv2.COLOR_BayerRGGB2RGB) for bits in (8, 16)},
    **{f"bayer_bggr{bits}": (f"u{bits // 8}", 1, cv2.COLOR_BayerBGGR2RGB) for bits in (8, 16)},
    **{f"bayer_gbrg{bits}": (f"u{bits // 8}", 1, cv2.COLOR_BayerGBRG2RGB) for bits in (8, 16)},
    **{f"bayer_grbg{bits}": (f"u{bits // 8}", 1, cv2.COLOR_BayerGRBG2RGB) for bits in (8, 16)},
    "uyvy": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuyv": ("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    "yuv422_yuy2": ("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
}
_MEASUREMENTS: Final = {"16UC1": "u2", "8SC1": "i1", "16SC1": "i2", "32SC1": "i4", "32FC1": "f4", "64FC1": "f8"}
# encoding -> bytes of luma and chroma per two pixels, OpenCV conversion code (it has none for nv24)
_TWO_PLANES: Final[dict[str, tuple[int, int | None]]] = {
    "nv12": (3, cv2.COLOR_YUV2RGB_NV12),
    "nv21": (3, cv2.COLOR_YUV2RGB_NV21),
    "nv24": (6, None),
}
_HALF_WIDTH_CHROMA: Final = frozenset({"uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"})
_HALF_HEIGHT_CHROMA: Final = frozenset({"nv12", "nv21"})

ENCODINGS: Final = (*_COLOUR, *_MEASUREMENTS, *_TWO_PLANES)
"""Every encoding that :func:`to_rgb` accepts."""

# Rows: R, G, B. Columns: Y, U, V, constant. ITU-R BT.601 limited range with the coefficients of OpenCV's color_yuv.
_YUV_TO_RGB: Final = np.array(
    [
        [1.164, 0.0, 1.596, -1.164 * 16 - 1.596 * 128],
        [1.164, -0.391, -0.813, -1.164 * 16 + (0.391 + 0.813) * 128],
        [1.164, 2.018, 0.0, -1.164 * 16 - 2.018 * 128],
    ]
)

# The encodings that cv_bridge converts as colours; it passes generic ones such as 8UC3 through unchanged.
_IN_CV_BRIDGE: Final = frozenset(
    encoding for encoding in _COLOUR if encoding.startswith(("rgb", "bgr", "mono", "bayer_", "yuv422"))
)


def is_measurement(encoding: str) -> bool:
    """Return whether an encoding has one measurement per pixel, such as depth, rather than light."""
    return encoding in _MEASUREMENTS


def is_colour(encoding: str) -> bool:
    """Return whether an encoding has colour."""
    return encoding in _TWO_PLANES or (encoding in _COLOUR and not encoding.startswith("mono") and encoding != "8UC1")


def to_rgb(msg: ImageMessage) -> Image:
    """Convert ``msg`` to RGB.

    ``msg.data`` may be an ``array.array('B')`` (what rclpy delivers) or any other buffer of bytes. Rows may be padded
    to any ``step``; samples of more than one byte may have either byte order.

    Returns:
        uint8, shape [height, width, 3], colour order RGB, C-contiguous, not sharing memory with ``msg``.

    Raises:
        BadImage: The encoding is not in :data:`ENCODINGS`, or the message's numbers do not describe an image: no
            pixels, more than :data:`MAX_PIXELS`, rows that overlap, too little data, odd sizes where chroma is shared
            by two pixels.
    """
    _check(msg)
    if _cv_bridge is not None and _right_in_cv_bridge(msg):
        return _cv_bridge_to_rgb(msg)
    return _numpy_to_rgb(msg)


def _check(msg: ImageMessage) -> None:
    """Raise :class:`BadImage` unless the numbers of ``msg`` describe an image and its data is complete."""
    encoding, width, height = msg.encoding, msg.width, msg.height
    if encoding not in ENCODINGS:
        raise BadImage(
            f"An image of encoding {encoding!r} cannot be turned into an image; accepted are {', '.join(ENCODINGS)}."
        )
    what = f"The {encoding} image of {width}x{height} pixels"
    start = bytes(memoryview(msg.data)[:4])
    if start[:3] == b"\xff\xd8\xff" and start[3:] >= b"\xc0" and _bytes_per_sample(encoding) == 1:
        raise BadImage(f"{what} holds a JPEG: its driver is to decode it, or to publish it as a CompressedImage.")
    if width == 0 or height == 0:
        raise BadImage(f"{what} is empty.")
    if width * height > MAX_PIXELS:
        raise BadImage(f"{what} has more than the {MAX_PIXELS} pixels that are accepted.")
    if encoding in _HALF_WIDTH_CHROMA and width % 2:
        raise BadImage(f"{what} has an odd width, but two neighbours share their chroma: it must be even.")
    if encoding in _HALF_HEIGHT_CHROMA and height % 2:
        raise BadImage(f"{what} has an odd height, but two rows share their chroma: it must be even.")
    if encoding.startswith("bayer_") and min(width, height) < 3:
        raise BadImage(f"{what} is too small to interpolate colours: a Bayer mosaic needs at least 3x3.")
    row = width * _bytes_per_pixel(encoding)
    if msg.step < row:
        raise BadImage(f"{what} has step {msg.step}, but a row takes {row} bytes.")
    needed, available = height * msg.step, memoryview(msg.data).nbytes
    if encoding in _TWO_PLANES:
        halves, _ = _TWO_PLANES[encoding]
        needed = height * _luma_step(msg) * halves // 2
    if available < needed:
        raise BadImage(f"{what} needs {needed} bytes at step {msg.step}, but its data has {available}.")


def _bytes_per_sample(encoding: str) -> int:
    return 1 if encoding in _TWO_PLANES else np.dtype(_MEASUREMENTS.get(encoding) or _COLOUR[encoding][0]).itemsize


def _bytes_per_pixel(encoding: str) -> int:
    """Return the bytes per pixel in a row; for two planes, in a row of luma."""
    if encoding in _TWO_PLANES:
        return 1
    if encoding in _MEASUREMENTS:
        return np.dtype(_MEASUREMENTS[encoding]).itemsize
    sample, channels, _ = _COLOUR[encoding]
    return np.dtype(sample).itemsize * channels


def _luma_step(msg: ImageMessage) -> int:
    """Return the stride of luma rows in bytes.

    Drivers disagree on ``step`` for two planes: most set the stride of the luma plane (libcamera, GStreamer), some
    follow Image.msg's "size is (step * rows)" and spread the chroma over the rows. The length of the data tells which.
    """
    halves, _ = _TWO_PLANES[msg.encoding]
    if 2 * msg.step == halves * msg.width and memoryview(msg.data).nbytes == msg.height * msg.step:
        return int(msg.width)
    return int(msg.step)


def _samples(msg: ImageMessage, sample: str, channels: int) -> NDArray[Any]:
    """Return the pixels of ``msg`` in native byte order, [height, width] or [height, width, channels].

    Samples of one byte are returned as a view into ``msg.data`` with padded rows, wider ones as a contiguous array,
    because OpenCV supports neither foreign byte order nor unaligned rows.
    """
    dtype = np.dtype(sample).newbyteorder(">" if msg.is_bigendian else "<")
    view: NDArray[Any] = np.ndarray(
        (msg.height, msg.width, channels),
        dtype,
        np.frombuffer(msg.data, np.uint8),
        strides=(msg.step, channels * dtype.itemsize, dtype.itemsize),
    )
    if channels == 1:
        view = view[:, :, 0]
    return view if dtype.itemsize == 1 else np.ascontiguousarray(view, np.dtype(sample))


def _numpy_to_rgb(msg: ImageMessage) -> Image:
    """Convert a checked message with numpy and OpenCV."""
    if msg.encoding in _TWO_PLANES:
        return _two_planes_to_rgb(msg)
    if msg.encoding in _MEASUREMENTS:
        return _measurements_to_rgb(_samples(msg, _MEASUREMENTS[msg.encoding], 1), msg.encoding)
    sample, channels, code = _COLOUR[msg.encoding]
    samples = _samples(msg, sample, channels)
    if samples.dtype.kind == "f":
        samples = _unit_range_to_uint8(samples[:, :, :3], msg.encoding)
        code = cv2.COLOR_BGR2RGB
    rgb = np.array(samples) if code is None else cv2.cvtColor(samples, code)
    if rgb.dtype == np.uint16:
        rgb = cv2.convertScaleAbs(rgb, alpha=255 / 65535)
    return np.ascontiguousarray(rgb, np.uint8)


def _unit_range_to_uint8(colours: NDArray[Any], encoding: str) -> NDArray[np.uint8]:
    """Convert colours from floats 0..1 to 0..255; raises :class:`BadImage` for other values, which are no colours."""
    low, high = float(colours.min()), float(colours.max())
    if not (low >= 0.0 and high <= 1.0):  # negated, so that NaN is refused, too
        raise BadImage(
            f"The {encoding} image has values from {low:g} to {high:g}; as colours they must lie between 0 and 1."
        )
    return np.rint(colours * 255.0).astype(np.uint8)


def _measurements_to_rgb(values: NDArray[Any], encoding: str) -> Image:
    """Convert one measurement per pixel ([height, width]), such as depth, to a grey image.

    Grey increases linearly from 1 at the 1st percentile to 255 at the 99th of the valid values, so that a few outliers
    do not flatten all others; if these two are equal, from minimum to maximum, or 128 everywhere if all are equal.
    Invalid pixels are 0, black: NaN and infinity, and in 16UC1 the value 0 (REP 118). Above 100,000 valid values the
    percentiles are those of an evenly spaced sample.
    """
    valid = values > 0 if encoding == "16UC1" else np.isfinite(values)
    known = values[valid]
    if known.size == 0:
        raise BadImage(f"The {encoding} image has no valid value in its {values.size} pixels.")
    low, high = (float(v) for v in np.percentile(known[:: max(1, known.size // 100_000)].astype(np.float64), (1, 99)))
    if low == high:
        low, high = float(known.min()), float(known.max())
    if not np.isfinite(high - low):
        raise BadImage(f"The {encoding} image has values from {low:g} to {high:g}, too far apart to show.")
    grey = np.zeros(values.shape, np.uint8)
    if low == high:
        grey[valid] = 128
    else:
        wide = np.float64 if values.dtype.itemsize > 2 else np.float32
        share = (np.clip(known.astype(wide), low, high) - low) / (high - low)
        grey[valid] = np.rint(1 + 254 * share).astype(np.uint8)
    return np.ascontiguousarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)


def _two_planes_to_rgb(msg: ImageMessage) -> Image:
    """Convert a plane of luma followed by one of interleaved chroma with the same stride per sample.

    https://www.kernel.org/doc/html/latest/userspace-api/media/v4l/pixfmt-yuv-planar.html
    """
    width, height, step = msg.width, msg.height, _luma_step(msg)
    halves, code = _TWO_PLANES[msg.encoding]
    planes = np.frombuffer(msg.data, np.uint8, count=height * step * halves // 2)
    if code is not None:
        return np.ascontiguousarray(cv2.cvtColor(planes.reshape(-1, step)[:, :width], code), np.uint8)
    luma = planes[: height * step].reshape(height, step)[:, :width]
    chroma = planes[height * step :].reshape(height, step, 2)[:, :width]
    yuv = np.dstack([np.maximum(luma, 16), chroma])  # OpenCV's own conversions clamp luma at 16, too
    return np.ascontiguousarray(cv2.transform(yuv, _YUV_TO_RGB), np.uint8)


def _find_cv_bridge() -> Any:
    """Return a working ``cv_bridge.CvBridge``, or None.

    It is tested on one pixel, because some packages of that name can be imported but fail or give wrong pixels: the
    ROS 1 ports on PyPI, builds for another numpy, and any build beside OpenCV 5, which renumbered its types.
    """
    try:
        bridge = importlib.import_module("cv_bridge").CvBridge()
        probe = ImageMessage(height=1, width=1, encoding="bgr8", step=3, data=array.array("B", [1, 2, 3]))
        works = bridge.imgmsg_to_cv2(probe, "rgb8").tolist() == [[[3, 2, 1]]]
    except Exception:  # noqa: BLE001 - whatever is wrong with it, numpy and OpenCV replace it
        return None
    return bridge if works else None


def _right_in_cv_bridge(msg: ImageMessage) -> bool:
    """Return whether cv_bridge converts a checked message correctly.

    It does not support uyvy, yuyv, nv12, nv21; it shears the image if ``step`` is not a multiple of the pixel size; and
    it fails on numpy 2 for foreign byte order.
    """
    return (
        msg.encoding in _IN_CV_BRIDGE
        and msg.step % _bytes_per_pixel(msg.encoding) == 0
        and bool(msg.is_bigendian) == (sys.byteorder == "big")
    )


def _cv_bridge_to_rgb(msg: ImageMessage) -> Image:
    """Convert a checked message with cv_bridge."""
    return np.ascontiguousarray(_cv_bridge.imgmsg_to_cv2(msg, "rgb8"), np.uint8)


_cv_bridge: Any = _find_cv_bridge()
