"""The ready-made tasks that a node knows, as typed, frozen dataclasses."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.client.exceptions import NotSpinning, ServerUnavailable
from qwen3vl_ros.srv import ListTasks

if TYPE_CHECKING:
    from rclpy.node import Node

_REPLY_TIME = 2.0
"""Seconds to wait for a reply before asking again: the node's reply to an undiscovered client is lost."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter of a task. ``type``: "text", "number", "boolean" or "texts". ``choices``: () = any text."""

    name: str
    type: str
    description: str
    required: bool = True
    default: Any = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A ready-made task; see Task.msg. ``main``: the slot that the prompt fills, None for a task without one."""

    name: str
    description: str
    main: str | None
    slots: tuple[Slot, ...]
    parser: str
    min_images: int
    languages: tuple[str, ...]
    source: str


class TaskList:
    """Asks the vlm node ``node_name`` for its tasks, with a service client of ``node``, which the caller spins.

    It keeps one service client, because the first reply to a new one may be lost.
    """

    def __init__(self, node: Node, node_name: str) -> None:
        self._node = node
        self._client: Any = node.create_client(ListTasks, f"{node_name}/list_tasks")

    def ask(self, timeout: float) -> tuple[Task, ...]:
        """Return the tasks; () while the node is unconfigured.

        Args:
            timeout: seconds to wait at most.

        Raises:
            ServerUnavailable: no node serves the list by then.
            NotSpinning: a node serves it, but its reply did not arrive.
        """
        deadline = time.monotonic() + timeout
        service = self._client.service_name
        if not self._client.wait_for_service(timeout):
            raise ServerUnavailable(
                f"No node serves {service}; waited {timeout:g} s. Start one with `qwen3vl-ros node`; if one runs, give "
                "both sides the same ROS_DOMAIN_ID."
            )
        while (left := deadline - time.monotonic()) > 0:
            arrived = threading.Event()
            future = self._client.call_async(ListTasks.Request())
            future.add_done_callback(lambda _, arrived=arrived: arrived.set())
            if arrived.wait(min(left, _REPLY_TIME)):
                return tuple(map(_task, future.result().tasks))
            self._client.remove_pending_request(future)
        raise NotSpinning(
            f"A node serves {service}, but no reply came within {timeout:g} s: nobody spins node "
            f"{self._node.get_name()}, or the other one hangs."
        )

    def close(self) -> None:
        """Remove the service client from the node."""
        self._node.destroy_client(self._client)


def _task(task: Any) -> Task:
    return Task(
        name=task.name,
        description=task.description,
        main=task.main or None,
        slots=tuple(
            Slot(
                slot.name,
                slot.type,
                slot.description,
                slot.required,
                json.loads(slot.default_json or "null"),
                tuple(slot.choices),
            )
            for slot in task.slots
        ),
        parser=task.parser,
        min_images=task.min_images,
        languages=tuple(task.languages),
        source=task.source,
    )
