"""Images that are no scenes of boxes, balls and cylinders: photographs, drawings, pages, noise.

    python -m training.foreign_images OUT FOLDER... --count 2400

The FOLDERs have photographs and drawings, in any depth; half of the images are parts of these, the rest is made up.
Writes files like those of `render.py`, without objects.
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, UnidentifiedImageError

from training.render import FORMATS, LABEL_STEP
from training.scenes import MAX_OBJECTS

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_LEAST_SIDE = 48  # pixels: smaller files are icons
_FOUND_SHARE = 0.6  # of the images: parts of files

Pixels = NDArray[np.uint8]  # RGB [H, W, 3]


def image_files(folders: list[Path]) -> list[Path]:
    """The image files in folders, sorted."""
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def found_image(rng: np.random.Generator, path: Path, size: tuple[int, int]) -> Pixels | None:
    """A random part of a file, where transparent before something made up; None for icons and broken files."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (1600, 1600))
            whole = image.convert("RGBA")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError):
        return None
    if min(whole.size) < _LEAST_SIDE:
        return None
    side = rng.uniform(0.35, 1.0)
    width, height = (max(_LEAST_SIDE, int(length * side)) for length in whole.size)
    if width / height > size[0] / size[1]:
        width = max(_LEAST_SIDE, int(height * size[0] / size[1]))
    else:
        height = max(_LEAST_SIDE, int(width * size[1] / size[0]))
    left = int(rng.integers(max(whole.width - width, 0) + 1))
    top = int(rng.integers(max(whole.height - height, 0) + 1))
    part = whole.crop((left, top, left + width, top + height)).resize(size, Image.Resampling.BICUBIC)
    back = Image.fromarray(made_image(rng, size)) if rng.random() < 0.5 else Image.new("RGB", size, _colour(rng))
    back.paste(part, mask=part.getchannel("A"))
    return np.asarray(back)


def made_image(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """Noise of all sizes, leaves upon leaves, a page of text, a chart, tiles, or hardly anything."""
    kinds = (_noise, _leaves, _page, _chart, _tiles, _plain)
    return kinds[rng.integers(len(kinds))](rng, size)


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """With the spectrum of natural images, 1 / frequency ** power."""
    width, height = size
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    power = rng.uniform(0.3, 2.0)
    channels = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) / frequency**power).real for _ in range(3)]
    values = np.stack([(c - c.mean()) / c.std() for c in channels], -1)
    grey = values.mean(2, keepdims=True)
    values = grey + rng.uniform(0, 1) * (values - grey)
    return (values * rng.uniform(20, 70) + rng.uniform(70, 190, 3)).clip(0, 255).astype(np.uint8)


def _leaves(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    image = Image.new("RGB", size, _colour(rng))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(25, 200))):
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        reach = np.exp(rng.uniform(np.log(6), np.log(110)))
        corners = int(rng.integers(3, 8))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        lengths = reach * rng.uniform(0.3, 1, corners)
        points = [(x + n * np.cos(a), y + n * np.sin(a)) for n, a in zip(lengths, angles, strict=True)]
        draw.polygon(points, fill=_colour(rng))
    return np.asarray(image)


def _page(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    dark = rng.random() < 0.25
    image = Image.new("RGB", size, (20, 20, 28) if dark else tuple(int(v) for v in rng.integers(215, 256, 3)))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=int(rng.integers(8, 40)))
    line = float(font.size) * 1.35  # type: ignore[union-attr]
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.;:-"))
    ink = _colour(rng) if rng.random() < 0.3 else ((230, 230, 230) if dark else (25, 25, 25))
    for row in range(int(size[1] / line)):
        words = ["".join(rng.choice(letters, int(rng.integers(1, 10)))) for _ in range(30)]
        if rng.random() < 0.85:
            draw.text((rng.uniform(4, 40), 4 + row * line), " ".join(words), fill=ink, font=font)
    return np.asarray(image)


def _chart(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    image = Image.new("RGB", size, (255, 255, 255) if rng.random() < 0.7 else _colour(rng))
    draw = ImageDraw.Draw(image)
    bottom, top = size[1] * 0.9, size[1] * 0.1
    draw.line([(size[0] * 0.08, top), (size[0] * 0.08, bottom), (size[0] * 0.95, bottom)], fill=(0, 0, 0), width=2)
    number = int(rng.integers(3, 14))
    across = np.linspace(size[0] * 0.12, size[0] * 0.9, number)
    for _ in range(int(rng.integers(1, 4))):
        heights = rng.uniform(top, bottom, number)
        if rng.random() < 0.5:
            wide = (across[1] - across[0]) * 0.4
            for x, y in zip(across, heights, strict=True):
                draw.rectangle((x - wide, y, x + wide, bottom), fill=_colour(rng))
        else:
            draw.line(list(zip(across, heights, strict=True)), fill=_colour(rng), width=int(rng.integers(1, 6)))
    return np.asarray(image)


def _tiles(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    colours = rng.integers(0, 256, (int(rng.integers(2, 7)), 3))
    side = int(rng.integers(8, 90))
    grid = rng.integers(len(colours), size=(size[1] // side + 2, size[0] // side + 2))
    tiles = colours[grid].astype(np.uint8).repeat(side, 0).repeat(side, 1)
    turn = cv2.getRotationMatrix2D((size[0] / 2, size[1] / 2), float(rng.uniform(-45, 45)), 1.3)
    return cv2.warpAffine(tiles, turn, size, borderMode=cv2.BORDER_REFLECT).astype(np.uint8)


def _plain(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """A covered lens, a screen that is off, a gradient."""
    corners = rng.integers(0, 256, (2, 2, 3)) if rng.random() < 0.5 else np.full((2, 2, 3), rng.integers(0, 256, 3))
    image = cv2.resize(corners.astype(np.float32), size) + rng.normal(0, rng.uniform(0, 8), (size[1], size[0], 3))
    return image.clip(0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in rng.integers(0, 256, 3))
    return red, green, blue


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=2400)
    parser.add_argument("--shard", type=int, default=100, help="images in a file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    files = image_files(args.folders)
    for number in range(args.count // args.shard):
        _, size = FORMATS[number % len(FORMATS)]
        images: list[Pixels] = []
        while len(images) < args.shard:
            if rng.random() > _FOUND_SHARE:
                images.append(made_image(rng, size))
            elif (part := found_image(rng, files[rng.integers(len(files))], size)) is not None:
                images.append(part)
        path = args.out / f"{size[0]}x{size[1]}-foreign-{number:03d}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                colour=np.stack(images),
                labels=np.zeros((args.shard, size[1] // LABEL_STEP, size[0] // LABEL_STEP), np.uint8),
                objects=np.array([""] * args.shard),
                boxes=np.zeros((args.shard, MAX_OBJECTS, 4), np.float32),
                distances=np.zeros((args.shard, MAX_OBJECTS), np.float32),
            )
        partial.rename(path)
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
