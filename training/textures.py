"""Procedural textures for floors, tables and walls."""

import colorsys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 768


def texture_file(folder: Path, number: int) -> Path:
    """PNG of texture `number`, made on first use."""
    path = folder / f"{number}.png"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{number}.{np.random.default_rng().integers(1 << 40)}.png"
        cv2.imwrite(str(partial), cv2.cvtColor(make_texture(number), cv2.COLOR_RGB2BGR))
        partial.rename(path)
    return path


def make_texture(number: int) -> NDArray[np.uint8]:
    """A two-colour pattern with grain, uint8 RGB [SIDE, SIDE, 3]."""
    rng = np.random.default_rng([7, number])
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    kind = rng.choice(["grain", "clouds", "tiles", "checks", "planks", "stripes"])
    if kind == "clouds":
        mix = _noise(rng, int(rng.integers(4, 30)))
    elif kind == "tiles":
        n = rng.integers(8, 40)
        mix = ((x * n % 1 < 0.05) | (y * n % 1 < 0.05)).astype(float)
    elif kind == "checks":
        n = rng.integers(8, 40)
        mix = ((np.floor(x * n) + np.floor(y * n)) % 2).astype(float)
    elif kind == "planks":
        n = rng.integers(10, 40)
        tone = rng.random(n)
        mix = tone[np.floor(y * n).astype(int)] + 0.4 * np.sin(40 * _noise(rng, 6) + 9 * y * n)
    elif kind == "stripes":
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * rng.integers(8, 40) * (x + rng.uniform(-1, 1) * y))
    else:
        mix = np.full((SIDE, SIDE), 0.5)
    mix = mix + rng.uniform(0, 0.3) * (_noise(rng, int(rng.integers(60, 400))) - 0.5)
    base = np.array(_tone(rng))
    other = np.clip(base + rng.uniform(-0.35, 0.35) + rng.normal(0, 0.04, 3), 0, 1)
    mix = np.clip(mix, 0, 1)[..., None]
    return (((1 - mix) * base + mix * other) * 255).astype(np.uint8)


def _noise(rng: np.random.Generator, cells: int) -> NDArray[np.float64]:
    coarse = rng.random((cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float64)


def _tone(rng: np.random.Generator) -> tuple[float, float, float]:
    if rng.random() < 0.35:  # wood
        return colorsys.hsv_to_rgb(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.85))
    return colorsys.hsv_to_rgb(rng.random(), 0.3 * rng.random(), rng.uniform(0.2, 1.0))
