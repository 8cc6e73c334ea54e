"""Looks transforms up in tf, at the stamp of an image.

tf2's own buffer (tf2_py, which tf2_ros is built on) does the arithmetic. What is on /tf stays in the middleware's queue
until somebody asks, as the frames of a camera do: tf2_ros's TransformListener would have an executor call Python for
every message, hundreds a second on a robot, whether or not there is a question; and a look-up that waits must not hold
that executor up.
"""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any, Final

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.clock import JumpThreshold
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.time import Time as RclpyTime

from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.ros.polling_subscription import Closed, PollingSubscription
from qwen3vl_ros.vision.poses import Pose, from_xyz_quaternion

PATIENCE: Final = 0.5
"""Seconds that a transform may come later than it is asked for."""

KEPT: Final = 500
"""Messages of /tf that wait in the middleware: five seconds of a hundred a second. More would be known for longer, and
cost the question that takes them more: 1.3 ms each, of twenty transforms."""

_WAIT: Final = 0.05
"""Seconds between two looks at /tf_static and at whether the question has ended, while /tf is waited for."""

_OTHER_CLOCK: Final = 60.0
"""Seconds between an image and the newest transform above which their clocks are taken to be different ones."""

_AHEAD: Final = 2.0
"""Seconds ahead of the node's clock above which a stamp is not of this run: localization stamps map -> odom up to a
second ahead, to bridge the time to its next one."""

_SHOWN: Final = 12
"""Most names of frames in a sentence."""

_BACK = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1))


class NoTransform(Exception):
    """A transform is not known; the text is a sentence that says why, and what to do."""


class NoTf(NoTransform):
    """tf cannot be read here at all."""


class Transforms:
    """What tf knows. Usable from any thread.

    Args:
        node: Subscribes.
        listen: Whether to subscribe now and not with the first :meth:`lookup`: only what comes from then on is known of
            frames that move.
    """

    def __init__(self, node: Node, *, listen: bool = False) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._tf: _Tf | None = None
        self._closed = False
        if listen:
            self._listen()

    def _listen(self) -> None:
        with self._lock:
            if self._tf is None and not self._closed:
                self._tf = _Tf.create(self._node)

    def lookup(self, target: str, source: str, stamp: Time, give_up: float, cancel: Cancel) -> Pose:
        """Return ``target`` from ``source``, the pose of the frame ``source`` in ``target``, at ``stamp``.

        Waits for it until ``give_up`` (time.monotonic() seconds), or until ``cancel`` is set.

        Raises:
            NoTransform: It is not known.
        """
        if target == source:
            return np.eye(4)
        if not source:
            raise NoTransform("the image has no frame_id, by which tf knows cameras: have the driver set it")
        if stamp.sec < 0 or not (stamp.sec or stamp.nanosec):  # 0 stands for the newest that there is, in tf2
            raise NoTransform("the image has no stamp, at which to look up the camera: have the driver set it")
        self._listen()
        while True:
            with self._lock:  # for a few milliseconds at a time: others look up, too
                if self._tf is None:
                    if self._closed:
                        raise NoTransform("the node was deactivated meanwhile")
                    raise NoTf("tf2_py is not installed here, without which tf cannot be read")
                try:
                    pose, problem, may_come = self._tf.look(target, source, stamp)
                    if pose is not None:
                        return pose
                    if not may_come or cancel.is_set() or time.monotonic() >= give_up:
                        raise NoTransform(problem)
                    self._tf.wait(_WAIT)
                except Closed:
                    raise NoTransform("the node was deactivated meanwhile") from None

    def close(self) -> None:
        """Drop the subscriptions."""
        with self._lock:
            self._closed = True
            if self._tf is not None:
                self._tf.close()
                self._tf = None


