"""A behaviour tree for py_trees: find an object, turn the camera until it is seen, confirm, report its position.

    pip install 'py_trees>=2.2,<3'
    qwen3vl-ros demo --keep                       # in one terminal: a simulated camera and the node
    python examples/behaviour_tree.py "red box"   # in another one

The tree:

    Find it (sequence)
      Once for each direction (retry)
        Look (sequence)
          Turn        the camera, to the next direction
          See it?     Locate: is it there, in an image that was taken after the turn?
          Face it     turns until it is in the middle of the image
          Where?      Locate: its position, from there
          Is it so?   Check: 2 of 3 answers have to say yes
      Report          the position that "Where?" left on the blackboard

A tick never waits: a leaf sends its question or its request and looks at every tick whether there is an answer. On a
robot with tf, ``Locate(..., frame="map")`` gives the position in the map; here the camera's place is known from the
world file and its angles.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import py_trees
import rclpy
from py_trees.common import Access, Status
from qwen3vl_ros.srv import PointCamera
from rclpy.executors import ExternalShutdownException
from rclpy.task import Future

from qwen3vl_ros.behaviours import Check, Locate
from qwen3vl_ros.client import Found
from qwen3vl_ros.sim.pan_tilt import turned
from qwen3vl_ros.sim.sdf import read_world
from qwen3vl_ros.sim.simulated_camera import default_world

DIRECTIONS = (1.2, 0.6, 0.0, -0.6, -1.2)
"""Angles to look in, one after the other: radians, positive to the left. The camera sees 1.05 rad at a time."""

ASK_AGAIN = 2.0
"""Seconds without a reply after which a turn is asked for again: it is the same turn, so that twice does no harm."""


class Turn(py_trees.behaviour.Behaviour):
    """Turns the camera to the angle that ``choose`` returns at each start; it is at ``pan`` on the blackboard."""

    def __init__(self, name: str, choose: Callable[[], float]) -> None:
        super().__init__(name)
        self._choose = choose
        self._board = self.attach_blackboard_client()
        self._board.register_key("pan", Access.WRITE)
        self._reply: Future[PointCamera.Response] | None = None

    def setup(self, **kwargs: Any) -> None:
        """Make the client of the service; ``node``: the tree's."""
        self._node = kwargs["node"]
        self._service = self._node.create_client(PointCamera, "/camera/point_camera")

    def initialise(self) -> None:
        """Choose the angle."""
        self._pan = self._choose()
        self._reply = None

    def update(self) -> Status:
        """Return RUNNING until the camera has turned."""
        now = self._node.get_clock().now().nanoseconds
        if self._reply is None or (not self._reply.done() and now - self._sent > ASK_AGAIN * 1e9):
            self.feedback_message = "waiting for the service /camera/point_camera"
            if self._service.service_is_ready():
                self._sent = now
                self._reply = self._service.call_async(PointCamera.Request(pan=self._pan))
            return Status.RUNNING
        if not self._reply.done():
            return Status.RUNNING
        response = self._reply.result()
        self.feedback_message = response.message or f"looks {math.degrees(self._pan):.0f} degrees to the left"
        self._board.pan = self._pan
        return Status.SUCCESS if response.success else Status.FAILURE


class Report(py_trees.behaviour.Behaviour):
    """Prints where the object is: in the camera's frame, and in the world."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._board = self.attach_blackboard_client()
        for key in ("found", "pan"):
            self._board.register_key(key, Access.READ)

    def update(self) -> Status:
        """Return SUCCESS: there is a position, or the tree would not be here."""
        found: Found = self._board.found
        place = found.position
        world_from_optical = turned(
            read_world(default_world()).colour_camera().world_from_optical, self._board.pan, 0.0
        )
        x, y, z, _ = world_from_optical @ np.array([place.x, place.y, place.z, 1.0])
        print(f"{found.name}: {place.x:.3f} {place.y:.3f} {place.z:.3f} in {place.frame_id}")
        print(f"{found.name}: {x:.3f} {y:.3f} {z:.3f} in world", flush=True)
        return Status.SUCCESS


def make_tree(thing: str, directions: Sequence[float] = DIRECTIONS) -> py_trees.trees.BehaviourTree:
    """Return the tree that looks for ``thing`` in the directions, radians."""
    board = py_trees.blackboard.Client(name="facing")
    for key in ("seen", "pan"):
        board.register_key(key, Access.READ)
    ahead = iter(directions)

    def towards_it() -> float:
        return float(board.pan - math.atan2(board.seen.position.x, board.seen.position.z))

    look = py_trees.composites.Sequence("Look", memory=True)
    look.add_children(
        [
            Turn("Turn", lambda: next(ahead)),
            Locate("See it?", thing, key="seen", score_threshold=0.5, new_frame=True, temperature=0.0),
            Turn("Face it", towards_it),
            Locate("Where?", thing, key="found", score_threshold=0.7, new_frame=True, temperature=0.0),
            Check("Is it so?", f"Is there a {thing}?", needed=2, of=3, temperature=0.0),
        ]
    )
    root = py_trees.composites.Sequence("Find it", memory=True)
    root.add_children([py_trees.decorators.Retry("Once for each direction", look, len(directions)), Report("Report")])
    return py_trees.trees.BehaviourTree(root)


def main() -> int:
    """Tick ten times a second until the tree has ended; return 0 where it was found."""
    thing = sys.argv[1] if len(sys.argv) > 1 else "red box"
    rclpy.init()
    node = rclpy.create_node("finder")
    tree = make_tree(thing)
    tree.setup(node=node)
    ended: Future[Status] = Future()
    messages: dict[str, str] = {}

    def tick() -> None:
        tree.tick()
        for leaf in tree.root.iterate():
            if leaf.status in (Status.SUCCESS, Status.FAILURE) and leaf.feedback_message != messages.get(leaf.name, ""):
                messages[leaf.name] = leaf.feedback_message
                print(f"{leaf.name}: {leaf.status.name.lower()}, {leaf.feedback_message}", flush=True)
        if tree.root.status is not Status.RUNNING and not ended.done():
            ended.set_result(tree.root.status)

    node.create_timer(0.1, tick)
    try:
        rclpy.spin_until_future_complete(node, ended)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        tree.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0 if ended.done() and ended.result() is Status.SUCCESS else 1


if __name__ == "__main__":
    sys.exit(main())
