"""Raw images of every encoding become the right RGB pixels, or a BadImage that says what is wrong.

The expected pixels are computed here from the definitions of the encodings, one pixel at a time, never with OpenCV or
cv_bridge. All tests run on every implementation that this machine has.
"""

from __future__ import annotations

import array
import math
import sys
import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from examples import examples
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vision import encodings
from qwen3vl_ros.vision.encodings import ENCODINGS, MAX_PIXELS, to_rgb
from qwen3vl_ros.vision.image_message import image_message

FOUND_CV_BRIDGE = encodings._cv_bridge


@pytest.fixture(
    autouse=True,
    scope="module",
    params=[
        "numpy",
        pytest.param(
            "cv_bridge",
            marks=pytest.mark.skipif(FOUND_CV_BRIDGE is None, reason="no working cv_bridge on this machine"),
        ),
    ],
)
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    encodings._cv_bridge = FOUND_CV_BRIDGE if request.param == "cv_bridge" else None
    yield request.param
    encodings._cv_bridge = FOUND_CV_BRIDGE


def message(
    encoding: str, samples: NDArray, *, bigendian: bool = False, padding: int = 0, filler: int = 0xA5
) -> ImageMessage:
    """A message of ``samples`` [height, width, channels], with ``padding`` bytes of filler after each row."""
    height, width, _ = samples.shape
    data = bytearray()
    for row in samples.astype(samples.dtype.newbyteorder(">" if bigendian else "<")):
        data += row.tobytes() + bytes([filler]) * padding
    return ImageMessage(
        encoding=encoding,
        width=width,
        height=height,
        step=len(data) // height,
        is_bigendian=int(bigendian),
        data=array.array("B", data),
    )


