"""The ready-made tasks that a node knows, as typed, frozen dataclasses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.client.service_call import ServiceCaller
from qwen3vl_ros.srv import ListTasks

if TYPE_CHECKING:
    from rclpy.node import Node


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
    max_image_tokens: int = 0
    score_threshold: float = 0.0


class TaskList:
    """Asks the vlm node ``node_name`` for its tasks, with a service client of ``node``, which the caller spins."""

    def __init__(self, node: Node, node_name: str) -> None:
        self._service = ServiceCaller(node, ListTasks, f"{node_name}/list_tasks")

    def ask(self, timeout: float) -> tuple[Task, ...]:
        """Return the tasks; () while the node is unconfigured.

        Args:
            timeout: seconds to wait at most.

        Raises:
            ServerUnavailable: no node serves the list by then.
            NotSpinning: a node serves it, but its reply did not arrive.
        """
        return tuple(map(_task, self._service.call(ListTasks.Request(), timeout).tasks))

    def close(self) -> None:
        """Remove the service client from the node."""
        self._service.close()


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
        max_image_tokens=task.max_image_tokens,
        score_threshold=task.score_threshold,
    )
