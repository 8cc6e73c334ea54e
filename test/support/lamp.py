"""A robot for watches: an engine that a lamp in the image makes say yes, and a camera that looks at the lamp."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from qwen3vl_ros.msg import Watch, WatchState
from qwen3vl_ros.srv import AddWatch, ListWatches, RemoveWatch
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from ros_client import PATIENCE, SENSOR_DATA, RosClient
from vlm_process import VlmProcess

WIDTH, HEIGHT = 160, 120
ENGINES = ("lamp", "second")

LAMP = """
    import json
    from pathlib import Path
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Lamp:
        '''Says yes, with the probability 0.9, where the image is bright, and writes down what it was asked.'''

        def __init__(self, heard, progress, tells=True, slots=1):
            self._heard, self._tells, self._slots = Path(heard), tells, slots

        def describe(self):
            able = {"max_tokens", "temperature"} | ({"probabilities"} if self._tells else set())
            return Description("lamp", "none", image_input=ImageInput(multiple=1, max_tokens=10**6), max_images=4,
                               concurrency=self._slots, supports=frozenset(able))

        def generate(self, request, cancel):
            parts = request.messages[-1].content
            image = next((part for part in parts if not isinstance(part, str)), None)
            bright = image is not None and image.mean() > 140
            prompt = parts[-1]
            with self._heard.open("a") as heard:
                heard.write(json.dumps([prompt, None if image is None else list(image.shape), hash(image.tobytes())
                                        if image is not None else 0]) + "\\n")
            yield Chunk(Stage.PREFILL)
            if "wait" in prompt:
                cancel.wait()
                yield Chunk(Stage.DECODE, "", "", 0, "cancelled", Usage())
                return
            text = "Yes" if bright else "No"
            if "count" in prompt or "How many" in prompt:
                text = '{"count": %d}' % (3 if bright else 1)
            elif "Where" in prompt or "Locate" in prompt:
                text = '[{"bbox_2d": [0, 0, 500, 1000], "label": "lamp"}]' if bright else "[]"
            told = (0.9, 0.1) if bright else (0.1, 0.9)
            yield Chunk(Stage.DECODE, text, completion_tokens=1)
            yield Chunk(Stage.DECODE, "", "", 1, "stop", Usage(prompt_tokens=5, completion_tokens=1),
                        told if request.choices else None)

        def close(self):
            pass
"""
"""An engine that a lamp in the image makes say yes."""


class Room:
    """A camera that looks at a lamp in the left half of its image, ten times a second; a little noise."""

    period = 0.1

    def __init__(self, ros: RosClient, topic: str = "/image") -> None:
        self._ros = ros
        self._random = np.random.default_rng(0)
        self._publisher = ros.node.create_publisher(Image, topic, SENSOR_DATA)
        self.light = False
        self._timer = ros.node.create_timer(self.period, self._publish)

    def now(self) -> Time:
        return self._ros.node.get_clock().now().to_msg()

    def _publish(self) -> None:
        pixels = np.full((HEIGHT, WIDTH, 3), 60.0)
        if self.light:
            pixels[:, : WIDTH // 2] = 250.0
        pixels += self._random.normal(0.0, 2.0, pixels.shape)
        image = Image(height=HEIGHT, width=WIDTH, encoding="rgb8", step=3 * WIDTH)
        image.data = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8).tobytes()
        image.header.stamp, image.header.frame_id = self.now(), "lens"
        self._publisher.publish(image)

    def switch(self, light: bool) -> Any:
        """Switch the lamp; every frame of a later stamp than what this returns shows it."""

        def switch() -> Any:
            self.light = light
            return self.now()

        return self._ros.on_executor(switch)

    def close(self) -> None:
        def close() -> None:
            self._ros.node.destroy_timer(self._timer)
            self._ros.node.destroy_publisher(self._publisher)

        self._ros.on_executor(close)


class FastRoom(Room):
    """A room whose clock, which it publishes, goes on by twenty seconds with each frame; fifty frames a second.

    ``seconds``: what the clock shows.
    """

    period = 0.02

    def __init__(self, ros: RosClient) -> None:
        self.seconds = 1000
        self._passed = threading.Condition()
        self._clock = ros.node.create_publisher(Clock, "/clock", 10)
        super().__init__(ros)

    def now(self) -> Time:
        return Time(sec=self.seconds)

    def _publish(self) -> None:
        with self._passed:
            self.seconds += 20
            self._passed.notify_all()
        self._clock.publish(Clock(clock=self.now()))
        super()._publish()

    def wait_until(self, seconds: int) -> None:
        """Wait until the clock shows this."""
        with self._passed:
            assert self._passed.wait_for(lambda: self.seconds >= seconds, PATIENCE)

    def close(self) -> None:
        super().close()
        self._ros.on_executor(lambda: self._ros.node.destroy_publisher(self._clock))


class Lamp:
    """A node with that engine, a room, and the events of its watches."""

    def __init__(self, ros: RosClient, folder: Path, start: Callable[..., VlmProcess]) -> None:
        self.ros, self._folder, self._start = ros, folder, start

    def start(self, **parameters: Any) -> VlmProcess:
        lamp = {"engine": "lamp", **{f"{name}__heard": str(self._folder / name) for name in ENGINES}}
        return self._start(**(lamp | parameters)).wait_connected()

    def heard(self, engine: str = "lamp") -> list[Any]:
        """What the engine was asked: prompt, shape of the image, hash of its pixels."""
        file = self._folder / engine
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def add(self, prompt: str = "", *, period: float = 0.05, **fields: Any) -> str:
        response = self.try_to_add(prompt, period=period, **fields)
        assert response.success, response.message
        return str(response.watch_id)

    def try_to_add(self, prompt: str = "", *, period: float = 0.05, **fields: Any) -> AddWatch.Response:
        return self.ros.call(AddWatch, "/vlm/add_watch", _addition(prompt, period, **fields))

    def add_together(self, names: Sequence[str]) -> None:
        """Add a watch of each name, without waiting for one before the next."""
        requests = [_addition(f"Is it {name}?", 0.05, watch_id=name) for name in names]
        for response in self.ros.call_together(AddWatch, "/vlm/add_watch", requests):
            assert response.success, response.message

    def remove_together(self, names: Sequence[str]) -> None:
        """Remove each, without waiting for one before the next."""
        requests = [RemoveWatch.Request(watch_id=name) for name in names]
        for response in self.ros.call_together(RemoveWatch, "/vlm/remove_watch", requests):
            assert response.success, response.message

    def states(self) -> list[WatchState]:
        return list(self.ros.call(ListWatches, "/vlm/list_watches", ListWatches.Request()).watches)

    def wait_for(self, wanted: Callable[[WatchState], bool]) -> WatchState:
        """The state of the only watch, asked for until it is as wanted."""
        for _ in range(2000):
            (state,) = self.states()
            if wanted(state):
                return state
            threading.Event().wait(0.02)
        raise AssertionError(f"it never was: {state}")

    def remove(self, watch_id: str = "") -> RemoveWatch.Response:
        return self.ros.call(RemoveWatch, "/vlm/remove_watch", RemoveWatch.Request(watch_id=watch_id))


def _addition(prompt: str, period: float, **fields: Any) -> AddWatch.Request:
    watch = Watch(prompt=prompt, **fields)
    watch.min_period.nanosec = int(period * 1e9)
    return AddWatch.Request(watch=watch)
