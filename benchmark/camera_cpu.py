"""CPU of the idle node with a 1080p30 camera against a plain rclpy subscriber of it."""

from __future__ import annotations

import signal
import statistics
import time

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
ROUNDS = 2
SUBSCRIBERS = 3
"""Plain subscribers per round, each a new process: what one costs depends on how its heap happens to lie."""


def camera_cpu(bench: Bench) -> list[Figure]:
    """In turn: the node active and no other subscriber; the node inactive, so without subscription, and plain ones."""
    window, rounds, subscribers = (2.0, 1, 1) if bench.quick else (WINDOW, ROUNDS, SUBSCRIBERS)
    node_shares, plain_shares, node_rates, plain_rates = [], [], [], []
    bench.say("starting camera and node")
    with running([str(HERE / "camera_publisher.py")]), vlm(bench, bench.small, remap={"image": TOPIC}) as node:

        def change(transition: int) -> None:
            request = ChangeState.Request(transition=Transition(id=transition))
            if not bench.graph.call(ChangeState, "/vlm/change_state", request).success:
                raise RuntimeError("the node refused a change of its lifecycle state")

        with Listener(bench.graph, DiagnosticArray, "/diagnostics", 10) as diagnostics:
            for number in range(rounds):
                bench.say(f"round {number + 1} of {rounds}: the node")
                diagnostics.wait_for(lambda message: _rate(message) > 0)  # frames arrive
                node_shares.append(_cores(window, node.pid, node.worker_pid))
                while diagnostics.waiting:
                    node_rates.append(_rate(diagnostics.wait_for()[1]))
                change(Transition.TRANSITION_DEACTIVATE)
                for plain_number in range(subscribers):
                    bench.say(f"round {number + 1} of {rounds}: plain subscriber {plain_number + 1} of {subscribers}")
                    with running([str(HERE / "plain_subscriber.py")]) as plain:
                        read_line(plain)
                        begin = time.monotonic()
                        plain_shares.append(_cores(window / subscribers, plain.pid))
                        plain.send_signal(signal.SIGINT)
                        plain_rates.append(int(read_line(plain)) / (time.monotonic() - begin))
                change(Transition.TRANSITION_ACTIVATE)
    node_share, plain_share = statistics.mean(node_shares), statistics.mean(plain_shares)
    detail = (
        f"{node_share:.3f} / {plain_share:.3f} cores ({min(plain_shares):.2f} to {max(plain_shares):.2f}); "
        f"the node saw {max(node_rates, default=0):.0f} Hz, the subscribers {min(plain_rates):.0f} Hz or more"
    )
    return [Figure("CPU, idle node / plain subscriber, 1080p30", node_share / plain_share, limit=0.15, detail=detail)]


def _cores(seconds: float, *pids: int) -> float:
    """How many cores these processes use together."""
    begin, cpu = time.monotonic(), sum(map(cpu_seconds, pids))
    time.sleep(seconds)
    return (sum(map(cpu_seconds, pids)) - cpu) / (time.monotonic() - begin)


def _rate(diagnostics: DiagnosticArray) -> float:
    """The camera's rate in Hz as the node reports it, 0 where it does not."""
    values = (pair for status in diagnostics.status for pair in status.values if pair.key == "rate (Hz)")
    return next((float(pair.value) for pair in values if pair.value != "unknown"), 0.0)
