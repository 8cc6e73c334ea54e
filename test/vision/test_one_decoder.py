"""An image file shows the model the same pixels whether the node, its client or the gateway decodes it."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage

from qwen3vl_ros.client.exceptions import BadImage, BadRequest
from qwen3vl_ros.client.goal import ImageLike, build_goal
from qwen3vl_ros.gateway.images import ImageLimits, of_data_url
from qwen3vl_ros.vision.compressed import decode, pixels_of

LIMITS = ImageLimits(size=1_000_000, pixels=1_000_000)
COLOUR = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
RGBA = np.random.default_rng(1).integers(0, 256, (12, 20, 4), dtype=np.uint8)
GREY_16 = np.random.default_rng(2).integers(0, 65536, (12, 20), dtype=np.uint16)

Pixels = NDArray[np.uint8]


def saved(pixels: NDArray[np.generic] | PIL.Image.Image, kind: str, **options: object) -> bytes:
    image = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated() -> PIL.Image.Exif:
    """EXIF of a camera that was held upright."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return exif


FILES = {
    "JPEG": saved(COLOUR, "JPEG"),
    "grey JPEG": saved(COLOUR[..., 0], "JPEG"),
    "CMYK JPEG": saved(PIL.Image.fromarray(COLOUR).convert("CMYK"), "JPEG"),
    "rotated JPEG": saved(COLOUR, "JPEG", exif=rotated()),
    "PNG": saved(COLOUR, "PNG"),
    "grey PNG": saved(COLOUR[..., 0], "PNG"),
    "palette PNG": saved(PIL.Image.fromarray(COLOUR).quantize(16), "PNG"),
    "RGBA PNG": saved(RGBA, "PNG"),
    "16-bit PNG": saved(GREY_16, "PNG"),
}


def on_white(rgba: Pixels) -> Pixels:
    white = PIL.Image.new("RGBA", (rgba.shape[1], rgba.shape[0]), "white")
    return np.array(PIL.Image.alpha_composite(white, PIL.Image.fromarray(rgba)).convert("RGB"))


OTHER_FORMATS = {
    "BMP": (saved(COLOUR, "BMP"), COLOUR),
    "WebP": (saved(RGBA, "WEBP", lossless=True, exact=True), on_white(RGBA)),
    "rotated WebP": (saved(COLOUR, "WEBP", lossless=True, exif=rotated()), np.rot90(COLOUR, -1)),
    "16-bit TIFF": (saved(GREY_16, "TIFF"), np.stack([GREY_16 >> 8] * 3, axis=2)),
    "16-bit PPM": (saved(GREY_16, "PPM"), np.stack([GREY_16 >> 8] * 3, axis=2)),
}


def compressed(file: bytes) -> CompressedImage:
    return CompressedImage(format="whatever", data=array("B", file))


def to_model(image: ImageLike) -> Pixels:
    """What the node makes of the goal in which the client sends ``image``."""
    goal = build_goal("?", images=image)
    (message,) = [*goal.images, *goal.compressed_images]
    return pixels_of(message)


def to_model_decoded(image: ImageLike) -> Pixels:
    """The same before an array: an order that a goal's fields only have where the client decodes ``image``."""
    goal = build_goal("?", images=[image, COLOUR])
    assert not goal.compressed_images
    return pixels_of(goal.images[0])


@pytest.mark.parametrize("send", [to_model, to_model_decoded])
@pytest.mark.parametrize("name", FILES)
def test_a_file_shows_the_same_pixels_whoever_decodes_it(
    name: str, send: Callable[[ImageLike], Pixels], tmp_path: Path
) -> None:
    file, path = FILES[name], tmp_path / "image"
    path.write_bytes(file)
    node = decode(compressed(file))
    url = f"data:image/jpeg;base64,{base64.b64encode(file).decode()}"
    for image in (path, str(path), file, compressed(file), of_data_url(url, LIMITS)):
        assert np.array_equal(send(image), node)


