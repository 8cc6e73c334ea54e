"""Says where the cameras of a question were: in the goal's target frame, and a depth camera beside the image's."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.vision.frames import Mount, TargetFrame
from qwen3vl_ros.vision.poses import Pose
from qwen3vl_ros.vlm.transforms import PATIENCE, NoTf, NoTransform, Transforms

if TYPE_CHECKING:
    from qwen3vl_ros.vlm.images import InputImage, InputImages


@dataclass(frozen=True, slots=True)
class Look:
    """Where and how long transforms are looked up for one question; ``give_up``: time.monotonic() seconds."""

    transforms: Transforms
    give_up: float
    cancel: Cancel

    def up(self, target: str, source: str, stamp: Time) -> Pose:
        """Return ``target`` from ``source``; raises :class:`NoTransform`."""
        return self.transforms.lookup(target, source, stamp, self.give_up, self.cancel)


def settle_frames(inputs: InputImages, target: str, transforms: Transforms, cancel: Cancel) -> None:
    """Note the target frame of each image's positions, and how its depth lies beside it; once.

    Soon after the images: tf2 remembers ten seconds, and an answer may take longer. All together wait for tf up to
    :data:`~qwen3vl_ros.vlm.transforms.PATIENCE`.

    Args:
        inputs: The images, which have their depth.
        target: The frame that positions are wanted in; "" = the camera's optical frame.
        transforms: What tf knows.
        cancel: Set when the goal ends, which ends the wait for a transform.
    """
    look = Look(transforms, time.monotonic() + PATIENCE, cancel)
    for image in inputs.own:
        if image.frame is None and inputs.clip_times:
            continue  # an earlier frame of a clip, which has no depth
        if target and image.target is None and target != _name(image.header):
            image.target = _target_frame(image, target, look)
        if image.depth.image is not None and image.depth.colour_from_depth is None:
            _register(image, image.depth.image.header, look)


def _target_frame(image: InputImage, target: str, look: Look) -> TargetFrame:
    mount = None if image.camera is None else image.camera.mount
    try:
        pose = _pose(image.header, mount, target, look)
    except NoTf as error:
        return TargetFrame(target, missing=f"{error}: {_without_tf(image, mount)}")
    except NoTransform as error:
        return TargetFrame(target, missing=str(error))
    return TargetFrame(target, pose)


def _without_tf(image: InputImage, mount: Mount | None) -> str:
    """Return what to do without tf, as the rest of a sentence."""
    if mount is not None:
        return f"ask for the frame {mount.frame!r}, in which the camera's place is known from its parameters"
    if image.camera is None:
        return "install it (ROS 2's package tf2_py)"
    name = image.camera.name
    own = f"camera.{name}.mount" if name else "mount"
    return f"install it (ROS 2's package tf2_py), or give the camera's place as the parameter {own}"


def _pose(header: Header, mount: Mount | None, target: str, look: Look) -> Pose:
    """Return ``target`` from the optical frame of an image: by the camera's mount where it is given, else by tf."""
    if mount is None:
        return look.up(target, _name(header), header.stamp)
    return look.up(target, mount.frame, header.stamp) @ mount.pose


def _register(image: InputImage, depth_header: Header, look: Look) -> None:
    """Note where the depth camera was, seen from the image's, if they are two."""
    assert image.camera is not None  # whose depth it is
    camera, depth = image.camera, image.depth
    colour_frame, depth_frame = _name(image.header), _name(depth_header)
    if depth.registered or (colour_frame == depth_frame and camera.depth_mount is None):
        return
    if camera.depth_mount is not None and camera.mount is not None:
        pose = np.linalg.inv(camera.mount.pose) @ camera.depth_mount.pose
    else:
        try:
            pose = look.up(colour_frame, depth_frame, image.header.stamp)
        except NoTransform as error:
            missing = (
                f"the depth image is in frame {depth_header.frame_id!r}, the colour image in "
                f"{image.header.frame_id!r}, and {error}. Or register depth to colour, as most drivers can, set "
                "depth_registered if it is, or give the parameters mount and depth_mount"
            )
            image.depth = replace(depth, image=None, missing=missing)
            return
    image.depth = replace(depth, colour_from_depth=pose)


def _name(header: Header) -> str:
    """Return the frame's name as tf2 knows it: without the slash that ROS 1 began it with."""
    name: str = header.frame_id.lstrip("/")
    return name
