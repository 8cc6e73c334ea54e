"""JPEG and PNG messages become the right RGB pixels, or a BadImage that says what is wrong."""

from __future__ import annotations

import array
import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image

from examples import examples
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vision.compressed import decode, decode_apart, decode_depth, is_heavy, loss_of, pixels_of
from qwen3vl_ros.vision.image_message import image_message


def message(data: bytes, format: str = "jpeg") -> CompressedImage:
    return CompressedImage(format=format, data=array.array("B", data))


def save(image: PIL.Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def smooth(width: int, height: int) -> NDArray[np.uint8]:
    """An image whose three colours differ in each corner and that JPEG keeps within a few grey levels."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / max(width - 1, 1), 255 * y / max(height - 1, 1)
    return np.stack([red, green, (red + green) / 4], axis=2).astype(np.uint8)


def random_image(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(width: int, height: int, colour_type: int, bits: int, rows: bytes, *, chunks: bytes = b"") -> bytes:
    """A PNG written by hand from the specification (https://www.w3.org/TR/png-3/) for what Pillow cannot write."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunks + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@examples(50)
@given(width=st.integers(1, 20), height=st.integers(1, 20), seed=st.integers(0, 2**32 - 1))
def test_every_pixel_of_a_png_comes_back(width: int, height: int, seed: int) -> None:
    image = random_image(seed, width, height)
    rgb = decode(message(save(PIL.Image.fromarray(image), "PNG"), "png"))
    assert np.array_equal(rgb, image)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("size", [(1, 1), (64, 48), (33, 17)])
def test_a_jpeg_comes_back_with_its_colours_where_they_were(size: tuple[int, int], options: dict) -> None:
    image = smooth(*size)
    rgb = decode(message(save(PIL.Image.fromarray(image), "JPEG", quality=95, **options)))
    assert rgb.shape == image.shape
    assert np.abs(rgb.astype(int) - image).mean() < 4


@pytest.mark.parametrize(
    "format", ["jpeg", "png", "rgb8; jpeg compressed bgr8", "bgr8; png compressed", "", "jpg", "image/png", "nonsense"]
)
def test_the_bytes_say_what_it_is_whatever_the_format_field_says(format: str) -> None:
    image = smooth(32, 24)
    assert np.array_equal(decode(message(save(PIL.Image.fromarray(image), "PNG"), format)), image)
    rgb = decode(message(save(PIL.Image.fromarray(image), "JPEG", quality=95), format))
    assert np.abs(rgb.astype(int) - image).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_images_become_rgb(kind: str) -> None:
    grey = smooth(24, 16)[..., 0]
    rgb = decode(message(save(PIL.Image.fromarray(grey), kind)))
    assert rgb.shape == (16, 24, 3)
    assert (rgb == rgb[..., :1]).all()
    assert np.abs(rgb[..., 0].astype(int) - grey).max() <= (0 if kind == "PNG" else 4)


def test_palettes_and_single_bits_become_rgb() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[:2], image[2:, 2:] = (200, 30, 60), (1, 2, 3)
    assert np.array_equal(decode(message(save(PIL.Image.fromarray(image).quantize(8), "PNG"))), image)
    bits = PIL.Image.fromarray(np.eye(5, dtype=bool))
    assert np.array_equal(decode(message(save(bits, "PNG")))[..., 1], 255 * np.eye(5, dtype=np.uint8))


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (2, 3)])
def test_16_bit_pngs_keep_their_upper_8_bits(colour_type: int, channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (5, 7, channels), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    rgb = decode(message(png(7, 5, colour_type, 16, rows)))
    assert np.abs(rgb.astype(float) - samples / 257).max() <= 1.0


def test_transparency_is_blended_onto_white() -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (9, 8, 4), dtype=np.uint8)
    rgb = decode(message(save(PIL.Image.fromarray(rgba), "PNG")))
    share = rgba[..., 3:] / 255
    assert np.abs(rgb - (rgba[..., :3] * share + 255 * (1 - share))).max() <= 1.0


def test_a_transparent_palette_colour_and_16_bit_alpha_are_blended_too() -> None:
    palette = chunk(b"PLTE", bytes([10, 20, 30, 0, 0, 0])) + chunk(b"tRNS", bytes([255, 0]))
    assert decode(message(png(2, 1, 3, 8, b"\0\0\1", chunks=palette))).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    row = np.array([[65535, 0, 0, 65535], [65535, 0, 0, 0]], ">u2")
    assert decode(message(png(2, 1, 6, 16, b"\0" + row.tobytes()))).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = smooth(32, 16)
    # how a camera that is held this way stores the image: the inverse of what the EXIF standard says to do
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = save(PIL.Image.fromarray(np.ascontiguousarray(stored)), "JPEG", quality=95, subsampling=0, exif=exif)
    rgb = decode(message(data))
    assert rgb.shape == upright.shape
    assert np.abs(rgb.astype(int) - upright).mean() < 4


def test_cmyk_jpegs_become_rgb() -> None:
    image = smooth(32, 24)
    data = save(PIL.Image.fromarray(image).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(message(data)).astype(int) - image).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@examples(50)