def planar_message(encoding: str, luma: NDArray, chroma: NDArray, padding: int = 0) -> ImageMessage:
    """A message of two planes: ``luma`` [height, width] and ``chroma`` [rows, bytes], each row of luma padded.

    The stride of the chroma is that of the luma per row of nv12 and nv21, twice that for nv24.
    """
    height, width = luma.shape
    data = bytearray()
    for row in luma:
        data += row.tobytes() + b"\xa5" * padding
    for row in chroma:
        data += row.tobytes() + b"\xa5" * (padding * chroma.shape[1] // width)
    return ImageMessage(
        encoding=encoding, width=width, height=height, step=width + padding, data=array.array("B", data)
    )


def assert_image(rgb: NDArray, width: int, height: int) -> None:
    assert rgb.shape == (height, width, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous


shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
seeds = st.integers(0, 2**32 - 1)
layouts = st.fixed_dictionaries({"bigendian": st.booleans(), "padding": st.integers(0, 13)})


def random_samples(seed: int, dtype: str, *shape: int) -> NDArray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


# ---- colours as they are

ORDERS = {
    **{name: name[:-1] for name in ("rgb8", "bgr8", "rgba8", "bgra8")},
    **{name: name[:-2] for name in ("rgb16", "bgr16", "rgba16", "bgra16")},
    "mono8": "m",
    "mono16": "m",
    "8UC1": "m",
    # cv_bridge's cvtColorForDisplay takes generic channels in OpenCV's order
    "8UC3": "bgr",
    "16UC3": "bgr",
    "8UC4": "bgra",
    "16UC4": "bgra",
}


@pytest.mark.parametrize("encoding", ORDERS)
@examples(50)
@given(shape=shapes, seed=seeds, layout=layouts)
def test_every_pixel_of_colour_and_grey_images_is_right(
    encoding: str, shape: tuple[int, int], seed: int, layout: dict
) -> None:
    order = ORDERS[encoding]
    dtype = "u2" if "16" in encoding else "u1"
    samples = random_samples(seed, dtype, *shape, len(order))
    rgb = to_rgb(message(encoding, samples, **layout))
    assert_image(rgb, shape[1], shape[0])
    for y in range(shape[0]):
        for x in range(shape[1]):
            wanted = [int(samples[y, x, order.find(c) if c in order else 0]) for c in "rgb"]
            if dtype == "u2":
                wanted = [round(value * 255 / 65535) for value in wanted]
            assert rgb[y, x].tolist() == wanted


@pytest.mark.parametrize("encoding", ["32FC3", "64FC3", "32FC4", "64FC4"])
@examples(50)
@given(shape=shapes, seed=seeds, layout=layouts)
def test_float_colours_from_0_to_1_become_0_to_255(
    encoding: str, shape: tuple[int, int], seed: int, layout: dict
) -> None:
    samples = np.random.default_rng(seed).random((*shape, int(encoding[-1]))).astype(f"f{int(encoding[:2]) // 8}")
    if samples.shape[2] == 4:
        samples[..., 3] = 1000.0  # alpha has no say
    rgb = to_rgb(message(encoding, samples, **layout))
    assert_image(rgb, shape[1], shape[0])
    assert np.abs(rgb - samples[..., 2::-1] * 255.0).max() <= 0.5001


@pytest.mark.parametrize("value", [1.01, -0.01, math.nan, math.inf])
def test_float_channels_that_are_no_colours_are_refused(value: float) -> None:
    samples = np.zeros((2, 2, 3), np.float32)
    samples[1, 1, 1] = value
    with pytest.raises(BadImage, match=r"32FC3 .* between 0 and 1"):
        to_rgb(message("32FC3", samples))


# ---- YUV: ITU-R BT.601, limited range, from the recommendation's own numbers (Kr 0.299, Kb 0.114, 219 and 224 steps)


def from_yuv(y: int, u: int, v: int) -> list[float]:
    luma = (max(y, 16) - 16) / 219
    cb, cr = (u - 128) / 224, (v - 128) / 224
    red = luma + 2 * (1 - 0.299) * cr
    blue = luma + 2 * (1 - 0.114) * cb
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return [min(max(255 * value, 0.0), 255.0) for value in (red, green, blue)]


def assert_yuv(rgb: NDArray, yuv_at: Callable[[int, int], tuple[int, int, int]]) -> None:
    for y in range(rgb.shape[0]):
        for x in range(rgb.shape[1]):
            wanted = from_yuv(*(int(value) for value in yuv_at(x, y)))
            assert np.abs(rgb[y, x] - np.array(wanted)).max() <= 1.0, (x, y)


@pytest.mark.parametrize(
    ("encoding", "order"), [(e, "UYVY") for e in ("uyvy", "yuv422")] + [(e, "YUYV") for e in ("yuyv", "yuv422_yuy2")]
)
@examples(50)
@given(pairs=st.integers(1, 9), height=st.integers(1, 6), seed=seeds, padding=st.integers(0, 13))
def test_every_pixel_of_packed_yuv_is_right(
    encoding: str, order: str, pairs: int, height: int, seed: int, padding: int
) -> None:
    pair = random_samples(seed, "u1", height, pairs, 4)
    rgb = to_rgb(message(encoding, pair.reshape(height, 2 * pairs, 2), padding=padding))
    assert_image(rgb, 2 * pairs, height)
    first_luma = order.index("Y")
    assert_yuv(
        rgb,
        lambda x, y: (
            pair[y, x // 2, first_luma + 2 * (x % 2)],
            pair[y, x // 2, order.index("U")],
            pair[y, x // 2, order.index("V")],
        ),
    )


@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@examples(50)
@given(columns=st.integers(1, 9), rows=st.integers(1, 5), seed=seeds, padding=st.integers(0, 6).map(lambda n: 2 * n))
def test_every_pixel_of_nv12_and_nv21_is_right(encoding: str, columns: int, rows: int, seed: int, padding: int) -> None:
    luma = random_samples(seed, "u1", 2 * rows, 2 * columns)
    chroma = random_samples(seed + 1, "u1", rows, columns, 2)
    rgb = to_rgb(planar_message(encoding, luma, chroma.reshape(rows, -1), padding))
    assert_image(rgb, 2 * columns, 2 * rows)
    u, v = (0, 1) if encoding == "nv12" else (1, 0)
    assert_yuv(rgb, lambda x, y: (luma[y, x], chroma[y // 2, x // 2, u], chroma[y // 2, x // 2, v]))


@examples(50)
@given(shape=shapes, seed=seeds, padding=st.integers(0, 13))
def test_every_pixel_of_nv24_is_right(shape: tuple[int, int], seed: int, padding: int) -> None:
    luma = random_samples(seed, "u1", *shape)
    chroma = random_samples(seed + 1, "u1", *shape, 2)
    rgb = to_rgb(planar_message("nv24", luma, chroma.reshape(shape[0], -1), padding))
    assert_image(rgb, shape[1], shape[0])
    assert_yuv(rgb, lambda x, y: (luma[y, x], *chroma[y, x]))


@pytest.mark.parametrize(("encoding", "bytes_per_pixel"), [("nv12", 1.5), ("nv21", 1.5), ("nv24", 3)])
def test_two_planes_may_also_call_the_data_over_the_rows_their_step(encoding: str, bytes_per_pixel: float) -> None:
    width, height = 6, 4
    luma = random_samples(1, "u1", height, width)
    chroma = random_samples(2, "u1", height if encoding == "nv24" else height // 2, 12 if encoding == "nv24" else 6)
    msg = planar_message(encoding, luma, chroma)
    wanted = to_rgb(msg)
    msg.step = int(width * bytes_per_pixel)
    assert np.array_equal(to_rgb(msg), wanted)


# ---- Bayer: bilinear, the outermost pixels repeat their inner neighbours


def demosaic(mosaic: NDArray, pattern: str) -> NDArray:
    height, width = mosaic.shape
    rgb = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            cx, cy = min(max(x, 1), width - 2), min(max(y, 1), height - 2)
            for channel, letter in enumerate("rgb"):
                seen = {}
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        if pattern[2 * ((cy + dy) % 2) + (cx + dx) % 2] == letter:
                            seen.setdefault(abs(dx) + abs(dy), []).append(float(mosaic[cy + dy, cx + dx]))
                rgb[y, x, channel] = np.mean(seen[min(seen)])
    return rgb


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@examples(50)
@given(width=st.integers(3, 21), height=st.integers(3, 8), seed=seeds, layout=layouts)
def test_every_pixel_of_bayer_images_is_right(
    pattern: str, bits: int, width: int, height: int, seed: int, layout: dict
) -> None:
    mosaic = random_samples(seed, f"u{bits // 8}", height, width, 1)
    rgb = to_rgb(message(f"bayer_{pattern}{bits}", mosaic, **layout))
    assert_image(rgb, width, height)
    wanted = demosaic(mosaic[..., 0], pattern)
    assert np.abs(rgb - (wanted / 257 if bits == 16 else wanted)).max() <= 1.0


# ---- measurements


def ramp(values: list[float], valid: list[bool]) -> list[float]:
    """Grey 1 at the 1st percentile, 255 at the 99th (linear between ranks), 0 where invalid."""
    known = sorted(value for value, ok in zip(values, valid, strict=True) if ok)

    def percentile(share: float) -> float:
        rank = share * (len(known) - 1)
        below = math.floor(rank)
        above = min(below + 1, len(known) - 1)
        return known[below] + (rank - below) * (known[above] - known[below])

    low, high = percentile(0.01), percentile(0.99)
    if low == high:
        low, high = known[0], known[-1]
    if low == high:
        return [128.0 if ok else 0.0 for ok in valid]
    return [
        1 + 254 * (min(max(value, low), high) - low) / (high - low) if ok else 0.0
        for value, ok in zip(values, valid, strict=True)
    ]


MEASURED = {"16UC1": "u2", "8SC1": "i1", "16SC1": "i2", "32SC1": "i4"}


@pytest.mark.parametrize("encoding", MEASURED)
@examples(50)
@given(shape=shapes, seed=seeds, layout=layouts)
def test_integer_measurements_become_a_grey_ramp(
    encoding: str, shape: tuple[int, int], seed: int, layout: dict
) -> None:
    samples = random_samples(seed, MEASURED[encoding], *shape, 1)
    samples[0, 0] = 7
    samples[-1, -1] = 0 if samples.size > 1 else 7
    rgb = to_rgb(message(encoding, samples, **layout))
    assert_image(rgb, shape[1], shape[0])
    values = [float(value) for value in samples.ravel()]
    wanted = ramp(values, [value > 0 or encoding != "16UC1" for value in values])
    assert (rgb == rgb[..., :1]).all()
    assert np.abs(rgb[..., 0].ravel() - np.array(wanted)).max() <= 0.501


@pytest.mark.parametrize("encoding", ["32FC1", "64FC1"])
@examples(50)
@given(
    values=st.lists(
        st.floats(-1e6, 1e6, width=32) | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1, max_size=30
    ),
    layout=layouts,
)
def test_float_measurements_become_a_grey_ramp_with_invalid_ones_black(
    encoding: str, values: list[float], layout: dict
) -> None:
    samples = np.array(values, f"f{int(encoding[:2]) // 8}").reshape(1, -1, 1)
    msg = message(encoding, samples, **layout)
    valid = [math.isfinite(value) for value in values]
    if not any(valid):
        with pytest.raises(BadImage, match="no valid value"):
            to_rgb(msg)
        return
    assert np.abs(to_rgb(msg)[0, :, 0] - np.array(ramp(values, valid))).max() <= 0.501


def test_a_few_stray_measurements_do_not_flatten_the_rest() -> None:
    depth = np.tile(np.linspace(1000, 2000, 100).astype(np.uint16), (100, 1))[..., None]
    depth[50, :5] = 65535
    grey = to_rgb(message("16UC1", depth))[..., 0]
    assert grey[0, 0] == 1
    assert grey[0, 98] >= 250


def test_depth_without_a_single_reading_is_refused() -> None:
    with pytest.raises(BadImage, match=r"16UC1 .* no valid value in its 12 pixels"):
        to_rgb(message("16UC1", np.zeros((3, 4, 1), np.uint16)))


# ---- refusals


@pytest.mark.parametrize(
    "encoding", ["", "RGB8", "jpeg", "8UC2", "16SC3", "32FC2", "nv61", "8UC5", "bayer_rggb12", "rgb8\0", "\N{SNOWMAN}"]
)
def test_an_unknown_encoding_is_refused_by_its_name_with_those_that_are_accepted(encoding: str) -> None:
    with pytest.raises(BadImage) as error:
        to_rgb(ImageMessage(encoding=encoding, width=2, height=2, step=8, data=bytes(16)))
    assert repr(encoding) in str(error.value)
    assert all(known in str(error.value) for known in ENCODINGS)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 0}, "0x4 pixels is empty"),
        ({"height": 0}, "6x0 pixels is empty"),
        ({"step": 17}, "step 17, but a row takes 18 bytes"),
        ({"data": bytes(71)}, "needs 72 bytes at step 18, but its data has 71"),
        ({"data": b""}, "has 0"),
        ({"step": 2**32 - 1}, "needs 17179869180 bytes"),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, f"more than the {MAX_PIXELS} pixels"),
        ({"width": MAX_PIXELS + 1, "height": 1, "step": 2**32 - 1}, f"more than the {MAX_PIXELS} pixels"),
        ({"encoding": "uyvy", "width": 5}, "odd width"),
        ({"encoding": "yuyv", "width": 5}, "odd width"),
        ({"encoding": "nv12", "width": 5}, "odd width"),
        ({"encoding": "nv21", "height": 3}, "odd height"),
        ({"encoding": "bayer_rggb8", "width": 2}, "at least 3x3"),
        ({"encoding": "nv12", "step": 6, "data": bytes(35)}, "needs 36 bytes at step 6, but its data has 35"),
        ({"encoding": "nv12", "step": 9, "data": bytes(37)}, "needs 54 bytes at step 9, but its data has 37"),
        ({"encoding": "nv24", "step": 6, "data": bytes(71)}, "needs 72 bytes at step 6, but its data has 71"),
        ({"encoding": "64FC1", "data": np.array([1e308, -1e308] * 12).tobytes(), "step": 48}, "too far apart"),
    ],
)
def test_numbers_that_describe_no_image_are_refused_with_the_numbers(fields: dict, words: str) -> None:
    good = {"encoding": "rgb8", "width": 6, "height": 4, "step": 18, "data": bytes(72)}
    assert_image(to_rgb(ImageMessage(**good)), 6, 4)
    with pytest.raises(BadImage) as error:
        to_rgb(ImageMessage(**{**good, **fields}))
    assert words in str(error.value)


@given(
    encoding=st.sampled_from(ENCODINGS),
    width=st.integers(0, 12) | st.integers(0, 2**32 - 1),
    height=st.integers(0, 12) | st.integers(0, 2**32 - 1),
    step=st.integers(0, 100) | st.integers(0, 2**32 - 1),
    bigendian=st.integers(0, 255),
    data=st.binary(max_size=1200),
)
@examples(500)
def test_any_message_gives_an_image_of_its_size_or_badimage(
    encoding: str, width: int, height: int, step: int, bigendian: int, data: bytes
) -> None:
    msg = ImageMessage(encoding=encoding, width=width, height=height, step=step, is_bigendian=bigendian, data=data)
    try:
        rgb = to_rgb(msg)
    except BadImage:
        return
    assert_image(rgb, width, height)


# ---- memory and messages


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_changing_the_image_leaves_the_message_alone(encoding: str) -> None:
    msg = message(encoding, random_samples(3, "u1", 4, 5, 1 if encoding == "mono8" else 3))
    before = bytes(msg.data)
    rgb = to_rgb(msg)
    rgb[:] = 255 - rgb
    assert bytes(msg.data) == before


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, np.uint8)])
def test_data_may_be_any_buffer(make: Callable[[bytes], object]) -> None:
    samples = random_samples(4, "u1", 3, 2, 3)
    msg = types.SimpleNamespace(
        encoding="rgb8", width=2, height=3, step=6, is_bigendian=0, data=make(samples.tobytes())
    )
    assert np.array_equal(to_rgb(msg), samples)


@examples(50)
@given(shape=shapes, seed=seeds)
def test_a_published_image_comes_back_the_same(shape: tuple[int, int], seed: int) -> None:
    image = random_samples(seed, "u1", *shape, 3)
    header = Header(frame_id="camera")
    header.stamp.sec = 12
    msg = image_message(image, header)
    assert (msg.encoding, msg.width, msg.height, msg.step) == ("rgb8", shape[1], shape[0], 3 * shape[1])
    assert msg.header == header
    assert bytes(msg.data) == image.tobytes()
    assert np.array_equal(to_rgb(msg), image)


def test_an_image_that_is_a_view_is_published_as_it_looks() -> None:
    image = random_samples(5, "u1", 6, 8, 3)[::2, ::-1]
    assert bytes(image_message(image).data) == image.tobytes()
    row = random_samples(6, "u1", 6, 8, 3)[::2][:1]
    assert (image_message(row).step, bytes(image_message(row).data)) == (24, row.tobytes())


def test_grey_and_depth_are_published_as_what_they_are() -> None:
    grey, depth = random_samples(7, "u1", 6, 8, 1)[..., 0], np.array([[0.5, np.inf, 2.0]], np.float32)
    for pixels, encoding, step in ((grey, "mono8", 8), (depth, "32FC1", 12)):
        message = image_message(pixels)
        assert (message.encoding, message.step, bytes(message.data)) == (encoding, step, pixels.tobytes())
        assert message.is_bigendian == (sys.byteorder == "big")


# ---- choosing cv_bridge


class RecordingBridge:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def imgmsg_to_cv2(self, msg: ImageMessage, encoding: str) -> NDArray:
        self.asked.append(msg.encoding)
        return np.zeros((msg.height, msg.width, 3), np.uint8)


def test_cv_bridge_is_asked_only_for_what_it_gets_right(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = RecordingBridge()
    monkeypatch.setattr(encodings, "_cv_bridge", bridge)
    samples = random_samples(6, "u1", 4, 4, 3)
    to_rgb(message("bgr8", samples, padding=3))
    assert bridge.asked == ["bgr8"]
    to_rgb(message("bgr8", samples, padding=2))  # it shears rows that are not whole pixels
    to_rgb(message("bgr8", samples, bigendian=sys.byteorder == "little"))  # it fails on numpy 2
    to_rgb(message("8UC3", samples))  # it does not take this for a colour
    to_rgb(message("uyvy", samples[..., :2]))  # it does not know this
    assert bridge.asked == ["bgr8"]


def test_a_cv_bridge_that_lies_or_breaks_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def imgmsg_to_cv2(self, msg: ImageMessage, encoding: str) -> NDArray:
            raise KeyError("OpenCV 5 renumbered its types")

    for bridge in (RecordingBridge, Broken):
        monkeypatch.setitem(sys.modules, "cv_bridge", types.SimpleNamespace(CvBridge=bridge))
        assert encodings._find_cv_bridge() is None