class _Tf:
    """The two topics of tf, and tf2's buffer."""

    def __init__(self, node: Node, tf2_py: Any, message_type: type) -> None:
        self._tf2 = tf2_py
        self._buffer = tf2_py.BufferCore()
        self._names: set[str] = set()
        self._began = node.get_clock().now().nanoseconds
        self._static = PollingSubscription(
            node, message_type, "/tf_static", QoSProfile(depth=KEPT, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        )
        self._moving = PollingSubscription(node, message_type, "/tf", QoSProfile(depth=KEPT))
        self._clock = node.get_clock()
        self._went_back = self._cleared = 0  # time.time_ns() when simulated time did last, and for which it was cleared
        self._jump = self._clock.create_jump_callback(_BACK, post_callback=self._note_jump)

    @classmethod
    def create(cls, node: Node) -> _Tf | None:
        """Subscribe; None where tf2 is not installed."""
        try:
            tf2_py, tf2_msgs = importlib.import_module("tf2_py"), importlib.import_module("tf2_msgs.msg")
        except ImportError:
            return None
        return cls(node, tf2_py, tf2_msgs.TFMessage)

    def look(self, target: str, source: str, stamp: Time) -> tuple[Pose | None, str, bool]:
        """Return the transform, or None with a sentence that says why not, and whether waiting may help."""
        self._take()
        when = RclpyTime.from_msg(stamp)
        try:
            found = self._buffer.lookup_transform_core(target, source, when).transform
        except self._tf2.LookupException:
            return None, self._unknown(target, source), True
        except self._tf2.ConnectivityException:
            return (
                None,
                f"tf knows {source!r} and {target!r}, and nothing connects them: is a publisher down?",
                True,
            )
        except self._tf2.ExtrapolationException:
            newest = self._buffer.get_latest_common_time(target, source).nanoseconds
            sentence = self._out_of_time(target, source, when.nanoseconds, newest)
            return None, sentence, newest < when.nanoseconds
        except self._tf2.TransformException as error:
            return None, f"tf does not take the frames {source!r} and {target!r}: {error}", False
        turn, place = found.rotation, found.translation
        return from_xyz_quaternion((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w)), "", False

    def wait(self, timeout: float) -> None:
        """Wait for a message on /tf."""
        self._moving.wait(timeout)

    def close(self) -> None:
        """Drop the subscriptions."""
        self._jump.unregister()
        self._static.close()
        self._moving.close()

    def _take(self) -> None:
        """Put what came since the last time into the buffer."""
        moving = _all_of(self._moving)
        went_back = self._went_back
        # Nothing may be interpolated between what was before and what is after a gap, of messages that no longer fitted
        # in the queue, or of simulated time that went back. What is static stays.
        if len(moving) == KEPT or went_back != self._cleared:
            self._buffer.clear()
        if went_back != self._cleared:
            self._cleared = went_back
            moving = moving[self._first_after(went_back, moving) :]
        for samples, put in (
            (_all_of(self._static), self._buffer.set_transform_static),
            (moving, self._buffer.set_transform),
        ):
            for transform in (transform for message, _ in samples for transform in message.transforms):
                put(transform, "tf")
                self._names |= {transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/")}

    def _note_jump(self, _: Any) -> None:
        self._went_back = time.time_ns()

    def _first_after(self, went_back: int, moving: list[tuple[Any, Any]]) -> int:
        """Return the index of the first of ``moving`` after the last one from before simulated time went back.

        From before is what came before the node heard of it (time.time_ns() ``went_back``), and what is stamped in the
        future: /tf and /clock overtake each other.
        """
        ahead = self._clock.now().nanoseconds / 1e9 + _AHEAD
        return max(
            (
                index
                for index, (message, info) in enumerate(moving, 1)
                if 0 < info["received_timestamp"] < went_back
                or any(one.header.stamp.sec > ahead for one in message.transforms)
            ),
            default=0,
        )

    def _unknown(self, target: str, source: str) -> str:
        known = sorted(self._names)
        if not known:
            return "tf is empty: nobody publishes on /tf or /tf_static, or nothing has come yet"
        missing = " and ".join(repr(name) for name in dict.fromkeys((target, source)) if name not in known)
        shown = ", ".join(known[:_SHOWN]) + (f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else "")
        return f"tf does not know {missing}, only {shown}: check the name, and who publishes it"

    def _out_of_time(self, target: str, source: str, stamp: int, newest: int) -> str:
        """Return why there is no transform at ``stamp`` between two frames that tf connects; nanoseconds."""
        sentence = f"tf does not say where {source!r} was in {target!r} at the image's stamp, {stamp / 1e9:.3f} s"
        apart = (stamp - newest) / 1e9
        if abs(apart) > _OTHER_CLOCK:
            return (
                f"{sentence}, which is {abs(apart):.0f} s {'after' if apart > 0 else 'before'} its newest transform: "
                "do camera and tf take their time from the same clock (use_sim_time)?"
            )
        if apart > 0:
            return f"{sentence}: its newest transform is {apart:.3f} s older"
        if stamp < self._began + int(PATIENCE * 1e9):
            return (
                f"{sentence}: the node did not listen to tf yet. Ask again; with the parameter target_frame, it "
                "listens from the start"
            )
        return f"{sentence}: that is longer ago than tf2 remembers (10 s), or than the last {KEPT} messages on /tf"


def _all_of(source: PollingSubscription) -> list[tuple[Any, Any]]:
    """Take the messages that wait, the oldest first; no more than are kept, as they may come as fast as they go.

    Returns:
        Each with rclpy's MessageInfo about it.
    """
    samples: list[tuple[Any, Any]] = []
    while len(samples) < KEPT and (sample := source.take()) is not None:
        samples.append(sample)
    return samples
