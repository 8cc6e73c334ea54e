"""Resident memory of the node and of its worker, the model excepted, after an answer about an image."""

from __future__ import annotations

from pathlib import Path

from std_msgs.msg import String

from bench import Bench
from figures import Figure
from plain_node import TOPIC
from processes import HERE, resident_bytes, running
from qwen3vl_ros.engines.llama.files import find_model
from ros_graph import Listener, noise_image
from vlm import vlm


def memory(bench: Bench) -> list[Figure]:
    """The node against the plainest node there is; the worker against its model's files."""
    with Listener(bench.graph, String, TOPIC) as said, running([str(HERE / "plain_node.py")]) as plain:
        said.wait_for()
        plain_bytes = resident_bytes(plain.pid)
    bench.say("loading the 2B-shaped model")
    with vlm(bench, bench.large) as node:
        bench.say("asking it about an image")
        bench.graph.ask("What is on the table?", 2, images=[noise_image(0)]).result()
        node_bytes = resident_bytes(node.pid)
        worker_bytes = resident_bytes(node.worker_pid)
    files = sum(file.stat().st_size for file in find_model(str(bench.large)) if isinstance(file, Path))
    return [
        Figure(
            "memory, node / plain rclpy node", node_bytes / plain_bytes, limit=3.0, detail=_mb(node_bytes, plain_bytes)
        ),
        Figure("memory, worker / its model's files", worker_bytes / files, limit=2.4, detail=_mb(worker_bytes, files)),
    ]


def _mb(one: int, other: int) -> str:
    return f"{one / 1e6:.0f} / {other / 1e6:.0f} MB"
