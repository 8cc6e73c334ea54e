"""The robot that the page's tests look through: a camera with depth, and an engine that says what a test wrote."""

from __future__ import annotations

import json
import os
import time
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
            with self._heard.open("a") as heard:
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
        self.says, self.heard_file = folder / "says", folder / "heard"
        self.tell({"": "nothing"})

    def tell(self, answers: dict[str, str]) -> None:
        """From now on: the answer for the first of these words that is in a question. Forgets what was heard."""
        self.heard_file.write_text("")
        self.says.write_text(json.dumps(answers))

    @property
    def heard(self) -> list[Any]:
        """The turns [role, [text or "<image>", ...]] of each question; "cancelled" where one was."""
        return [json.loads(line) for line in self.heard_file.read_text().splitlines()]

    def wait_cancelled(self) -> None:
        """Wait until the engine has heard of a cancel."""
        give_up = time.monotonic() + PATIENCE
        while "cancelled" not in self.heard:
            assert time.monotonic() < give_up, "the question was not cancelled"
            time.sleep(0.02)  # a file in another process's hands gives no event


class Camera:
    """Ten pictures a second of a file, and depth that is the same everywhere, on the node's own topics."""

    def __init__(self, ros: RosClient, picture: Path) -> None:
        self._ros, self._node = ros, ros.node
        pixels = np.asarray(PIL.Image.open(picture).convert("RGB"))
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
        self._timer = ros.node.create_timer(0.1, self._publish)

    def _publish(self) -> None:
        stamp = self._node.get_clock().now().to_msg()
        for name, message in self._messages.items():
            message.header.stamp, message.header.frame_id = stamp, "lens"
            self._publishers[name].publish(message)

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
    story = Story(folder)
    files = {"storyteller__says": str(story.says), "storyteller__heard": str(story.heard_file)}
    with pytest.MonkeyPatch.context() as patch, ExitStack() as running:
        patch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
        camera = running.enter_context(closing(Camera(ros, FRAME)))
        node = running.enter_context(closing(VlmProcess(ros, {"engine": "storyteller", **files})))
        web = running.enter_context(closing(WebProcess(folder / "logs", {}, os.environ)))
        node.wait_ready()
        yield Robot(web.wait_url(), camera, story)
