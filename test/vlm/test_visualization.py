"""Markers and 3-D detections are in the frame of the positions, 2-D detections in that of the image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header
from visualization_msgs.msg import Marker

from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.visualization import Detections, markers

HEADER = Header(frame_id="lens", stamp=Time(sec=7))
IN_LENS = Region("cup", box=(1.0, 2.0, 31.0, 22.0), position=(0.1, 0.2, 1.0), extent=(0.1, 0.2, 0.3))
IN_BASE = Region(
    "box", box=(1.0, 2.0, 3.0, 4.0), position=(1.0, 0.5, 0.2), extent=(0.3, 0.1, 0.2), frame_id="base_link"
)


def test_a_marker_is_in_the_frame_of_its_position_with_its_name_above_it() -> None:
    cup, cup_name, box, box_name = markers([IN_LENS, IN_BASE], [HEADER]).markers[1:]
    assert [marker.header.frame_id for marker in (cup, cup_name, box, box_name)] == ["lens"] * 2 + ["base_link"] * 2
    assert {marker.header.stamp.sec for marker in (cup, box)} == {7}
    assert (box.type, box.pose.position.x, box.scale.z) == (Marker.CUBE, 1.0, 0.2)
    assert box_name.pose.position.z > 0.3 and box_name.pose.position.y == 0.5, "z is up there"
    assert cup_name.pose.position.y < 0.1 and cup_name.pose.position.z == 1.0, "and y down in an optical frame"


class Fields(SimpleNamespace):
    """In place of a message of vision_msgs, which is not among the ROS wheels: a field is there when it is used."""

    def __getattr__(self, name: str) -> Any:
        setattr(self, name, [] if name in ("detections", "results") else Fields())
        return getattr(self, name)


@pytest.mark.parametrize(("region", "frame"), [(IN_LENS, "lens"), (IN_BASE, "base_link")])
def test_a_detection_in_space_is_in_the_frame_of_its_position(region: Region, frame: str) -> None:
    names = ("Detection2DArray", "Detection3DArray", "Detection2D", "Detection3D", "ObjectHypothesisWithPose")
    published: dict[str, Any] = {}

    def create_publisher(_kind: Any, topic: str, _depth: int) -> Any:
        return SimpleNamespace(publish=lambda message: published.update({topic: message}))

    node: Any = SimpleNamespace(create_publisher=create_publisher)
    Detections(node, SimpleNamespace(**dict.fromkeys(names, Fields))).publish([region], [HEADER])
    flat, solid = published["~/detections"], published["~/detections_3d"]
    assert (flat.header, flat.detections[0].header) == (HEADER, HEADER)
    expected = Header(frame_id=frame, stamp=HEADER.stamp)
    assert (solid.header, solid.detections[0].header) == (expected, expected)
    place, size = solid.detections[0].bbox.center.position, solid.detections[0].bbox.size
    assert ((place.x, place.y, place.z), (size.x, size.y, size.z)) == (region.position, region.extent)
