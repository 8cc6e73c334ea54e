"""The queue of the goals that wait: by priority, bounded, and any of them can be withdrawn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Prioritized(Protocol):
    """An item of a :class:`GoalQueue`."""

    @property
    def priority(self) -> int:
        """Higher is served first."""
        ...


T = TypeVar("T", bound=Prioritized)


class GoalQueue(Generic[T]):
    """A thread-safe bounded priority queue whose items can be withdrawn while they wait.

    ``capacity`` may change at any time; queued items stay in the queue. Operations are linear in the number of items,
    since there are few. An item that is not ready waits; :meth:`look_again` has to be called when it may be.
    """

    def __init__(self, capacity: int, is_ready: Callable[[T], bool] = lambda _: True) -> None:
        self.capacity = capacity
        self._is_ready = is_ready
        self._items: list[T] = []
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Add ``item`` behind those of its priority; return False if the queue is full or closed."""
        with self._changed:
            if self._closed or len(self._items) >= self.capacity:
                return False
            index = next((i for i, other in enumerate(self._items) if other.priority < item.priority), len(self._items))
            self._items.insert(index, item)
            self._changed.notify()
            return True

    def take(self) -> T | None:
        """Wait for the next item that is ready and remove it; None once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or any(map(self._is_ready, self._items)))
            ready = (i for i, item in enumerate(self._items) if self._closed or self._is_ready(item))
            index = next(ready, None)
            return None if index is None else self._items.pop(index)

    def look_again(self) -> None:
        """Note that an item may have become ready."""
        with self._changed:
            self._changed.notify_all()

    def withdraw(self, item: T) -> bool:
        """Remove ``item`` from any position; return False if it is not in the queue."""
        with self._changed:
            if item in self._items:
                self._items.remove(item)
                return True
            return False

    def waiting(self) -> list[T]:
        """Return all items, the next one first."""
        with self._changed:
            return list(self._items)

    def close(self) -> None:
        """Accept no more items; :meth:`take` returns the rest, then None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
