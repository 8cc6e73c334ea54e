"""Converts what a node ``vlm`` publishes about itself: its status, and its diagnostics on /diagnostics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from qwen3vl_ros.engines.base import ModelCard
from qwen3vl_ros.gateway.backend import CameraStatus, NodeStatus, State
from qwen3vl_ros.msg import VlmStatus

_STATES: Final[dict[int, State]] = {
    VlmStatus.UNCONFIGURED: "unconfigured",
    VlmStatus.LOADING: "loading",
    VlmStatus.INACTIVE: "inactive",
    VlmStatus.READY: "ready",
    VlmStatus.BUSY: "busy",
    VlmStatus.FAILED: "failed",
}


def status_of(message: VlmStatus) -> NodeStatus:
    """Return the status in a message of ~/status."""
    card: dict[str, Any] = {field.name: getattr(message.model_card, field.name) for field in fields(ModelCard)}
    card.update(tasks=tuple(card["tasks"]), languages=tuple(card["languages"]))
    return NodeStatus(
        state=_STATES[message.state],
        message=message.message,
        engine=message.engine,
        model=message.model,
        queue_length=message.queue_length,
        queue_capacity=message.queue_capacity,
        tasks=tuple(message.tasks),
        context_length=message.context_length,
        model_card=ModelCard(**card),
    )


def parts_of(array: DiagnosticArray, node: str) -> dict[str, DiagnosticStatus]:
    """Return the statuses of ``node`` by part, such as "queue" and "camera front"; {} if it is another node's message.

    Args:
        array: The message.
        node: Full name of the node ``vlm``.
    """
    return {
        str(status.name.partition(": ")[2]): status for status in array.status if values_of(status).get("node") == node
    }


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    """Return the values of a status by their keys."""
    return {pair.key: pair.value for pair in status.values}


def tools_of(parts: Mapping[str, DiagnosticStatus], model: str) -> str | None:
    """Return the format in which ``model`` knows tools; None where the parts are of another model, or do not tell."""
    values = values_of(parts["engine"]) if "engine" in parts else {}
    return values.get("tools") if values.get("model") == model else None


def cameras_of(parts: Mapping[str, DiagnosticStatus], nameless: str) -> tuple[CameraStatus, ...]:
    """Return the cameras among the parts of a node.

    Args:
        parts: What :func:`parts_of` returned.
        nameless: What to call the camera without a name.
    """
    return tuple(
        _camera(part.removeprefix("camera").strip() or nameless, status)
        for part, status in parts.items()
        if part.startswith("camera")
    )


def _camera(name: str, status: DiagnosticStatus) -> CameraStatus:
    values = values_of(status)
    return CameraStatus(
        name=name,
        topic=values["topic"],
        rate=_number(values["rate (Hz)"]),
        age=_number(values["age of the newest frame (s)"]),
        problem="" if status.level == DiagnosticStatus.OK else status.message,
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # "unknown", "none"
