"""CPU of the idle node with a 1080p30 camera against a plain rclpy subscriber of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from bench import Bench
from camera_publisher import TOPIC
from figures import Figure
from processes import HERE, cpu_seconds, read_line, running
from ros_graph import Listener
from vlm import vlm

WINDOW = 8.0
WINDOWS = 2


def camera_cpu(bench: Bench) -> list[Figure]:
    """In turn: the node active and no other subscriber; the node inactive, so without subscription, and a plain one."""
    window, windows = (2.0, 1) if bench.quick else (WINDOW, WINDOWS)
    node_cpu = plain_cpu = 0.0
    received = 0
    rates = []
    bench.say("starting camera and node")
    with running([str(HERE / "camera_publisher.py")]), vlm(bench, bench.small, remap={"image": TOPIC}) as node:

        def change(transition: int) -> None:
            request = ChangeState.Request(transition=Transition(id=transition))
            if not bench.graph.call(ChangeState, "/vlm/change_state", request).success:
                raise RuntimeError("the node refused a change of its lifecycle state")

        with Listener(bench.graph, DiagnosticArray, "/diagnostics", 10) as diagnostics:
            for number in range(windows):
                bench.say(f"window {2 * number + 1} of {2 * windows}: the node")
                diagnostics.wait_for(lambda message: _rate(message) > 0)  # frames arrive
                node_cpu += _cpu_in(window, lambda: cpu_seconds(node.pid) + cpu_seconds(node.worker_pid))
                while diagnostics.waiting:
                    rates.append(_rate(diagnostics.wait_for()[1]))
                change(Transition.TRANSITION_DEACTIVATE)
                bench.say(f"window {2 * number + 2} of {2 * windows}: a plain subscriber")
                with running([str(HERE / "plain_subscriber.py")]) as plain:
                    read_line(plain)
                    begin, pid = time.monotonic(), plain.pid
                    plain_cpu += _cpu_in(window, lambda pid=pid: cpu_seconds(pid))
                    plain.send_signal(2)
                    received += int(read_line(plain))
                    seconds = time.monotonic() - begin
                change(Transition.TRANSITION_ACTIVATE)
    total = window * windows
    detail = (
        f"{node_cpu / total:.3f} / {plain_cpu / total:.3f} cores; the node saw {max(rates, default=0):.0f} Hz, "
        f"the subscriber {received / windows / seconds:.0f} Hz"
    )
    return [Figure("CPU, idle node / plain subscriber, 1080p30", node_cpu / plain_cpu, limit=0.15, detail=detail)]


def _cpu_in(seconds: float, cpu: Callable[[], float]) -> float:
    begin = cpu()
    time.sleep(seconds)
    return cpu() - begin


def _rate(diagnostics: DiagnosticArray) -> float:
    """The camera's rate in Hz as the node reports it, 0 where it does not."""
    values = (pair for status in diagnostics.status for pair in status.values if pair.key == "rate (Hz)")
    return next((float(pair.value) for pair in values if pair.value != "unknown"), 0.0)
