"""The queue serves by priority, then by acceptance, and loses nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.vlm.goal_queue import GoalQueue


@dataclass(eq=False)
class Item:
    priority: int
    number: int


@given(st.lists(st.integers(0, 255), max_size=30))
def test_items_come_out_by_priority_and_then_in_the_order_they_came(priorities: list[int]) -> None:
    queue: GoalQueue[Item] = GoalQueue(capacity=100)
    items = [Item(priority, number) for number, priority in enumerate(priorities)]
    assert all(queue.put(item) for item in items)
    assert queue.waiting() == sorted(items, key=lambda item: (-item.priority, item.number))
    taken = [queue.take() for _ in items]
    assert taken == sorted(items, key=lambda item: (-item.priority, item.number))


@given(st.integers(0, 5), st.integers(0, 10))
def test_no_more_than_the_capacity_gets_in(capacity: int, offered: int) -> None:
    queue: GoalQueue[Item] = GoalQueue(capacity)
    assert sum(queue.put(Item(0, number)) for number in range(offered)) == min(capacity, offered) == len(queue)


def test_a_withdrawn_item_is_gone_and_the_others_stay() -> None:
    queue: GoalQueue[Item] = GoalQueue(3)
    first, second = Item(0, 0), Item(0, 1)
    queue.put(first)
    queue.put(second)
    assert queue.withdraw(first)
    assert not queue.withdraw(first)
    assert queue.take() is second


def test_closing_releases_whoever_waits_after_the_rest_is_served() -> None:
    queue: GoalQueue[Item] = GoalQueue(2)
    served: list[Item | None] = []
    thread = threading.Thread(target=lambda: served.extend(iter(queue.take, None)))
    thread.start()
    item = Item(0, 0)
    queue.put(item)
    queue.close()
    thread.join(10)
    assert not thread.is_alive()
    assert served == [item]
    assert not queue.put(Item(0, 1))


def test_an_item_that_is_not_ready_waits_and_holds_nobody_up() -> None:
    ready: set[int] = {1}
    queue: GoalQueue[Item] = GoalQueue(3, lambda item: item.number in ready)
    items = [Item(9, 0), Item(0, 1), Item(0, 2)]
    assert all(queue.put(item) for item in items)
    assert queue.take() is items[1]
    served: list[Item | None] = []
    thread = threading.Thread(target=lambda: served.append(queue.take()))
    thread.start()
    ready.add(2)
    queue.look_again()
    thread.join(10)
    assert served == [items[2]]
    queue.close()
    assert [queue.take(), queue.take()] == [items[0], None], "closed, it gives what is left"
