"""Has a running node switch to another model, over its service SetEngine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rclpy.node import Node

from qwen3vl_ros.client.background_node import BackgroundNode
from qwen3vl_ros.srv import SetEngine

LOADING = 900.0
"""Seconds until a model is loaded at the latest."""


class SwitchFailed(Exception):
    """The node did not switch; the message says why."""


@contextmanager
def _own_node() -> Iterator[Node]:
    background = BackgroundNode(f"model_use_{os.getpid()}")
    background.start()
    try:
        yield background.node
    finally:
        background.stop()


def node_runs(name: str, wait: float) -> bool:
    """Return whether the node ``name`` is found within ``wait`` seconds."""
    with _own_node() as node:
        return bool(node.create_client(SetEngine, f"{name}/set_engine").wait_for_service(wait))


def switch(name: str, engine: str, model: Path, mmproj: Path | None, wait: float) -> str:
    """Have the node ``name``, found within ``wait`` seconds, load and take a model; return what it says then.

    Raises:
        SwitchFailed: The node is not there, or could not; it keeps the old model.
    """
    with _own_node() as node:
        client: Any = node.create_client(SetEngine, f"{name}/set_engine")
        if not client.wait_for_service(wait):
            raise SwitchFailed(
                f"There is no node {name} on this ROS_DOMAIN_ID. The model is downloaded: `qwen3vl-ros model show` has "
                "the commands that start a node with it."
            )
        request = SetEngine.Request(engine=engine, model=str(model), mmproj=str(mmproj or ""))
        done = threading.Event()
        future = client.call_async(request)
        future.add_done_callback(lambda _: done.set())
        if not done.wait(LOADING):
            raise SwitchFailed(f"{name} did not answer within {LOADING:.0f} s; its log says what it does.")
        response = future.result()
    if not response.success:
        raise SwitchFailed(f"{name} did not switch: {response.message}")
    return str(response.message)
