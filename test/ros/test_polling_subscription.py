"""A subscription is waited for and taken from on the caller's thread, while an executor spins its node."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message
from std_msgs.msg import String

from qwen3vl_ros.ros.polling_subscription import Closed, PollingSubscription, RclError
from ros_client import PATIENCE, RosClient

QOS = QoSProfile(depth=5, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""What was published before the two sides have met arrives, too."""


@pytest.fixture
def polled(ros: RosClient) -> Iterator[PollingSubscription]:
    polled = PollingSubscription(ros.node, String, "polled", QOS)
    yield polled
    polled.close()


@pytest.fixture
def publish(ros: RosClient) -> Iterator[Callable[[str], None]]:
    publisher = ros.node.create_publisher(String, "polled", QOS)
    yield lambda text: publisher.publish(String(data=text))
    ros.on_executor(lambda: ros.node.destroy_publisher(publisher))


def next_of(polled: PollingSubscription) -> tuple[Any, Any]:
    assert polled.wait(PATIENCE)
    taken = polled.take()
    assert taken is not None
    return taken


def test_messages_are_taken_by_whoever_waits_in_their_order_and_nobody_else_takes_them(
    polled: PollingSubscription, publish: Callable[[str], None], ros: RosClient
) -> None:
    for text in "ab":
        publish(text)
    assert [next_of(polled)[0].data for _ in "ab"] == ["a", "b"]
    assert polled.take() is None
    assert not polled.wait(0.0)
    publish("c")
    ros.on_executor(lambda: None)
    assert next_of(polled)[0].data == "c"


def test_a_raw_message_comes_as_bytes_with_the_number_that_its_publisher_gave_it(
    ros: RosClient, publish: Callable[[str], None]
) -> None:
    raw = PollingSubscription(ros.node, String, "polled", QOS, raw=True)
    for text in "ab":
        publish(text)
    (first, before), (second, after) = next_of(raw), next_of(raw)
    assert [deserialize_message(serialized, String).data for serialized in (first, second)] == ["a", "b"]
    assert after["publication_sequence_number"] - before["publication_sequence_number"] == 1
    raw.close()


def test_an_interrupt_ends_the_wait_that_runs_or_the_next_one(polled: PollingSubscription) -> None:
    begin = time.monotonic()
    polled.interrupt()
    assert not polled.wait(PATIENCE)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(polled.wait, PATIENCE)
        polled.interrupt()
        assert waits.result() is False
    assert time.monotonic() - begin < PATIENCE


def test_after_closing_nothing_can_be_taken_and_a_wait_that_runs_is_not_pulled_the_rug(
    polled: PollingSubscription,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(polled.wait, 0.2)
        polled.close()
        with pytest.raises(Closed):
            polled.take()
        polled.interrupt()
        assert waits.exception() is None or isinstance(waits.exception(), Closed)
    with pytest.raises(Closed):
        polled.wait(0.0)


def test_the_end_of_ros_is_told_by_these_errors_and_no_others(ros: RosClient) -> None:
    """By which of them differs: rclpy 9.1 destroys what belongs to the context, 7.1 leaves it."""
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = rclpy.create_node("short_lived", context=context)
    polled = PollingSubscription(node, String, "polled", QOS)
    context.shutdown()
    with contextlib.suppress(Closed):
        assert not polled.wait(0.0)
    with pytest.raises((Closed, RclError)):
        node.count_publishers("polled")
