"""What /diagnostics says: camera, engine and queue, each with a level and the numbers behind it.

``node`` is everywhere its full name. A status is named after its last part, as tools show it; the value "node" has all
of it, for who listens to several robots.
"""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from qwen3vl_ros.engines.process import Health, State
from qwen3vl_ros.vlm.frame_source import CameraHealth


def camera_status(node: str, name: str, camera: CameraHealth, max_frame_age: float) -> DiagnosticStatus:
    """ERROR when frames cannot arrive, WARN when the newest is too old to be used."""
    if camera.problem:
        level, message = DiagnosticStatus.ERROR, camera.problem
    elif camera.age is None:
        level, message = DiagnosticStatus.ERROR, f"no frame has arrived on {camera.topic}"
    elif camera.age > max_frame_age:
        level, message = DiagnosticStatus.WARN, f"the newest frame is {camera.age:.1f} s old"
    elif camera.age < -max_frame_age:
        level, message = DiagnosticStatus.WARN, f"the newest frame is stamped {-camera.age:.1f} s in the future"
    else:
        level, message = DiagnosticStatus.OK, "frames arrive"
    return _status(
        node,
        f"camera {name}".rstrip(),
        level,
        message,
        {
            "topic": camera.topic,
            "publishers": camera.publishers,
            "rate (Hz)": "unknown" if camera.rate is None else f"{camera.rate:.1f}",
            "age of the newest frame (s)": "none" if camera.age is None else f"{camera.age:.3f}",
        },
    )


def engine_status(node: str, name: str, health: Health, *, chosen: bool) -> DiagnosticStatus:
    """ERROR when no answer can come, WARN while it loads or restarts, or when a better one is out.

    ``chosen``: somebody listed the engines. Where nobody did, one that is not there is nothing to worry about.
    """
    level = {
        State.READY: DiagnosticStatus.OK,
        State.LOADING: DiagnosticStatus.WARN,
        State.RESTARTING: DiagnosticStatus.WARN,
    }.get(health.state, DiagnosticStatus.ERROR)
    if level == DiagnosticStatus.OK and chosen and health.passed_over:
        level = DiagnosticStatus.WARN
    description = health.description
    return _status(
        node,
        "engine",
        level,
        health.message or health.passed_over or health.state.value,
        {
            "engine": name if description is None else description.engine,
            "model": "" if description is None else description.model,
            "state": health.state.value,
            "pid": health.pid,
            "memory (MB)": f"{health.memory / 1e6:.0f}",
            "load time (s)": f"{health.load_time:.2f}",
            "restarts": health.restarts,
        },
    )


def queue_status(
    node: str, waiting: int, capacity: int, running: int, totals: Mapping[str, int], last_error: str
) -> DiagnosticStatus:
    """WARN when the next goal would be refused."""
    full = capacity > 0 and waiting >= capacity
    return _status(
        node,
        "queue",
        DiagnosticStatus.WARN if full else DiagnosticStatus.OK,
        "full: the next goal ends with BUSY" if full else "goals are accepted",
        {"waiting": waiting, "capacity": capacity, "running": running, **totals, "last error": last_error},
    )


def _status(node: str, part: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in {**values, "node": node}.items()]
    name = f"{node.rpartition('/')[2]}: {part}"
    return DiagnosticStatus(name=name, hardware_id="", level=level, message=message, values=pairs)
