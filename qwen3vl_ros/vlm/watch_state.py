"""The state of one watch: when it is due, what its answers add up to, which events it sends.

No ROS, no threads and no clock: every method is told the time, in seconds of any clock that does not go back.
"""

from __future__ import annotations

import collections
import enum
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final

_NOTHING: Final = object()
"""What a watch has been told before its first answer."""

_IN_TIME: Final = 0.1
"""Seconds of lateness that are no lateness."""


class Kind(enum.IntFlag):
    """What an event tells; numbers as in WatchEvent.msg."""

    ON = 1
    OFF = 2
    UPDATE = 4


ALL_KINDS: Final = Kind.ON | Kind.OFF | Kind.UPDATE


@dataclass(frozen=True, slots=True)
class Rules:
    """What a watch was asked to do; the fields are those of Watch.msg, times in seconds.

    ``updates``: each new value is an event of its own (CONDITION_TEXT); otherwise the values are true and false.
    ``max_duration``: infinite = it never ends by itself.
    """

    updates: bool = False
    needed: int = 1
    of_last: int = 1
    min_period: float = 1.0
    max_period: float = 60.0
    cooldown: float = 0.0
    max_duration: float = math.inf
    kinds: Kind = ALL_KINDS


@dataclass(frozen=True, slots=True)
class Event:
    """An event to be sent. ``content``: what the answer brought that caused it."""

    kind: Kind
    active: bool
    sequence: int
    content: Any


class WatchState:
    """See the module. ``since``: stamp of the image with which the present value began; None = no answer yet.

    The counters are those of WatchState.msg. ``error``: why the last question failed, "" = it did not.
    """

    def __init__(self, rules: Rules, now: float, *, muted: bool = False) -> None:
        self.rules = rules
        self.active = False
        self.since: Any = None
        self.asked = self.unchanged = self.events = self.failed = 0
        self.error = ""
        self._muted = muted
        self._ends = now + rules.max_duration
        self._values: collections.deque[Hashable] = collections.deque(maxlen=rules.of_last)
        self._current: Hashable = _NOTHING
        self._told: Hashable = _NOTHING if rules.updates else False
        self._pending: tuple[Kind, Hashable, Any] | None = None
        self._sent = -math.inf
        self._next_look = now
        self._latest = now
        self._late = 0.0
        self._failures = 0

    # --- when --------------------------------------------------------------------------------------------------------

    @property
    def next_look(self) -> float:
        """When its image is looked at next."""
        return self._next_look

    @property
    def latest(self) -> float:
        """When it is asked at the latest, whatever its image shows."""
        return self._latest

    @property
    def next_event(self) -> float:
        """When :meth:`poll` has something to send or :meth:`is_over` becomes true; infinite = not without an answer."""
        pending = self._sent + self.rules.cooldown if self._pending is not None else math.inf
        return min(self._ends, pending)

    def is_over(self, now: float) -> bool:
        """Return whether its ``max_duration`` has passed."""
        return now >= self._ends

    def late(self, now: float) -> float:
        """Return the seconds by which the last question came late, or by which the next one is late already."""
        late = max(self._late, now - self._latest)
        return late if late > _IN_TIME else 0.0

    def wants(self, change: float | None, tolerance: float, now: float) -> bool:
        """Return whether to ask about an image now.

        Args:
            change: Of the image against the one of the last answer, grey levels; None = there is none.
            tolerance: Greatest change that counts as none.
            now: The time.
        """
        return change is None or change > tolerance or now >= self._latest

    # --- what happened -----------------------------------------------------------------------------------------------

    def left_out(self, now: float) -> None:
        """Note that it was not asked, because its image has not changed."""
        self.unchanged += 1
        self._look_again(now)

    def begins(self, now: float) -> None:
        """Note that its question begins."""
        self._late = max(0.0, now - self._latest)

    def put_off(self, error: str, now: float) -> None:
        """Note that it could not be asked, for a reason that is not its own: the model is loading."""
        self.error = error
        self._look_again(now)
        self._latest = max(self._latest, self._next_look)

    def fails(self, error: str, now: float) -> None:
        """Note that its question failed. It is asked again after ``min_period``, and then ever later."""
        self.failed += 1
        self.error = error
        self._failures = min(self._failures + 1, 30)
        wait = min(self.rules.min_period * 2 ** (self._failures - 1), self.rules.max_period)
        self._next_look = self._latest = now + wait

    def answers(
        self, value: Hashable, stamp: Any, make_content: Callable[[], Any], now: float, begun: float | None = None
    ) -> None:
        """Take an answer; :meth:`poll` has what is to be sent.

        Args:
            value: True or false, or a text with ``updates``; None = neither, as a probability between the thresholds.
            stamp: Of the image.
            make_content: Makes the content of an event, where the answer causes one.
            now: The time.
            begun: When the image was taken; None = now.
        """
        begun = now if begun is None else begun
        self.asked += 1
        self.error, self._failures = "", 0
        self._next_look = max(now, begun + self.rules.min_period)
        self._latest = begun + self.rules.max_period
        self._values.append(value)
        if self.since is None:
            self.since = stamp
        if value is None or value == self._current or self._values.count(value) < self.rules.needed:
            return
        first, self._current = self._current is _NOTHING, value
        self.since = stamp
        if not self.rules.updates:
            self.active = bool(value)
        if value == self._told or (first and self.rules.updates):
            self._told, self._pending = value, None
            return
        kind = Kind.UPDATE if self.rules.updates else Kind.ON if value else Kind.OFF
        if self._muted or not kind & self.rules.kinds:
            self._told, self._pending = value, None
        else:
            self._pending = (kind, value, make_content())

    def poll(self, now: float) -> Event | None:
        """Return the event to be sent now, None if there is none. What is returned counts as sent."""
        if self._pending is None or now < self._sent + self.rules.cooldown:
            return None
        kind, self._told, content = self._pending
        self._pending, self._sent = None, now
        self.events += 1
        return Event(kind, self.active, self.events - 1, content)

    @property
    def muted(self) -> bool:
        """Whether it sends no events. What changes while it is true is not told afterwards."""
        return self._muted

    @muted.setter
    def muted(self, muted: bool) -> None:
        self._muted = muted
        if muted and self._pending is not None:
            _, self._told, _ = self._pending
            self._pending = None

    def _look_again(self, now: float) -> None:
        """Look at the next whole multiple of ``min_period``: watches of one period look, and ask, about one frame."""
        period = self.rules.min_period
        self._next_look = (math.floor(now / period) + 1) * period
        if self._next_look <= now:  # rounded
            self._next_look += period
