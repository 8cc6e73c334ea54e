"""Notices what simulated time does and the system's clock never: it stands still, and goes back."""

from __future__ import annotations

import time
from typing import Any

from rclpy.clock import JumpThreshold, ROSClock
from rclpy.duration import Duration

_ANY_STEP = JumpThreshold(min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1))


_STANDS_STILL = 1.0
"""Seconds of the wall clock after which simulated time that did not move counts as standing still."""


class ClockWatch:
    """Watches a node's clock. Costs a call for each message on /clock, and nothing where simulated time is not used."""

    def __init__(self, clock: ROSClock) -> None:
        self._clock = clock
        self._moved = time.monotonic()
        self._reset: tuple[float, float] | None = None  # when, in time.monotonic(), and by how many seconds
        self._handle = clock.create_jump_callback(_ANY_STEP, post_callback=self._jumped)

    @property
    def stands_still(self) -> bool:
        """Whether simulated time is used and has not moved for a second of the wall clock."""
        return self._clock.ros_time_is_active and time.monotonic() - self._moved > _STANDS_STILL

    def explain(self, since: float) -> str:
        """Return what simulated time did instead of passing since ``since`` (time.monotonic() seconds); "" if nothing.

        A reset counts as long as no frame came after it.
        """
        if self._reset is not None and self._reset[0] > since:
            return f"simulated time went back by {self._reset[1]:.1f} s (a reset?), and no image came since"
        if self.stands_still:
            now, still = self._clock.now().nanoseconds / 1e9, time.monotonic() - self._moved
            return f"simulated time has stood at {now:.1f} s for {still:.1f} s: is the simulation paused, or gone?"
        return ""

    def close(self) -> None:
        """Stop watching."""
        self._handle.unregister()

    def _jumped(self, jump: Any) -> None:
        self._moved = time.monotonic()
        if jump.delta.nanoseconds < 0:
            self._reset = self._moved, -jump.delta.nanoseconds / 1e9
