"""Where accepted questions wait: bounded, ordered by priority and then by acceptance."""

from __future__ import annotations

import threading
from typing import Generic, Protocol, TypeVar


class Prioritized(Protocol):
    """What can wait here: higher ``priority`` is served first."""

    @property
    def priority(self) -> int:
        """Higher is served first."""
        ...


T = TypeVar("T", bound=Prioritized)


class GoalQueue(Generic[T]):
    """A thread-safe bounded priority queue whose items can be withdrawn while they wait.

    Bounded by ``capacity``, which may change at any time; items that are in stay in. A handful of items at most:
    operations are linear in their number.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._items: list[T] = []
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> bool:
        """Add ``item`` behind those of its priority; False when the queue is full or closed."""
        with self._changed:
            if self._closed or len(self._items) >= self.capacity:
                return False
            index = next((i for i, other in enumerate(self._items) if other.priority < item.priority), len(self._items))
            self._items.insert(index, item)
            self._changed.notify()
            return True

    def take(self) -> T | None:
        """The next item, waiting for one; None once the queue is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._closed)
            return self._items.pop(0) if self._items else None

    def withdraw(self, item: T) -> bool:
        """Take ``item`` out, wherever it stands; False when it is no longer in."""
        with self._changed:
            if item in self._items:
                self._items.remove(item)
                return True
            return False

    def waiting(self) -> list[T]:
        """Everything that waits, next one first."""
        with self._changed:
            return list(self._items)

    def close(self) -> None:
        """No more items come in; whoever waits in :meth:`take` gets the rest and then None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
