"""The first token of a repeated question about a noisy camera that stands still, against that of the first one."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from bench import Bench
from figures import Figure
from qwen3vl_ros.vision.change import image_change
from ros_graph import RosGraph
from vlm import vlm

WIDTH, HEIGHT, RATE = 640, 480, 5.0
NOISE = 3.0
"""Standard deviation of a pixel, grey levels: that of a small sensor at eight times its base gain."""

TOLERANCE = 5.0


class NoisyCamera:
    """Publishes a scene, each frame with noise of its own."""

    def __init__(self, graph: RosGraph) -> None:
        self._graph = graph
        self._random = np.random.default_rng(0)
        self._noise = self._random.normal(0.0, NOISE, HEIGHT * WIDTH * 3).round().astype(np.int16)
        self._scene = np.zeros((HEIGHT, WIDTH, 3), np.int16)
        self.show(0)
        self._publisher = graph.node.create_publisher(Image, "image", qos_profile_sensor_data)
        self._timer = graph.node.create_timer(1.0 / RATE, self._publish)

    def show(self, number: int) -> None:
        """Show another scene from now on."""
        coarse = np.random.default_rng(number).integers(40, 216, (6, 8, 3), dtype=np.uint8)
        self._scene = np.array(PIL.Image.fromarray(coarse).resize((WIDTH, HEIGHT))).astype(np.int16)

    def frame(self) -> Any:
        """Return a frame, uint8 [height, width, 3]."""
        noise = np.roll(self._noise, int(self._random.integers(self._noise.size)))
        return np.clip(self._scene + noise.reshape(self._scene.shape), 0, 255).astype(np.uint8)

    def _publish(self) -> None:
        message = Image(width=WIDTH, height=HEIGHT, encoding="rgb8", step=WIDTH * 3, data=self.frame().tobytes())
        message.header.stamp = self._graph.node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def close(self) -> None:
        """Publish no more."""

        def close() -> None:
            self._graph.node.destroy_timer(self._timer)
            self._graph.node.destroy_publisher(self._publisher)

        self._graph.on_executor(close)


@contextlib.contextmanager
def noisy_camera(graph: RosGraph) -> Iterator[NoisyCamera]:
    """Run such a camera."""
    camera = graph.on_executor(lambda: NoisyCamera(graph))
    try:
        yield camera
    finally:
        camera.close()


def still_camera(bench: Bench) -> list[Figure]:
    """From sending the goal to the first token's feedback; a new scene for each first question."""
    ratios, firsts, again, changes = [], [], [], []
    bench.say("loading the 2B-shaped model")
    with (
        noisy_camera(bench.graph) as camera,
        vlm(bench, bench.large, parameters={"reuse_tolerance": TOLERANCE, "reuse_max_age": 3600.0}),
    ):

        def ask(**fields: Any) -> tuple[float, Any]:
            goal = bench.graph.ask("What is on the table?", 2, **fields)
            arrived = goal.wait_for_token()
            return arrived - goal.sent, goal.result()[1]

        for number in range(bench.times(3)):
            bench.graph.on_executor(lambda number=number: camera.show(number))
            bench.say(f"scene {number + 1}: first question")
            first, read = ask(not_before=bench.graph.node.get_clock().now().to_msg())
            bench.say(f"scene {number + 1}: the same question again")
            second, result = ask()
            if result.pixel_stamps != read.pixel_stamps or result.image_headers == read.image_headers:
                raise RuntimeError(f"the camera was read anew: it changed by {result.usage.image_change:.1f}")
            firsts.append(first)
            again.append(second)
            ratios.append(second / first)
            changes.append(result.usage.image_change)
        durations = []
        for _ in range(20):
            one, other = camera.frame(), camera.frame()
            begin = time.perf_counter()
            image_change(one, other)
            durations.append(1000.0 * (time.perf_counter() - begin))
    detail = (
        f"{statistics.median(again):.2f} / {statistics.median(firsts):.2f} s, 2B-shaped, 300 image tokens; "
        f"the image changed by {max(changes):.1f} at most"
    )
    return [
        Figure("still camera: first token, again / first", statistics.median(ratios), limit=0.1, detail=detail),
        Figure("comparing two 640x480 images", statistics.median(durations), "ms", 5.0, detail="beside the node"),
    ]
