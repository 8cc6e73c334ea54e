"""`qwen3vl-ros status`: prints the state of a node ``vlm`` and of all that belongs to it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.qos import QoSProfile

from qwen3vl_ros.cli.connection import StatusReader
from qwen3vl_ros.gateway.backend import CameraStatus, NodeStatus
from qwen3vl_ros.gateway.node_status import cameras_of, parts_of, status_of, values_of

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time
    from rich.table import Table

    from qwen3vl_ros.cli.connection import Connection

_DIAGNOSTICS_WAIT = 2.5
"""Seconds to wait for diagnostics, which the node publishes once a second by default."""

_REFRESH = 1.0
"""Seconds between looks whether the node is still there."""

_STYLES = {"ready": "green", "busy": "green", "loading": "yellow", "inactive": "yellow"}


class _Watcher:
    """Gathers what the node publishes about itself."""

    def __init__(self, connection: Connection) -> None:
        self._name = connection.name
        self._changed = threading.Event()
        self._diagnosed = threading.Event()
        self._cameras: tuple[CameraStatus, ...] | None = None
        self._last_error = ""
        self._reader = StatusReader(connection, self._changed.set)
        connection.node.create_subscription(
            DiagnosticArray, "/diagnostics", self._take_diagnostics, QoSProfile(depth=10)
        )

    def _take_diagnostics(self, array: DiagnosticArray) -> None:
        parts = parts_of(array, self._name)
        if not parts:
            return
        self._cameras = cameras_of(parts, "default")
        if (queue := parts.get("queue")) is not None:
            self._last_error = values_of(queue).get("last error", "")
        self._diagnosed.set()
        self._changed.set()

    def wait(self) -> None:
        """Wait for a status, and briefly for diagnostics; raises ServerUnavailable without a status."""
        self._reader.first()
        self._diagnosed.wait(_DIAGNOSTICS_WAIT)

    def changes(self) -> Iterator[dict[str, Any]]:
        """Yield a report now, after each message, and at least once a second."""
        while True:
            self._changed.clear()
            yield self.report()
            self._changed.wait(_REFRESH)

    def report(self) -> dict[str, Any]:
        """Return everything that is known, as JSON has it."""
        message = self._reader.status
        if message is None or not self._reader.publisher_is_there():
            return {"node": self._name, "state": "absent"}
        status: NodeStatus = status_of(message)
        cameras = self._cameras
        return {
            "node": self._name,
            "state": status.state,
            "message": status.message,
            "engine": status.engine,
            "model": status.model,
            "model_card": asdict(status.model_card),
            "context_length": status.context_length,
            "max_images": message.max_images,
            "cameras": None if cameras is None else [asdict(camera) for camera in cameras],
            "histories": [
                {
                    "camera": history.camera,
                    "oldest": _seconds(history.oldest),
                    "newest": _seconds(history.newest),
                    "frames": history.frames,
                    "bytes": history.bytes,
                }
                for history in message.histories
            ],
            "queue": {"waiting": status.queue_length, "capacity": status.queue_capacity},
            "goals": {
                "accepted": message.goals_accepted,
                "succeeded": message.goals_succeeded,
                "failed": message.goals_failed,
                "cancelled": message.goals_cancelled,
            },
            "tokens": {"prompt": message.prompt_tokens, "completion": message.completion_tokens},
            "process": {
                "pid": message.engine_pid,
                "memory": message.engine_memory,
                "load_time": round(message.load_time, 3),
                "restarts": message.engine_restarts,
            },
            "last_error": self._last_error,
        }


def run(connection: Connection, *, as_json: bool, watch: bool) -> int:
    """Print the status, or with ``watch`` keep it on the screen; return the exit status.

    Raises:
        ServerUnavailable: There is no node.
    """
    if watch and not as_json and not sys.stdout.isatty():
        print("--watch draws on a terminal; add --json for a line of JSON at each change.", file=sys.stderr)
        return 2
    watcher = _Watcher(connection)
    watcher.wait()
    if not watch:
        report = watcher.report()
        if as_json:
            print(json.dumps(report, indent=2, ensure_ascii=False))
        else:
            _print(report)
    elif as_json:
        _watch_as_json(watcher)
    else:
        _watch_on_terminal(watcher)
    return 0


def _watch_as_json(watcher: _Watcher) -> None:
    before = None
    for report in watcher.changes():
        if report != before:
            before = report
            print(json.dumps(report, ensure_ascii=False), flush=True)


def _watch_on_terminal(watcher: _Watcher) -> None:
    import rich.live

    with rich.live.Live(auto_refresh=False) as live:
        for report in watcher.changes():
            live.update(_table(report), refresh=True)


def _print(report: dict[str, Any]) -> None:
    """Print the report; not wrapped where nobody looks at it, so that scripts find a thing on its line."""
    if sys.stdout.isatty():
        import rich.console

        rich.console.Console(highlight=False).print(_table(report))
        return
    for name, text in _lines(report):
        print(f"{name:<12}{text}")


def _table(report: dict[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(report):
        style = _STYLES.get(report["state"], "red") if name == "state" else ""
        table.add_row(name, Text(text, style=style))
    return table


def _lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what a person reads, as names and texts."""
    message = report.get("message", "")
    yield "node", report["node"]
    yield "state", report["state"] + f": {message}" * bool(message)
    if report["state"] == "absent":
        return
    process = report["process"]
    details = [f"pid {process['pid']}", f"{process['memory'] / 1e6:.0f} MB", f"loaded in {process['load_time']:.1f} s"]
    details += [f"restarted {process['restarts']} times"] * bool(process["restarts"])
    yield "engine", (report["engine"] or "none") + f" ({', '.join(details)})" * bool(process["pid"])
    limits = [f"{report['context_length']} tokens of context"] if report["context_length"] else []
    limits += [f"{report['max_images']} images"] if report["max_images"] else []
    yield "model", (report["model"] or "none") + f" ({', '.join(limits)})" * bool(limits and report["model"])
    yield from _card_lines(report["model_card"])
    if report["cameras"] is None:
        yield "cameras", f"unknown: no diagnostics arrived within {_DIAGNOSTICS_WAIT:g} s"
    for camera in report["cameras"] or ():
        rate = "rate unknown" if camera["rate"] is None else f"{camera['rate']:.1f} Hz"
        age = "no frame" if camera["age"] is None else f"newest frame {camera['age']:.2f} s old"
        yield "camera", ", ".join(filter(None, (f"{camera['name']}: {camera['topic']}", rate, age, camera["problem"])))
    for history in report["histories"]:
        span = history["newest"] - history["oldest"]
        of = f"{history['camera']}: " * bool(history["camera"])
        yield "history", f"{of}{history['frames']} frames over {span:.1f} s, {history['bytes'] / 1e6:.1f} MB"
    queue, goals, tokens = report["queue"], report["goals"], report["tokens"]
    yield "queue", f"{queue['waiting']} waiting, {queue['capacity']} places"
    yield (
        "questions",
        f"{goals['accepted']} accepted: {goals['succeeded']} answered, {goals['failed']} failed, "
        f"{goals['cancelled']} cancelled",
    )
    yield "tokens", f"{tokens['prompt']} read, {tokens['completion']} generated"
    yield "last error", report["last_error"] or "none"


def _seconds(stamp: Time) -> float:
    return round(float(stamp.sec + stamp.nanosec * 1e-9), 3)


def _card_lines(card: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the model is for."""
    if card["demonstration"]:
        yield "", f"demonstration model: {card['domain']} Get a real one: qwen3vl-ros model use 2b"
    elif card["domain"]:
        yield "", card["domain"]
    if card["tasks"]:
        yield "", f"tasks that it can do: {', '.join(card['tasks'])}"
    if not card["conversation"]:
        yield "", "no conversation: each question is asked afresh"
    about = [f"languages {', '.join(card['languages'])}"] if card["languages"] else []
    about += [f"licence {card['license']}"] if card["license"] else []
    if about:
        yield "", "; ".join(about)
