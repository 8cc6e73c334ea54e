"""From the start of the node's process until it is ready, the loading of the model excepted."""

from __future__ import annotations

import statistics
import time

from std_msgs.msg import String

from bench import Bench
from figures import Figure
from plain_node import TOPIC
from processes import HERE, running
from ros_graph import Listener
from vlm import vlm


def start_up(bench: Bench) -> list[Figure]:
    """In turn with the plainest node there is; both until a client of the graph knows."""
    repeats = bench.times(5)
    ratios, nodes, plains, loads = [], [], [], []
    for number in range(repeats):
        bench.say(f"start {number + 1} of {repeats}")
        with vlm(bench, bench.small) as node:
            nodes.append(node.start_time - node.load_time)
            loads.append(node.load_time)
        plains.append(_plain(bench))
        ratios.append(nodes[-1] / plains[-1])
    detail = (
        f"{statistics.median(nodes):.2f} / {statistics.median(plains):.2f} s; "
        f"loading the small model {statistics.median(loads):.2f} s more"
    )
    return [Figure("start-up, node / plain rclpy node", statistics.median(ratios), limit=3.0, detail=detail)]


def _plain(bench: Bench) -> float:
    with Listener(bench.graph, String, TOPIC) as said:
        begin = time.monotonic()
        with running([str(HERE / "plain_node.py")]):
            return said.wait_for()[0] - begin