def test_the_files_of_that_test_are_upright_on_white_and_of_8_bits() -> None:
    assert to_model_decoded(FILES["rotated JPEG"]).shape == (20, 12, 3)
    assert np.array_equal(to_model_decoded(FILES["RGBA PNG"]), on_white(RGBA))
    assert np.array_equal(to_model_decoded(FILES["16-bit PNG"])[..., 0], GREY_16 >> 8)


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_decoded_by_the_client_in_the_same_way(name: str) -> None:
    file, wanted = OTHER_FORMATS[name]
    assert np.array_equal(to_model(file), wanted)


@pytest.mark.parametrize("send", [to_model, to_model_decoded])
@pytest.mark.parametrize("name", {**FILES, **OTHER_FORMATS})
def test_an_image_of_pillow_shows_the_same_pixels_as_its_file(name: str, send: Callable[[ImageLike], Pixels]) -> None:
    file = FILES[name] if name in FILES else OTHER_FORMATS[name][0]
    pixels = send(PIL.Image.open(io.BytesIO(file)))
    if "JPEG" in name:  # Pillow brings another release of libjpeg than OpenCV
        assert np.abs(pixels.astype(int) - to_model_decoded(file)).max() <= 2
    else:
        assert np.array_equal(pixels, to_model_decoded(file))


def test_an_image_of_pillow_that_is_none_is_refused() -> None:
    for image, sentence in (
        (PIL.Image.new("RGB", (0, 5)), "0x5 pixels is refused"),
        (PIL.Image.open(io.BytesIO(FILES["JPEG"][:-200])), "20x12 pixels cannot be decoded"),
    ):
        with pytest.raises(BadImage, match=sentence):
            build_goal("?", images=image)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_the_content_of_a_file_may_be_in_any_buffer_of_bytes(kind: Callable[[bytes], bytearray | memoryview]) -> None:
    for file in (FILES["PNG"], OTHER_FORMATS["BMP"][0]):
        goal, with_another = build_goal("?", images=file), build_goal("?", images=[file, COLOUR])
        assert build_goal("?", images=kind(file)) == build_goal("?", images=[kind(file)]) == goal
        assert build_goal("?", images=[kind(file), COLOUR]) == with_another


@pytest.mark.parametrize("images", [[], (), iter(())])
def test_a_list_of_images_that_happens_to_be_empty_does_not_ask_the_camera(images: Sequence[ImageLike]) -> None:
    with pytest.raises(BadRequest, match=r"empty list.*None.*camera"):
        build_goal("?", images=images)
    assert not build_goal("?", images=None).images


def test_the_gateway_hands_webp_to_the_client() -> None:
    file, wanted = OTHER_FORMATS["WebP"]
    url = f"data:image/webp;base64,{base64.b64encode(file).decode()}"
    assert np.array_equal(to_model(of_data_url(url, LIMITS)), wanted)


def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    bmp = saved(np.zeros((2, 2), np.uint8), "BMP")
    huge = bmp[:18] + (20_000).to_bytes(4, "little") * 2 + bmp[26:]
    for name, content, sentence in (
        ("cut.png", FILES["PNG"][:200], "cut.png, 20x12 pixels, is cut off or broken"),
        ("cut.bmp", bmp[:-4], "cut.bmp, .* bytes, cannot be decoded"),
        ("huge.bmp", huge, "huge.bmp.* (more than|exceeds limit of) .* pixels"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BadImage, match=sentence):
            build_goal("?", images=[path, COLOUR])


def test_a_compressed_image_that_is_none_is_refused_when_the_client_has_to_decode_it() -> None:
    with pytest.raises(BadImage, match="format 'whatever' is neither JPEG nor PNG"):
        build_goal("?", images=[compressed(b"GIF89a"), COLOUR])


def test_a_client_imports_no_image_library_before_it_has_to_decode() -> None:
    script = (
        "import sys, numpy; from qwen3vl_ros.client import VlmClient; from qwen3vl_ros.client.goal import build_goal; "
        "build_goal('?', images=numpy.zeros((2, 2), numpy.uint8)); sys.exit(bool({'cv2', 'PIL'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=60.0).returncode == 0
