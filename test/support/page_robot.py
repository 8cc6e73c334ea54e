"""The robot that the page's tests look through: a camera with depth, and an engine that says what a test wrote."""

from __future__ import annotations

import json
import os
import select
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from sensor_msgs.msg import CameraInfo, Image

import third_party
from ros_client import PATIENCE, SENSOR_DATA, RosClient
from vlm_process import VlmProcess
from web_process import WebProcess

FRAME = Path(__file__).parent / "data" / "gazebo_frames" / "0004.jpg"
"""640 x 480: a green box, an orange ball, a blue ball."""

FOUND = [
    {"bbox_2d": [422, 458, 547, 625], "label": "orange ball"},
    {"bbox_2d": [250, 637, 350, 796], "label": "green box"},
    {"bbox_2d": [652, 475, 737, 585], "label": "blue ball"},
]

FOCAL, DISTANCE = 554.0, 1.5
"""Of the camera: focal length in pixels, and metres from it to everything that it sees."""

STORYTELLER = """
    import json
    from pathlib import Path
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Storyteller:
        '''Says, a hundred words a second, what the file `says` has for a word of the question, and notes what it heard.

        After an answer that ends in "..." it waits until it is cancelled, and writes that down, too.
        '''

        def __init__(self, says, heard, progress):
            self._says, self._heard = Path(says), Path(heard)

        def describe(self):
            return Description("storyteller", "stories of a test", max_images=4, supports=frozenset(ABILITIES))

        def _write(self, what):
            with self._heard.open("w") as heard:
                heard.write(json.dumps(what) + "\\n")

        def generate(self, request, cancel):
            turns = [
                [turn.role, [part if isinstance(part, str) else "<image>" for part in turn.content]]
                for turn in request.messages
            ]
            self._write(turns)
            asked = "".join(turns[-1][1])
            answer = next(answer for word, answer in json.loads(self._says.read_text()).items() if word in asked)
            yield Chunk(Stage.PREFILL)
            words = answer.split(" ")
            for count, word in enumerate(words, 1):
                cancel.wait(0.01)
                yield Chunk(Stage.DECODE, word if count == 1 else " " + word, completion_tokens=count)
            if answer.endswith("...") and cancel.wait():
                self._write("cancelled")
            reason = "cancelled" if cancel.is_set() else "stop"
            yield Chunk(Stage.DECODE, "", "", len(words), reason, Usage(prompt_tokens=9, completion_tokens=len(words)))

        def close(self):
            pass
"""


class Story:
    """What the engine is to say, and what it heard."""

    def __init__(self, folder: Path) -> None:
        self.says, self.pipe = folder / "says", folder / "heard"
        os.mkfifo(self.pipe)
        self._reader = os.open(self.pipe, os.O_RDWR)  # also to write, so that it has no end when the engine closes it
        self._begun = b""
        self._heard: list[Any] = []
        self.tell({"": "nothing"})

    def tell(self, answers: dict[str, str]) -> None:
        """From now on: the answer for the first of these words that is in a question. Forgets what was heard."""
        self._read(0.0)
        self._heard = []
        self.says.write_text(json.dumps(answers))

    @property
    def heard(self) -> list[Any]:
        """The turns [role, [text or "<image>", ...]] of each question; "cancelled" where one was."""
        self._read(0.0)
        return self._heard

    def wait_cancelled(self) -> None:
        """Wait until the engine has heard of a cancel."""
        while "cancelled" not in self.heard:
            assert self._read(PATIENCE), "the question was not cancelled"

    def _read(self, seconds: float) -> bool:
        """Take what the engine has written, waiting so long for it; whether there was anything."""
        while select.select([self._reader], [], [], seconds)[0]:
            *lines, self._begun = (self._begun + os.read(self._reader, 65536)).split(b"\n")
            self._heard += map(json.loads, lines)
            if lines:
                return True
        return False

    def close(self) -> None:
        os.close(self._reader)


class Camera:
    """Ten images a second of a file, and depth that is the same everywhere, on the node's own topics.

    No two images are the same: eight pixels in the last row, at the right, change.
    """

    def __init__(self, ros: RosClient, image: Path) -> None:
        self._ros, self._node = ros, ros.node
        pixels = np.asarray(PIL.Image.open(image).convert("RGB"))
        height, width = pixels.shape[:2]
        depth = np.full((height, width), DISTANCE, np.float32)
        k = [FOCAL, 0.0, width / 2 - 0.5, 0.0, FOCAL, height / 2 - 0.5, 0.0, 0.0, 1.0]
        self._messages = {
            "image": Image(height=height, width=width, encoding="rgb8", step=3 * width, data=pixels.tobytes()),
            "depth": Image(height=height, width=width, encoding="32FC1", step=4 * width, data=depth.tobytes()),
            "camera_info": CameraInfo(width=width, height=height, k=k, distortion_model="plumb_bob", d=[0.0] * 5),
        }
        self._publishers = {
            name: ros.node.create_publisher(type(message), f"/{name}", SENSOR_DATA)
            for name, message in self._messages.items()
        }
        self._count = 0
        self._timer = ros.node.create_timer(0.1, self._publish)

    def _publish(self) -> None:
        stamp = self._node.get_clock().now().to_msg()
        self._count += 1
        self._messages["image"].data[-24:] = array("B", [60 + 7 * self._count % 64] * 24)
        for name, message in self._messages.items():
            message.header.stamp, message.header.frame_id = stamp, "lens"
            self._publishers[name].publish(message)

    def set_period(self, seconds: float) -> None:
        """An image every so many seconds."""
        self._timer.timer_period_ns = int(seconds * 1e9)

    def stop(self) -> None:
        """Nothing comes any more."""
        self._timer.cancel()

    def go_on(self) -> None:
        """After :meth:`stop`."""
        self._timer.reset()

    def close(self) -> None:
        self._ros.on_executor(self._close)

    def _close(self) -> None:
        self._node.destroy_timer(self._timer)
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)


@dataclass
class Robot:
    """The camera, the engine's story, and where the gateway to the node is."""

    url: str
    camera: Camera
    story: Story


@contextmanager
def robot_in(folder: Path, ros: RosClient) -> Iterator[Robot]:
    """Camera, node and gateway, running; their files are in ``folder``."""
    package = third_party.install(folder / "installed", STORYTELLER, {"storyteller": "Storyteller"})
    with pytest.MonkeyPatch.context() as patch, ExitStack() as running:
        story = running.enter_context(closing(Story(folder)))
        files = {"storyteller__says": str(story.says), "storyteller__heard": str(story.pipe)}
        patch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
        camera = running.enter_context(closing(Camera(ros, FRAME)))
        node = running.enter_context(closing(VlmProcess(ros, {"engine": "storyteller", **files})))
        web = running.enter_context(closing(WebProcess(folder / "logs", {}, os.environ)))
        node.wait_ready()
        yield Robot(web.wait_url(), camera, story)
