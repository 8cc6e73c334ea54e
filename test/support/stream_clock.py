"""Images that show when they were drawn, so that a stamp can be held against the truth. No library but the standard."""

from __future__ import annotations

from typing import Any

WIDTH, HEIGHT = 512, 64
_BITS = 32
_CELL = WIDTH // _BITS


def draw_time(moment: float) -> bytes:
    """An I420 image of time.monotonic() seconds: a column is a bit of the milliseconds, bright for 1."""
    milliseconds = int(moment * 1000) % (1 << _BITS)
    row = b"".join(bytes([230 if milliseconds >> bit & 1 else 25]) * _CELL for bit in range(_BITS))
    return row * HEIGHT + b"\x80" * (WIDTH * HEIGHT // 2)


def read_time(pixels: Any) -> float:
    """The seconds that an RGB image [HEIGHT, WIDTH, 3] shows."""
    cells = pixels[HEIGHT // 2, _CELL // 2 :: _CELL, 0]
    return sum(1 << bit for bit, value in enumerate(cells) if value > 127) / 1000
