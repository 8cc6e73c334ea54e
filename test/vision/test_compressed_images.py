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
from sensor_msgs.msg import CompressedImage

from examples import examples
from qwen3vl_ros.engines.base import BadImage
from qwen3vl_ros.vision.compressed import decode


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


def test_compressed_depth_is_refused_by_name() -> None:
    data = bytes(12) + save(PIL.Image.fromarray(np.ones((3, 4), np.uint16)), "PNG")
    with pytest.raises(BadImage, match="'16UC1; compressedDepth png' is a depth image"):
        decode(message(data, "16UC1; compressedDepth png"))


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
