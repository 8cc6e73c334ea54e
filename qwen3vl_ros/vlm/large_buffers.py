"""What happens to the memory of images that are freed: it goes back to the system, or stays with the process.

mallopt(3) and malloc_trim(3) of glibc; without effect where the C library has none.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def return_at_once() -> None:
    """Make freed images go back to the system.

    By itself, glibc raises the threshold to the largest buffer that was freed, up to 32 MB, and keeps what is smaller:
    with 4K images that came to 140 MB for good.
    """
    _set(mapped_from=1 << 20, kept=128 << 10)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep() -> None:
    """Keep freed images of up to 16 MB for the next ones, as while a frame is taken twice a second.

    New memory costs a page fault for each 4 kB, which is most of the work of taking a frame: of 1080p RGB, 20 ms of
    processor time instead of 5.
    """
    _set(mapped_from=16 << 20, kept=32 << 20)


def _set(mapped_from: int, kept: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, mapped_from)
        mallopt(_M_TRIM_THRESHOLD, kept)