@given(share=st.floats(0.0, 0.999))
def test_a_file_cut_off_anywhere_is_refused(kind: str, share: float) -> None:
    data = save(PIL.Image.fromarray(random_image(2, 40, 30)), kind)
    with pytest.raises(BadImage):
        decode(message(data[: int(share * len(data))]))


def test_a_jpeg_cut_off_after_its_thumbnail_is_refused() -> None:
    thumbnail = save(PIL.Image.fromarray(smooth(16, 16)), "JPEG")
    image = save(PIL.Image.fromarray(smooth(64, 48)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail)
    assert decode(message(image)).shape == (48, 64, 3)
    with pytest.raises(BadImage, match=r"64x48 pixels, is cut off"):
        decode(message(image[:-20]))


def test_padding_after_a_jpeg_does_no_harm() -> None:
    data = save(PIL.Image.fromarray(smooth(64, 48)), "JPEG")
    assert np.array_equal(decode(message(data + bytes(100))), decode(message(data)))


def test_a_png_with_a_flipped_bit_is_refused() -> None:
    data = bytearray(save(PIL.Image.fromarray(random_image(3, 40, 30)), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(BadImage, match="40x30 pixels, is cut off or broken"):
        decode(message(bytes(data)))


@pytest.mark.parametrize(("width", "height"), [(20000, 10000), (100_000_001, 1), (2**31 - 1, 2**31 - 1)])
def test_a_huge_image_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(BadImage, match=r"pixels, more than the \d+ that are accepted|exceeds limit of \d+ pixels"):
        decode(message(png(width, height, 2, 8, b"")))


# ---- the encoding of the raw image, in `format`

MOSAIC = np.tile(np.array([[200, 40], [40, 10]], np.uint8), (12, 16))  # a red surface, seen by a sensor rggb
DEPTH = np.arange(400, 400 + 12 * 16, dtype=np.uint16).reshape(12, 16)


def raw(pixels: NDArray[np.generic], encoding: str) -> NDArray[np.uint8]:
    """What the topic of the raw images of that camera shows."""
    return pixels_of(image_message(pixels, encoding=encoding))


@pytest.mark.parametrize(
    ("pixels", "kind", "encoding", "format"),
    [
        (MOSAIC, "PNG", "bayer_rggb8", "bayer_rggb8; png compressed "),
        (MOSAIC, "PNG", "bayer_grbg8", "bayer_grbg8; png compressed"),
        (MOSAIC.astype(np.uint16) * 257, "PNG", "bayer_rggb16", "bayer_rggb16; png compressed "),
        (DEPTH, "PNG", "16UC1", "16UC1; png compressed "),
        (DEPTH * 100, "PNG", "mono16", "mono16; png compressed "),
    ],
)
def test_what_the_format_field_says_of_grey_values_is_what_they_mean(
    pixels: NDArray[np.generic], kind: str, encoding: str, format: str
) -> None:
    shown = decode(message(save(PIL.Image.fromarray(pixels), kind), format))
    assert np.array_equal(shown, raw(pixels, encoding))


def test_a_bayer_mosaic_in_a_jpeg_has_its_colours() -> None:
    file = save(PIL.Image.fromarray(MOSAIC), "JPEG", quality=100)
    red, green, blue = decode(message(file, "bayer_rggb8; jpeg compressed ")).mean(axis=(0, 1))
    assert red > 150 and green < 80 and blue < 60


def test_a_bayer_camera_whose_driver_made_colours_of_it_is_left_alone() -> None:
    image = smooth(32, 24)
    file = save(PIL.Image.fromarray(image), "PNG")
    assert np.array_equal(decode(message(file, "bayer_rggb8; png compressed bgr8")), image)


@pytest.mark.parametrize("original", ["16UC1", "32FC1", "16SC1"])
def test_measurements_in_8_bits_are_refused(original: str) -> None:
    file = save(PIL.Image.fromarray(MOSAIC), "JPEG")
    with pytest.raises(BadImage, match="lost its measurements"):
        decode(message(file, f"{original}; jpeg compressed "))


def test_compressed_depth_is_the_depth_that_it_was() -> None:
    file = bytes(12) + save(PIL.Image.fromarray(DEPTH), "PNG")
    for format in ("16UC1; compressedDepth png", "16UC1; compressedDepth"):
        depth = decode_depth(message(file, format))
        assert (depth.encoding, bytes(depth.data)) == ("16UC1", DEPTH.tobytes())
        assert np.array_equal(decode(message(file, format)), raw(DEPTH, "16UC1"))


def test_quantized_inverse_depth_comes_back_in_metres() -> None:
    """Encoded by the formulas of compressed_depth_image_transport's codec.cpp."""
    metres = np.linspace(0.4, 9.0, 12 * 16, dtype=np.float32).reshape(12, 16)
    quantization, depth_max = 100.0, 10.0
    a = quantization * (quantization + 1.0)
    b = 1.0 - a / depth_max
    inverse = (a / metres + b).astype(np.uint16)
    inverse[0, 0] = 0
    file = struct.pack("<iff", 0, a, b) + save(PIL.Image.fromarray(inverse), "PNG")
    depth = decode_depth(message(file, "32FC1; compressedDepth png"))
    found = np.frombuffer(bytes(depth.data), np.float32).reshape(12, 16)
    assert depth.encoding == "32FC1"
    assert np.isnan(found[0, 0])
    assert np.abs(found - metres)[metres < 5].max(initial=0, where=np.isfinite(found)[metres < 5]) < 0.01


@pytest.mark.parametrize(
    ("format", "data", "sentence"),
    [
        ("16UC1; compressedDepth rvl", bytes(40), "set compressedDepth's format to png"),
        ("16UC1; compressedDepth png", bytes(40), "no PNG behind its header"),
        ("16UC1; compressedDepth png", b"", "no PNG behind its header"),
        ("compressedDepth", bytes(40), "none that can be read"),
        ("16UC1; compressedDepth png", bytes(12) + save(PIL.Image.fromarray(MOSAIC), "PNG"), "no grey PNG of 16 bits"),
        ("16UC1; compressedDepth png", bytes(12) + save(PIL.Image.fromarray(DEPTH), "PNG")[:55], "cut off or broken"),
    ],
    ids=["rvl", "no PNG", "nothing", "no encoding", "8 bits", "cut off"],
)
def test_other_compressed_depth_is_refused_in_words(format: str, data: bytes, sentence: str) -> None:
    with pytest.raises(BadImage, match=sentence):
        decode(message(data, format))


def test_what_was_lost_on_the_way_is_told() -> None:
    file = save(PIL.Image.fromarray(MOSAIC), "JPEG")
    assert "has no colour" in loss_of(message(file, "yuv422_yuy2; jpeg compressed mono8"))
    assert "bayer_rggb8 as mono8" in loss_of(message(file, "bayer_rggb8; jpeg compressed mono8"))
    assert "nearly black" in loss_of(image_message(DEPTH, encoding="mono16"))


@pytest.mark.parametrize(
    "untouched",
    [
        message(b"", "mono8; jpeg compressed mono8"),
        message(b"", "rgb8; jpeg compressed bgr8"),
        message(b"", "jpeg"),
        image_message(DEPTH * 100, encoding="mono16"),
        image_message(DEPTH * 0, encoding="mono16"),
        image_message(DEPTH),
        image_message(MOSAIC),
    ],
)
def test_nothing_is_told_where_nothing_was_lost(untouched: CompressedImage | Image) -> None:
    assert loss_of(untouched) == ""


def test_a_jpeg_that_calls_itself_rgb8_is_refused_by_name() -> None:
    file = save(PIL.Image.fromarray(MOSAIC), "JPEG")
    broken = image_message(np.zeros((12, 16, 3), np.uint8))
    broken.data = array.array("B", file.ljust(12 * 16 * 3, b"\0"))
    with pytest.raises(BadImage, match="holds a JPEG"):
        pixels_of(broken)


# ---- what may take long


@pytest.mark.parametrize(
    ("file", "heavy"),
    [
        (save(PIL.Image.new("1", (4097, 2160)), "PNG"), True),
        (save(PIL.Image.new("1", (4096, 2160)), "PNG"), False),
        (save(PIL.Image.new("RGB", (64, 48)), "JPEG", progressive=True), True),
        (save(PIL.Image.new("RGB", (64, 48)), "JPEG"), False),
        (b"\xff\xd8\xffnothing", False),
        (b"", False),
    ],
    ids=["over 4K", "4K", "progressive", "baseline", "broken", "empty"],
)
def test_what_may_take_long_to_decode_is_known_by_its_header(file: bytes, heavy: bool) -> None:
    assert is_heavy(message(file)) == heavy


def test_a_decoder_in_another_process_explains_itself_across_the_border() -> None:
    image = smooth(32, 24)
    assert np.array_equal(decode_apart(save(PIL.Image.fromarray(image), "PNG"), "png"), image)
    with pytest.raises(ValueError, match="neither JPEG nor PNG"):
        decode_apart(b"GIF89a", "gif")


# ---- what is no image


@pytest.mark.parametrize("data", [b"", b"\xff", b"GIF89a", b"\0\0\0\1gBB", b"II*\0"])
def test_anything_else_is_refused_with_its_first_bytes(data: bytes) -> None:
    with pytest.raises(BadImage) as error:
        decode(message(data, "h264"))
    assert "'h264'" in str(error.value)
    assert repr(data.hex(" ")) in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@given(damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=5))
@examples(200)
def test_damaged_files_give_an_image_or_badimage(kind: str, damage: list[tuple[int, int]]) -> None:
    data = bytearray(save(PIL.Image.fromarray(smooth(24, 16)), kind))
    for position, value in damage:
        data[position % len(data)] = value
    try:
        rgb = decode(message(bytes(data)))
    except BadImage:
        return
    assert rgb.ndim == 3
    assert rgb.dtype == np.uint8
