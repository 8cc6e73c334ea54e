"""Fifty watches of one camera against one: what they cost when the scene changes and all of them have to be asked."""

from __future__ import annotations

import time
from typing import Any

from builtin_interfaces.msg import Duration
from qwen3vl_ros.msg import Watch
from qwen3vl_ros.srv import AddWatch, ListWatches

from bench import Bench
from figures import Figure
from processes import PATIENCE, cpu_seconds
from still_camera import noisy_camera
from vlm import vlm

WATCHES = 50
CHANGE = 15.0
"""Grey levels: more than the camera's noise, less than what differs between two scenes."""


def watches(bench: Bench) -> list[Figure]:
    """The CPU time of the node and its engine for the answers to a new scene: two are asked at the same time."""
    count = max(2, bench.times(WATCHES))
    bench.say("loading the 2B-shaped model")
    with (
        noisy_camera(bench.graph) as camera,
        vlm(bench, bench.large, parameters={"watch_max_period": 3600.0, "watch_change": CHANGE}) as node,
    ):

        def add(number: int) -> None:
            watch = Watch(prompt=f"Is box number {number} open?", watch_id=f"box{number}", min_period=Duration(sec=1))
            watch.options.max_tokens = 2
            response = bench.graph.call(AddWatch, "/vlm/add_watch", AddWatch.Request(watch=watch))
            if not response.success:
                raise RuntimeError(response.message)

        def answered(since: Any) -> list[Any]:
            """Wait for an answer of every watch about a frame after ``since``."""
            deadline = time.monotonic() + 10 * PATIENCE
            while time.monotonic() < deadline:
                states = bench.graph.call(ListWatches, "/vlm/list_watches", ListWatches.Request()).watches
                if any(state.failed for state in states):
                    raise RuntimeError(next(state.error_msg for state in states if state.failed))
                answers = [state.last_answer for state in states]
                if all(_seconds(answer.header.stamp) > _seconds(since) for answer in answers):
                    return answers
                time.sleep(0.5)
            raise RuntimeError("not every watch was asked")

        def cost(scene: int) -> tuple[float, int]:
            """Return the CPU seconds of all answers to a new scene, and the number of frames that they are about."""

            def show() -> Any:
                camera.show(scene)
                return bench.graph.node.get_clock().now().to_msg()

            begin = cpu_seconds(node.pid) + cpu_seconds(node.worker_pid)
            answers = answered(bench.graph.on_executor(show))
            frames = {_seconds(answer.header.stamp) for answer in answers}
            return cpu_seconds(node.pid) + cpu_seconds(node.worker_pid) - begin, len(frames)

        nothing = Duration()
        add(0)
        answered(nothing)
        bench.say("one watch, a new scene")
        one, _ = cost(1)
        for number in range(1, count):
            add(number)
        bench.say(f"{count} watches, the first question of each")
        answered(nothing)
        bench.say(f"{count} watches, a new scene")
        all_of_them, frames = cost(2)
    detail = f"{all_of_them:.1f} / {one:.1f} s of CPU, {frames} frames, 2B-shaped, 300 image tokens"
    return [Figure(f"{count} watches / one, a new scene", all_of_them / one, limit=3.0, detail=detail)]


def _seconds(stamp: Any) -> float:
    return float(stamp.sec + stamp.nanosec * 1e-9)
