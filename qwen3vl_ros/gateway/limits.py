"""Limits on the number of questions: at the same time, and per minute."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.settings import Settings

_MOST_CLIENTS = 10_000
"""Most addresses that are remembered; beyond it, the least recently active are forgotten."""


class Slots:
    """Limits the questions that are answered at the same time."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.taken = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot within the block.

        Raises:
            ApiError: 503 if none is free.
        """
        if self.taken >= self._count:
            raise ApiError(
                503,
                "busy",
                f"{self.taken} questions are being answered, as many as are allowed: try again later",
                retry_after=1,
            )
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class RateLimit:
    """Limits the questions a minute from one address with a token bucket, which a quiet minute fills."""

    def __init__(self, a_minute: int, now: Callable[[], float] = time.monotonic) -> None:
        self._a_minute = a_minute
        self._now = now
        self._left: dict[str, tuple[float, float]] = {}

    def count(self, client: str) -> None:
        """Count a question of ``client``. Raises :class:`ApiError` 429 if it exceeds the limit."""
        if not self._a_minute:
            return
        now = self._now()
        left, since = self._left.pop(client, (float(self._a_minute), now))
        left = min(float(self._a_minute), left + (now - since) * self._a_minute / 60)
        self._left[client] = (left - 1 if left >= 1 else left, now)  # at the end: the order is that of the last visit
        if len(self._left) > _MOST_CLIENTS:
            del self._left[next(iter(self._left))]
        if left < 1:
            wait = (1 - left) * 60 / self._a_minute
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"more than {self._a_minute} questions a minute from {client}: wait {wait:.1f} s",
                retry_after=max(1, round(wait + 0.5)),
            )


class Limits:
    """The limits of a gateway, which all ways to ask share. ``slots``, ``rate``: as above."""

    def __init__(self, settings: Settings) -> None:
        self.slots = Slots(settings.concurrency)
        self.rate = RateLimit(settings.rate_limit)
