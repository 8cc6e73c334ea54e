"""The measure of an image's change shows every object that comes or goes, and little of noise."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rclpy.parameter import Parameter

from qwen3vl_ros.engines.base import Image
from qwen3vl_ros.vision.change import BLOCK, image_change
from qwen3vl_ros.vlm.parameters import Settings, check

TOLERANCES = st.floats(0.5, 16.0)
"""Every reuse_tolerance that the node takes."""


def scene(seed: int, height: int, width: int, low: int = 60, high: int = 190) -> Image:
    """Smooth shades with an edge, as of a room: nothing in it is black or white, where a change would be cut off."""
    random = np.random.default_rng(seed)
    coarse = random.integers(low, high, (4, 5, 3), dtype=np.uint8)
    pixels = np.array(PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BILINEAR))
    pixels[height // 2 :, width // 3 :] = random.integers(low, high, 3)
    return pixels


def taken(scene: Image, seed: int, noise: float, exposure: float, jpeg: int | None) -> Image:
    """A frame of the scene: sensor noise that grows with brightness, another exposure, perhaps a round trip of JPEG."""
    light = scene.astype(float) * (1 + exposure)
    light += np.random.default_rng(seed).standard_normal(scene.shape) * noise * np.sqrt(light / 128)
    frame = np.clip(np.rint(light), 0, 255).astype(np.uint8)
    if jpeg is None:
        return frame
    file = io.BytesIO()
    PIL.Image.fromarray(frame).save(file, "JPEG", quality=jpeg)
    return np.array(PIL.Image.open(file).convert("RGB"))


def with_spot(scene: Image, x: int, y: int, levels: int, channels: list[int], size: int = 12) -> Image:
    changed = scene.astype(int)
    changed[y : y + size, x : x + size, channels] += levels
    assert changed.min() >= 0 and changed.max() <= 255
    return changed.astype(np.uint8)


@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(st.integers(40, 90), st.integers(40, 120)),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    levels=st.sampled_from([40, -40]),
    channels=st.sampled_from([[0, 1, 2], [0], [1], [2]]),
    noise=st.floats(0, 6),
    exposure=st.floats(-0.05, 0.05),
    tolerance=TOLERANCES,
)
def test_a_spot_of_12x12_pixels_by_40_levels_is_never_missed(
    seed: int,
    size: tuple[int, int],
    place: tuple[float, float],
    levels: int,
    channels: list[int],
    noise: float,
    exposure: float,
    tolerance: float,
) -> None:
    room = scene(seed, *size)
    y, x = (int(share * (side - 12)) for share, side in zip(place, size, strict=True))
    before = taken(room, seed, noise, 0.0, None)
    after = taken(with_spot(room, x, y, levels, channels), seed + 1, noise, exposure, None)
    assert image_change(after, before) > tolerance


@given(
    seed=st.integers(0, 2**32 - 1),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    levels=st.sampled_from([40, -40]),
    channels=st.sampled_from([[0, 1, 2], [0], [1], [2]]),
    noise=st.floats(0, 4),
    quality=st.integers(50, 95),
    exposure=st.floats(-0.03, 0.03),
    tolerance=TOLERANCES,
)
def test_neither_is_one_in_jpeg_images(
    seed: int,
    place: tuple[float, float],
    levels: int,
    channels: list[int],
    noise: float,
    quality: int,
    exposure: float,
    tolerance: float,
) -> None:
    room = scene(seed, 72, 104)
    y, x = int(place[0] * 60), int(place[1] * 92)
    before = taken(room, seed, noise, 0.0, quality)
    after = taken(with_spot(room, x, y, levels, channels), seed + 1, noise, exposure, quality)
    assert image_change(after, before) > tolerance


@given(st.integers(1, 60), st.integers(1, 60), st.data())
@example(8, 8, None)
def test_every_block_counts_also_at_the_edges_and_of_images_smaller_than_one(
    height: int, width: int, data: st.DataObject | None
) -> None:
    random = np.random.default_rng(height * 100 + width)
    image, earlier = random.integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    rows, columns = min(BLOCK, height), min(BLOCK, width)
    blocks = np.lib.stride_tricks.sliding_window_view(image.astype(int) - earlier, (rows, columns), axis=(0, 1))
    assert image_change(image, earlier) == abs(blocks.mean((-1, -2))).max() == image_change(earlier, image)
    pixel = earlier.copy()
    y, x = (height - 1, width - 1) if data is None else (data.draw(st.integers(0, n - 1)) for n in (height, width))
    pixel[y, x, 1] ^= 128
    assert image_change(pixel, earlier) == pytest.approx(128 / (rows * columns))


def test_a_change_of_all_pixels_is_as_large_as_that_of_one() -> None:
    black, white = np.zeros((16, 24, 3), np.uint8), np.full((16, 24, 3), 255, np.uint8)
    assert (image_change(white, black), image_change(black, white), image_change(black, black)) == (255.0, 255.0, 0.0)
    assert image_change(white - np.uint8(3), white) == 3.0


@given(st.integers(0, 2**32 - 1), st.floats(0, 4))
def test_noise_counts_for_no_more_than_it_moves_one_pixel(seed: int, noise: float) -> None:
    room = scene(seed, 64, 96)
    first, second = (taken(room, seed + shot, noise, 0.0, None) for shot in (0, 1))
    assert image_change(first, second) <= 0.1 + 1.2 * noise


def test_no_tolerance_that_could_miss_such_a_spot_can_be_set() -> None:
    """Where noise and exposure stay within T, a change by 40 is more than T if T is less than 20."""
    assert Settings().reuse_tolerance == 0.0
    for tolerance, allowed in ((16.0, True), (16.1, False), (-1.0, False), (float("nan"), False)):
        changes = [Parameter("reuse_tolerance", value=tolerance)]
        assert check(changes, configured=False).successful == allowed
