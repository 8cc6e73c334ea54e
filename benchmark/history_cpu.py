"""CPU of the idle node while it keeps the history of a 1080p30 camera."""

from __future__ import annotations

import statistics
import time

from qwen3vl_ros.msg import VlmStatus

from bench import Bench
from camera_publisher import TOPIC
from figures import Figure
from processes import HERE, cpu_seconds, running
from ros_graph import Listener
from vlm import vlm

RATE, SECONDS = 2.0, 60.0


def history_cpu(bench: Bench) -> list[Figure]:
    """Nobody asks; the ring has all its frames before the CPU time of node and worker is measured."""
    window, windows, seconds = (2.0, 1, 5.0) if bench.quick else (8.0, 3, SECONDS)
    parameters = {"history.always": "true", "history.rate": RATE, "history.seconds": seconds}
    bench.say(f"filling a history of {seconds:g} s")
    with (
        running([str(HERE / "camera_publisher.py")]),
        vlm(bench, bench.small, remap={"image": TOPIC}, parameters=parameters) as node,
        Listener(bench.graph, VlmStatus, "/vlm/status") as status,
    ):
        _, full = status.wait_for(
            lambda message: message.histories and _seconds(message.histories[0]) > seconds - 2 / RATE
        )
        history = full.histories[0]
        shares = []
        for number in range(windows):
            bench.say(f"window {number + 1} of {windows}")
            begin, cpu = time.monotonic(), cpu_seconds(node.pid) + cpu_seconds(node.worker_pid)
            time.sleep(window)
            used = cpu_seconds(node.pid) + cpu_seconds(node.worker_pid) - cpu
            shares.append(used / (time.monotonic() - begin))
    detail = f"{history.frames} frames, {history.bytes / 1e6:.1f} MB; {min(shares):.3f} to {max(shares):.3f}"
    name = f"CPU, idle node with {seconds:g} s of a 1080p30 camera at {RATE:g} Hz"
    return [Figure(name, statistics.mean(shares), "cores", limit=0.1, detail=detail)]


def _seconds(history: object) -> float:
    oldest, newest = history.oldest, history.newest  # type: ignore[attr-defined]
    return float(newest.sec - oldest.sec + (newest.nanosec - oldest.nanosec) / 1e9)
