"""Things that an answer points at get their place in metres, or a sentence that says why they do not.

Truth comes from scenes of planes, balls and boxes that are cut with the rays of a camera here, and from the world of
the built-in camera, whose objects are where the world file and this test put them.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from sensor_msgs.msg import Image as ImageMessage

from examples import examples
from qwen3vl_ros.sim.scene import Scene
from qwen3vl_ros.sim.sdf import read_world
from qwen3vl_ros.vision.depth import locate
from qwen3vl_ros.vision.poses import from_xyz_rpy
from qwen3vl_ros.vision.region import Box, Region

few_images = settings(examples(20), derandomize=True)

DISTORTIONS = {
    "plumb_bob": (-0.28, 0.07, 0.001, -0.0008, 0.0),
    "rational_polynomial": (0.41, -0.32, 0.0006, -0.0004, -0.05, 0.74, -0.31, -0.15),
    "equidistant": (-0.03, 0.012, -0.008, 0.002),
}

# --- Cameras and scenes


@dataclass(frozen=True)
class Camera:
    width: int = 200
    height: int = 160
    focal: float = 190.0
    principal: tuple[float, float] = (98.0, 83.0)  # as in K: (0, 0) is the middle of the first pixel
    model: str = "plumb_bob"
    d: tuple[float, ...] = ()

    @property
    def k(self) -> NDArray:
        return np.array([[self.focal, 0, self.principal[0]], [0, self.focal, self.principal[1]], [0, 0, 1.0]])

    def info(self) -> CameraInfo:
        return CameraInfo(
            width=self.width, height=self.height, k=self.k.ravel().tolist(), distortion_model=self.model, d=list(self.d)
        )

    def project(self, points: NDArray) -> NDArray:
        """Pixels [n, 2], as in a Region, of points [n, 3]."""
        d = np.array(self.d)
        if self.model == "equidistant":
            pixels = cv2.fisheye.projectPoints(points[:, None].copy(), np.zeros(3), np.zeros(3), self.k, d)[0]
        else:
            pixels = cv2.projectPoints(points[:, None].copy(), np.zeros(3), np.zeros(3), self.k, d)[0]
        return pixels.reshape(-1, 2) + 0.5

    @lru_cache  # noqa: B019 - a few small cameras
    def rays(self) -> NDArray:
        """[height, width, 3] with z = 1, through the middle of every pixel: found by trying, not by undistorting."""
        pixels = np.stack(np.meshgrid(np.arange(self.width), np.arange(self.height)), axis=2).reshape(-1, 2) + 0.5
        rays = np.column_stack([(pixels - 0.5 - self.principal) / self.focal, np.ones(len(pixels))])
        for _ in range(60 if self.d else 0):
            rays[:, :2] += (pixels - self.project(rays)) / self.focal
        assert np.abs(self.project(rays) - pixels).max() < 1e-3
        return rays.reshape(self.height, self.width, 3)


Shape = Callable[[NDArray, NDArray], NDArray]
"""From an origin [3] and directions [..., 3] to how many directions away the surface is, infinity for not at all."""


def plane(normal: Sequence[float], through: Sequence[float]) -> Shape:
    def hit(origin: NDArray, directions: NDArray) -> NDArray:
        with np.errstate(divide="ignore"):
            t = (np.array(through) - origin) @ normal / (directions @ np.array(normal))
        return np.where(t > 0, t, np.inf)

    return hit


def ball(centre: NDArray, radius: float) -> Shape:
    def hit(origin: NDArray, directions: NDArray) -> NDArray:
        a = (directions**2).sum(axis=-1)
        b = directions @ (origin - centre)
        c = (origin - centre) @ (origin - centre) - radius**2
        with np.errstate(invalid="ignore"):
            t = (-b - np.sqrt(b**2 - a * c)) / a
        return np.where(t > 0, t, np.inf)

    return hit


def box(pose: NDArray, size: Sequence[float]) -> Shape:
    def hit(origin: NDArray, directions: NDArray) -> NDArray:
        rotation, half = pose[:3, :3], np.array(size) / 2
        start, steps = (origin - pose[:3, 3]) @ rotation, directions @ rotation
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ends = np.stack([(-half - start) / steps, (half - start) / steps])
        near, far = ends.min(axis=0).max(axis=-1), ends.max(axis=0).min(axis=-1)
        return np.where((near <= far) & (near > 0), near, np.inf)

    return hit


@dataclass(frozen=True)
class Table:
    """A camera above a table, ``pitch`` radians down: how the table's axes (z up, x away) lie in the optical frame."""

    pitch: float
    distance: float  # from the camera to the point of the table that it looks at
    roll: float = 0.0

    def pose(self, x: float, y: float, height: float, yaw: float = 0.0) -> NDArray:
        """The pose [4, 4] in the optical frame of a thing on the table, ``x`` beyond what the camera looks at."""
        turn = from_xyz_rpy((0, 0, 0), (self.roll, self.pitch, 0))
        optical = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
        camera_at = from_xyz_rpy((-self.distance * np.cos(self.pitch), 0, self.distance * np.sin(self.pitch)), (0,) * 3)
        return optical @ np.linalg.inv(camera_at @ turn) @ from_xyz_rpy((x, y, height), (0, 0, yaw))

    def top(self) -> Shape:
        pose = self.pose(0, 0, 0)
        return plane(pose[:3, 2], pose[:3, 3])


@dataclass(frozen=True)
class Image:
    """What a camera sees of shapes. ``z`` [height, width] and which shape it is [height, width]."""

    z: NDArray
    shown: NDArray

    def box_of(self, shape: int) -> Box:
        rows, columns = np.nonzero(self.shown == shape)
        assert len(rows), "the scene does not show it"
        return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def look(camera: Camera, shapes: Sequence[Shape], colour_from_camera: NDArray | None = None) -> Image:
    pose = np.eye(4) if colour_from_camera is None else colour_from_camera
    hits = np.stack([shape(pose[:3, 3], camera.rays() @ pose[:3, :3].T) for shape in shapes])
    nearest = hits.min(axis=0)
    return Image(np.where(np.isfinite(nearest), nearest, np.nan), hits.argmin(axis=0))


def message(
    z: NDArray, encoding: str = "32FC1", *, bigendian: bool = False, padding: int = 0, none: float = np.nan
) -> ImageMessage:
    """A message of depth [height, width] in metres, with ``none`` where it is NaN and padded rows."""
    order = ">" if bigendian else "<"
    if encoding == "16UC1":
        samples = np.rint(np.nan_to_num(z) * 1000).astype(f"{order}u2")
    else:
        samples = np.where(np.isnan(z), none, z).astype(f"{order}f4")
    height, width = z.shape
    data = array.array("B", b"".join(row.tobytes() + b"\xa5" * padding for row in samples))
    step = width * samples.itemsize + padding
    return ImageMessage(encoding=encoding, width=width, height=height, step=step, is_bigendian=bigendian, data=data)


def locate_one(region: Region, z: NDArray | ImageMessage, camera: Camera, **changes: Any) -> Region:
    """``region`` located with depth of the camera that the image is from, but for ``changes`` of the arguments."""
    depth = z if isinstance(z, ImageMessage) else message(z)
    arguments = {"depth_info": camera.info(), "colour_info": camera.info()} | changes
    (located,) = locate([region], depth, **arguments)
    assert replace(located, position=None, extent=None, position_error="") == region
    return located


def millimetres_off(region: Region, truth: NDArray) -> float:
    assert region.position is not None, region.position_error
    return float(1000 * np.linalg.norm(np.array(region.position) - truth))


cameras = st.builds(
    Camera,
    width=st.integers(180, 260),
    height=st.integers(160, 220),
    focal=st.floats(170.0, 260.0),
    principal=st.tuples(st.floats(85, 130), st.floats(75, 105)),
)
tables = st.builds(Table, pitch=st.floats(0.45, 1.4), distance=st.floats(0.7, 1.2), roll=st.floats(-0.4, 0.4))
places = st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05))

# --- Geometry


@few_images
@given(cameras, tables, places, st.floats(0.05, 0.1))
def test_a_ball_on_a_table_has_its_centre_where_it_is_and_its_diameter_as_extent(
    camera: Camera, table: Table, place: tuple[float, float], radius: float
) -> None:
    centre = table.pose(*place, radius)[:3, 3]
    seen = look(camera, [table.top(), ball(centre, radius)])
    located = locate_one(Region("ball", box=seen.box_of(1)), seen.z, camera)
    assert millimetres_off(located, centre) < 10
    assert located.extent == pytest.approx([2 * radius] * 3, abs=0.015)


@few_images
@given(cameras, tables, places, st.tuples(*[st.floats(0.06, 0.18)] * 3), st.floats(-3, 3))
def test_a_box_on_a_table_however_long_has_its_centre_where_it_is(
    camera: Camera, table: Table, place: tuple[float, float], size: tuple[float, float, float], yaw: float
) -> None:
    pose = table.pose(*place, size[2] / 2, yaw)
    seen = look(camera, [table.top(), box(pose, size)])
    located = locate_one(Region("box", box=seen.box_of(1)), seen.z, camera)
    assert millimetres_off(located, pose[:3, 3]) < 15
    assert located.extent == pytest.approx(np.abs(pose[:3, :3]) @ size, abs=0.025)


@few_images
@given(cameras, st.floats(0.6, 1.5), st.floats(0.05, 0.12), st.floats(-0.15, 0.15))
def test_a_ball_in_the_air_is_as_deep_as_it_is_wide(camera: Camera, away: float, radius: float, aside: float) -> None:
    centre = np.array([aside * away, 0.0, away])
    seen = look(camera, [plane((0, 0, 1), (0, 0, 4.0)), ball(centre, radius)])
    assert millimetres_off(locate_one(Region("ball", box=seen.box_of(1)), seen.z, camera), centre) < 15


@few_images
@given(tables, places, st.floats(-0.3, 0.3), st.floats(0.03, 0.12), st.floats(-0.15, 0.15))
def test_depth_from_another_place_with_other_pixels_says_the_same(
    table: Table, place: tuple[float, float], yaw: float, baseline: float, turn: float
) -> None:
    colour, depth = Camera(), Camera(150, 120, 125.0, (73.0, 61.0))
    colour_from_depth = from_xyz_rpy((baseline, 0.02, -0.01), (turn / 3, turn, turn / 2))
    pose = table.pose(*place, 0.07, yaw)
    shapes = [table.top(), box(pose, (0.16, 0.1, 0.14))]
    region = Region("box", box=look(colour, shapes).box_of(1))
    z = look(depth, shapes, colour_from_depth).z
    located = locate_one(region, z, colour, depth_info=depth.info(), colour_from_depth=colour_from_depth)
    assert millimetres_off(located, pose[:3, 3]) < 20


@few_images
@given(tables, places, st.floats(-0.3, 0.3))
def test_registration_by_the_identity_changes_nothing(table: Table, place: tuple[float, float], yaw: float) -> None:
    camera = Camera()
    seen = look(camera, [table.top(), box(table.pose(*place, 0.07, yaw), (0.16, 0.1, 0.14))])
    region = Region("box", box=seen.box_of(1))
    unregistered = locate_one(region, seen.z, camera)
    located = locate_one(region, seen.z, camera, colour_from_depth=np.eye(4))
    assert located.position == pytest.approx(unregistered.position, abs=1e-6)
    assert located.extent == pytest.approx(unregistered.extent, abs=1e-6)


@few_images
@given(st.floats(0.03, 0.08), st.floats(0, 6.2), st.floats(0.5, 0.9), st.floats(-0.1, 0.1), st.sampled_from((1.0, 0.7)))
def test_a_point_is_on_what_the_image_shows_not_on_what_only_the_depth_camera_sees_behind_it(
    baseline: float, direction: float, away: float, turn: float, coarser: float
) -> None:
    """A depth camera beside the image's sees wall that is hidden in the image, and would have it where the box is."""
    colour = Camera()
    depth = Camera(int(200 * coarser), int(160 * coarser), 150 * coarser, (99 * coarser, 80 * coarser))
    colour_from_depth = from_xyz_rpy(
        (baseline * np.cos(direction), baseline * np.sin(direction), 0.0), (turn / 2, turn, turn / 3)
    )
    shapes = [plane((0, 0, 1), (0, 0, 2.5)), box(from_xyz_rpy((0, 0, away), (0, 0, 0)), (0.16, 0.12, 0.02))]
    z = look(depth, shapes, colour_from_depth).z
    left, top, right, bottom = look(colour, shapes).box_of(1)
    for x in np.linspace(left + 4, right - 4, 5):
        for y in np.linspace(top + 4, bottom - 4, 5):
            region = Region("spot", point=(x, y))
            located = locate_one(region, z, colour, depth_info=depth.info(), colour_from_depth=colour_from_depth)
            assert located.position is not None, located.position_error
            assert located.position[2] == pytest.approx(away - 0.01, abs=2e-3)


@few_images
@given(tables, places, st.floats(-3.1, 3.1))
def test_along_the_axes_of_another_frame_an_extent_is_the_size_along_those(
    table: Table, place: tuple[float, float], yaw: float
) -> None:
    """A box has its own sides along its own axes, and those of the table enclose it turned."""
    camera, size = Camera(), np.array((0.16, 0.12, 0.14))
    pose = table.pose(*place, 0.07, yaw)
    seen = look(camera, [table.top(), box(pose, size)])
    region = Region("box", box=seen.box_of(1))
    in_optical = locate_one(region, seen.z, camera)
    for frame, turn in ((pose, 0.0), (table.pose(0, 0, 0), yaw)):
        located = locate_one(region, seen.z, camera, axes=frame[:3, :3].T)
        assert located.position == in_optical.position
        across = np.abs([[np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ size[:2]
        assert located.extent == pytest.approx((*across, size[2]), abs=0.03)


def test_aligned_depth_may_have_another_size_than_the_image() -> None:
    colour, depth, table = Camera(), Camera(120, 100, 105.0, (58.0, 51.0)), Table(0.8, 0.9)
    centre = table.pose(0.02, 0.03, 0.09)[:3, 3]
    shapes = [table.top(), ball(centre, 0.09)]
    region = Region("ball", box=look(colour, shapes).box_of(1))
    located = locate_one(region, look(depth, shapes).z, colour, depth_info=depth.info())
    assert millimetres_off(located, centre) < 10


@pytest.mark.parametrize("model", DISTORTIONS)
def test_a_point_of_a_distorted_image_is_the_surface_that_it_shows(model: str) -> None:
    """Known points, projected with distortion, come back; depth once through the same lens, once through another."""
    colour = Camera(model=model, d=DISTORTIONS[model])
    wall_normal, through = np.array([0.35, -0.25, 1.0]), np.array([0.0, 0.0, 1.4])
    wall = plane(wall_normal, through)
    grid = np.stack(np.meshgrid(np.linspace(-0.42, 0.42, 7), np.linspace(-0.33, 0.33, 7)), axis=2).reshape(-1, 2)
    directions = np.column_stack([grid, np.ones(len(grid))])
    points = directions * wall(np.zeros(3), directions)[:, None]
    pixels = colour.project(points)
    assert (pixels > 3).all() and (pixels < (colour.width - 3, colour.height - 3)).all()
    pinhole = replace(colour, model="plumb_bob", d=())
    assert np.abs(pixels - pinhole.project(points)).max() > 3, "this distortion proves nothing"
    regions = [Region("mark", point=(float(x), float(y))) for x, y in pixels]
    for camera in (colour, Camera(260, 220, 210.0, (129.0, 108.0))):
        located = list(locate(regions, message(look(camera, [wall]).z), camera.info(), colour.info()))
        worst = max(millimetres_off(region, truth) for region, truth in zip(located, points, strict=True))
        assert worst < 1.0
        assert {region.extent for region in located} == {None}


@pytest.mark.parametrize("model", DISTORTIONS)
def test_a_ball_near_the_corner_of_a_distorted_image_is_where_it_is(model: str) -> None:
    camera, table = Camera(model=model, d=DISTORTIONS[model]), Table(0.9, 0.9)
    centre = table.pose(-0.12, 0.25, 0.06)[:3, 3]
    seen = look(camera, [table.top(), ball(centre, 0.06)])
    assert millimetres_off(locate_one(Region("ball", box=seen.box_of(1)), seen.z, camera), centre) < 10


def test_a_point_at_an_edge_is_on_the_side_that_it_points_at() -> None:
    camera = Camera()
    seen = look(camera, [plane((0, 0, 1), (0, 0, 3.0)), box(from_xyz_rpy((0.2, 0, 1.0), (0, 0, 0)), (0.4, 0.4, 0.02))])
    edge = seen.box_of(1)[0]
    for x, z in ((edge + 0.6, 0.99), (edge - 0.6, 3.0)):
        located = locate_one(Region("edge", point=(x, 80.0)), seen.z, camera)
        assert located.position is not None and located.position[2] == pytest.approx(z, abs=1e-3)


# --- What is in the box and is not the thing


@dataclass
class Clutter:
    """A ball on a table, and what may be around it."""

    camera: Camera = field(default_factory=Camera)
    table: Table = field(default_factory=lambda: Table(0.6, 0.9))
    radius: float = 0.08

    @property
    def centre(self) -> NDArray:
        return self.table.pose(0.0, 0.0, self.radius)[:3, 3]

    def look(self, *others: Shape) -> Image:
        return look(self.camera, [self.table.top(), ball(self.centre, self.radius), *others])


def test_neither_the_wall_behind_nor_the_hand_in_front_nor_the_neighbour_is_the_thing() -> None:
    clutter = Clutter()
    at = clutter.table.pose
    others = {
        "wall": plane(at(0, 0, 0)[:3, 0], at(0.18, 0, 0)[:3, 3]),
        "neighbour": box(at(0.02, -0.16, 0.06, 0.3), (0.12, 0.12, 0.12)),
        "hand": box(from_xyz_rpy(0.55 * clutter.centre + (-0.05, 0, 0), (0, 0, 0)), (0.03, 0.2, 0.02)),
    }
    whole = clutter.look().box_of(1)
    for name, other in others.items():
        seen = clutter.look(other)
        left, top, right, bottom = (int(edge) for edge in whole)
        if name != "neighbour":
            assert (seen.shown[top:bottom, left:right] == 2).sum() > 30, f"the {name} is not in the box"
        assert millimetres_off(locate_one(Region("ball", box=whole), seen.z, clutter.camera), clutter.centre) < 20, name


@pytest.mark.parametrize("share", [-0.1, 0.1])
def test_a_box_that_is_drawn_a_little_off_changes_little(share: float) -> None:
    clutter = Clutter()
    seen = clutter.look()
    left, top, right, bottom = seen.box_of(1)
    loose = (left - share * (right - left), top - share * (bottom - top), right, bottom)
    assert millimetres_off(locate_one(Region("ball", box=loose), seen.z, clutter.camera), clutter.centre) < 10


def test_a_thin_thing_that_covers_a_tenth_of_its_box_is_found_before_its_background() -> None:
    camera = Camera()
    pose = from_xyz_rpy((0.02, -0.01, 0.8), (0, 0, 0.8))
    seen = look(camera, [plane((0.1, 0, 1), (0, 0, 1.5)), box(pose, (0.4, 0.018, 0.018))])
    left, top, right, bottom = edges = seen.box_of(1)
    assert (seen.shown == 1).sum() < 0.12 * (right - left) * (bottom - top)
    assert millimetres_off(locate_one(Region("stick", box=edges), seen.z, camera), pose[:3, 3]) < 10


def test_a_side_in_line_with_a_neighbours_is_not_taken_for_a_wall() -> None:
    camera, table = Camera(width=320, principal=(159.0, 83.0)), Table(0.5, 0.9)
    cubes = [box(table.pose(0, y, 0.05), (0.1, 0.1, 0.1)) for y in (0.0, -0.125, 0.125, -0.25, 0.25)]
    seen = look(camera, [table.top(), *cubes])
    located = locate_one(Region("cube", box=seen.box_of(1)), seen.z, camera)
    assert millimetres_off(located, table.pose(0, 0, 0.05)[:3, 3]) < 15


def test_a_sheet_on_the_table_is_a_part_of_the_table() -> None:
    camera, table = Camera(), Table(0.9, 0.9)
    sheet = table.pose(0.05, 0.02, 0.0005)
    seen = look(camera, [table.top(), box(sheet, (0.15, 0.21, 0.001))])
    located = locate_one(Region("sheet", box=seen.box_of(1)), seen.z, camera)
    assert millimetres_off(located, sheet[:3, 3]) < 15
    assert located.extent == pytest.approx(np.abs(sheet[:3, :3]) @ (0.15, 0.21, 0.0), abs=0.03)


def test_a_polygon_says_which_pixels_are_the_thing() -> None:
    """A stick with a branch: in one box with it, in one piece with it, but not in the stick's outline."""
    camera, half = Camera(), np.pi / 4
    stick, branch = from_xyz_rpy((0, 0, 0.8), (0, 0, half)), from_xyz_rpy((-0.045, 0.045, 0.8), (0, 0, 3 * half))
    shapes = [box(stick, (0.3, 0.03, 0.03)), box(branch, (0.12, 0.03, 0.03)), plane((0, 0, 1), (0, 0, 3.0))]
    seen = look(camera, shapes)
    mask = (seen.shown == 0).astype(np.uint8)
    (outline, *_), _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygon = tuple((float(x) + 0.5, float(y) + 0.5) for x, y in outline[:, 0])
    assert millimetres_off(locate_one(Region("stick", polygon=polygon), seen.z, camera), stick[:3, 3]) < 10
    assert millimetres_off(locate_one(Region("stick", box=seen.box_of(0)), seen.z, camera), stick[:3, 3]) > 20


# --- Messages


@few_images
@given(tables, places)
def test_millimetres_and_metres_say_the_same_but_for_rounding(table: Table, place: tuple[float, float]) -> None:
    camera = Camera()
    seen = look(camera, [table.top(), ball(table.pose(*place, 0.08)[:3, 3], 0.08)])
    region = Region("ball", box=seen.box_of(1))
    metres, millimetres = (locate_one(region, message(seen.z, encoding), camera) for encoding in ("32FC1", "16UC1"))
    named_otherwise = message(seen.z, "16UC1")
    named_otherwise.encoding = "mono16"
    assert locate_one(region, named_otherwise, camera) == millimetres
    assert millimetres_off(millimetres, np.array(metres.position)) < 3


@few_images
@given(tables, places, st.integers(0, 1000))
def test_holes_and_noise_change_little(table: Table, place: tuple[float, float], seed: int) -> None:
    camera, random = Camera(), np.random.default_rng(seed)
    centre = table.pose(*place, 0.08)[:3, 3]
    seen = look(camera, [table.top(), ball(centre, 0.08)])
    z = seen.z * (1 + 0.002 * random.standard_normal(seen.z.shape))
    z[random.random(z.shape) < 0.3] = np.nan
    z[70:74] = np.nan
    assert millimetres_off(locate_one(Region("ball", box=seen.box_of(1)), z, camera), centre) < 20


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_byte_order_padding_and_the_word_for_none_make_no_difference(encoding: str) -> None:
    clutter = Clutter()
    seen = clutter.look()
    region, z = Region("ball", box=seen.box_of(1)), np.where(seen.z > 1.2, np.nan, seen.z)
    plain = locate_one(region, message(z, encoding), clutter.camera)
    assert plain.position is not None
    assert locate_one(region, message(z, encoding, bigendian=True, padding=7), clutter.camera) == plain
    for none in (0.0, np.inf, -np.inf, -1.0):
        assert locate_one(region, message(z, encoding, none=none), clutter.camera) == plain


def test_binning_and_the_region_of_interest_are_honoured() -> None:
    """The middle of the sensor at half resolution: what the driver leaves out is in camera_info."""
    sensor, table = Camera(400, 320, 380.0, (201.0, 158.0)), Table(0.8, 0.9)
    cut = Camera(140, 110, 190.0, ((201.0 + 0.5 - 60) / 2 - 0.5, (158.0 + 0.5 - 40) / 2 - 0.5))
    info = sensor.info()
    info.binning_x = info.binning_y = 2
    info.roi = RegionOfInterest(x_offset=60, y_offset=40, width=280, height=220)
    centre = table.pose(0.02, 0.04, 0.08)[:3, 3]
    seen = look(cut, [table.top(), ball(centre, 0.08)])
    region = Region("ball", box=seen.box_of(1))
    same = locate_one(region, seen.z, cut)
    located = locate_one(region, seen.z, cut, depth_info=info, colour_info=info)
    assert millimetres_off(same, centre) < 10
    assert located.position == pytest.approx(same.position, abs=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_calibration_of_another_size_counts_where_the_aspect_ratio_is_the_same(factor: float) -> None:
    camera = Camera()
    z = np.full((camera.height, camera.width), 1.5)
    z[60:110, 80:130] = 1.2
    right = locate_one(Region("thing", box=(80.0, 60.0, 130.0, 110.0)), z, camera)
    size = (int(camera.width * factor), int(camera.height * factor))
    scaled = Region("thing", box=(80.0 * factor, 60.0 * factor, 130.0 * factor, 110.0 * factor))
    assert locate_one(scaled, z, camera, colour_size=size).position == pytest.approx(right.position)
    wrong = locate_one(scaled, z, camera, colour_size=(size[0], size[1] + 9))
    assert wrong.position is None
    assert "colour image" in wrong.position_error and "another aspect ratio" in wrong.position_error
    unsaid = locate_one(scaled, z, camera, colour_size=size, depth_info=with_info(width=0, height=0))
    assert unsaid.position == pytest.approx(right.position)
    # Half as many pixels of depth, published with the calibration of all.
    half = locate_one(Region("thing", box=(80.0, 60.0, 130.0, 110.0)), z[::2, ::2], camera)
    assert half.position == pytest.approx(right.position, abs=0.01)


BOX = Region("thing", box=(60.0, 50.0, 120.0, 110.0))


def a_wall(holes: tuple[slice, slice] | None = None) -> NDArray:
    z = np.full((160, 200), 1.5)
    if holes is not None:
        z[holes] = np.nan
    return z


def with_info(**fields: Any) -> CameraInfo:
    info = Camera().info()
    for name, value in fields.items():
        setattr(info, name, value)
    return info


@pytest.mark.parametrize(
    ("region", "depth", "changes", "says"),
    [
        (BOX, a_wall((slice(45, 115), slice(55, 125))), {}, "no valid depth in the box"),
        (BOX, a_wall() * np.nan, {}, "no valid depth anywhere"),
        (BOX, a_wall() * np.inf, {}, "no valid depth anywhere"),
        (BOX, a_wall((slice(50, 110), slice(61, 120))), {}, "hardly any valid depth"),
        (replace(BOX, box=(60.0, 50.0, 63.0, 53.0)), a_wall(), {}, "only 9 pixels"),
        (replace(BOX, box=(300.0, 50.0, 400.0, 90.0)), a_wall(), {}, "outside of the colour image"),
        (replace(BOX, box=(90.0, 50.0, 60.0, 90.0)), a_wall(), {}, "no area"),
        (replace(BOX, box=(float("nan"), 50.0, 60.0, 90.0)), a_wall(), {}, "no area"),
        (Region("nothing"), a_wall(), {}, "neither a box nor a point"),
        (Region("p", point=(90.0, 80.0)), a_wall((slice(75, 85), slice(85, 95))), {}, "around the point (90, 80)"),
        (Region("p", point=(-50.0, 80.0)), a_wall(), {}, "outside of the colour image"),
        (Region("p", point=(float("inf"), 80.0)), a_wall(), {}, "not in the image"),
        (BOX, a_wall(), {"depth_info": CameraInfo()}, "the depth camera has no camera_info"),
        (BOX, a_wall(), {"colour_info": CameraInfo()}, "the colour camera has no camera_info"),
        (BOX, a_wall(), {"colour_info": with_info(k=[float("nan")] * 9)}, "focal lengths nan"),
        (BOX, a_wall(), {"depth_info": with_info(k=[1e308, 0, 99, 0, 1e308, 79, 0, 0, 1])}, "focal lengths 1e+308"),
        (BOX, a_wall(), {"colour_info": with_info(distortion_model="thin_prism", d=[0.1])}, "'thin_prism'"),
        (BOX, a_wall(), {"depth_info": with_info(d=[0.1, 0.2])}, "plumb_bob has 4 to 14"),
        (BOX, a_wall(), {"depth_info": with_info(width=640, height=480)}, "640x480"),
        (BOX, ImageMessage(encoding="mono8", width=2, height=1, step=2, data=b"ab"), {}, "'mono8'"),
        (BOX, ImageMessage(encoding="16UC1", width=200, height=160, step=400, data=b"ab"), {}, "too little"),
        (BOX, ImageMessage(encoding="16UC1"), {}, "is empty"),
        (
            BOX,
            a_wall()[:, :40],
            {"depth_info": Camera(40, 160, 190.0, (-60.0, 83.0)).info()},
            "outside of what the depth image shows",
        ),
    ],
)
def test_what_has_no_depth_says_why_instead_of_a_number(
    region: Region, depth: NDArray | ImageMessage, changes: dict[str, Any], says: str
) -> None:
    (located,) = locate(
        [replace(region, position=(1.0, 2.0, 3.0), extent=(1.0, 1.0, 1.0))],
        depth if isinstance(depth, ImageMessage) else message(depth),
        **{"depth_info": Camera().info(), "colour_info": Camera().info()} | changes,
    )
    assert located.position is None and located.extent is None
    assert located.position_error.startswith("NO_DEPTH: ") and says in located.position_error
    assert located.position_error.endswith((".", "?"))


def test_one_region_without_depth_does_not_cost_the_others_theirs() -> None:
    clutter = Clutter()
    seen = clutter.look()
    good, bad = Region("ball", box=seen.box_of(1)), Region("nothing")
    first, second, third = locate([good, bad, good], message(seen.z), Camera().info(), Camera().info())
    assert first == third and first.position is not None and not first.position_error
    assert second.position is None and second.position_error


# --- The built-in world


@pytest.fixture(scope="module")
def scene(share: Path) -> Scene:
    return Scene(read_world(share / "worlds" / "tabletop.sdf"))


@pytest.fixture(autouse=True)
def at_home(request: pytest.FixtureRequest) -> Any:
    """Objects are back in their places after every test that moves them."""
    scene = request.getfixturevalue("scene") if "scene" in request.fixturenames else None
    home = {name: scene.pose(name) for name in scene.objects} if scene else {}
    yield
    for name, pose in home.items():
        scene.set_pose(name, pose)


def masks(scene: Scene) -> dict[str, NDArray]:
    labels = scene.labels()
    return {name: labels == label for label, name in scene.label_names.items() if name in scene.objects}


def fully_in_view(scene: Scene) -> dict[str, Box]:
    """The boxes of the objects that neither the image's edge nor another object hides a part of."""
    together, poses = masks(scene), {name: scene.pose(name) for name in scene.objects}
    boxes = {}
    for name in scene.objects:
        for other in scene.objects:
            scene.set_pose(other, poses[other] if other == name else from_xyz_rpy((-5, 0, 0), (0, 0, 0)))
        alone = masks(scene)[name]
        at_the_edge = alone[0].any() or alone[-1].any() or alone[:, 0].any() or alone[:, -1].any()
        if alone.any() and not at_the_edge and (alone == together[name]).all():
            rows, columns = np.nonzero(alone)
            boxes[name] = (columns.min() + 0.0, rows.min() + 0.0, columns.max() + 1.0, rows.max() + 1.0)
    for name, pose in poses.items():
        scene.set_pose(name, pose)
    return boxes


def errors(scene: Scene, boxes: dict[str, Box]) -> dict[str, float]:
    """How far, in metres, each object of ``boxes`` is found from where it is."""
    fx, fy, cx, cy = scene.camera.intrinsics
    info = CameraInfo(width=scene.camera.width, height=scene.camera.height, distortion_model="plumb_bob", d=[0.0] * 5)
    info.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    regions = [Region(name, box=edges) for name, edges in boxes.items()]
    located = locate(regions, message(scene.depth()), info, info)
    optical_from_world = np.linalg.inv(scene.camera.world_from_optical)
    return {r.label: millimetres_off(r, (optical_from_world @ scene.pose(r.label))[:3, 3]) / 1000 for r in located}


def test_every_object_of_the_world_is_found_within_2_cm(scene: Scene) -> None:
    found = errors(scene, fully_in_view(scene))
    assert set(found) == set(scene.objects)
    assert max(found.values()) < 0.02, found


@pytest.mark.parametrize("seed", [4, 7])  # with neighbours whose tops and sides are easily taken for tables
def test_wherever_objects_stand_those_fully_in_view_are_found_within_2_cm(scene: Scene, seed: int) -> None:
    random = np.random.default_rng(seed)
    above_table = {name: scene.pose(name)[2, 3] for name in scene.objects}
    found: list[tuple[float, str, int]] = []
    for number in range(14):
        taken: list[NDArray] = []
        for name in scene.objects:
            places = random.uniform((0.75, -0.6), (1.75, 0.6), size=(500, 2))
            place = next(p for p in places if all(np.linalg.norm(p - other) > 0.22 for other in taken))
            taken.append(place)
            turn = (0.0, 0.0, random.uniform(-np.pi, np.pi))
            scene.set_pose(name, from_xyz_rpy((*place, above_table[name]), turn))
        found += [(error, name, number) for name, error in errors(scene, fully_in_view(scene)).items()]
    assert len(found) > 20 and {name for _, name, _ in found} == set(scene.objects)
    worst, name, number = max(found)
    assert worst < 0.02, f"{name} in placement {number} is found {1000 * worst:.1f} mm from where it is"


def test_an_object_that_is_lifted_is_not_taken_to_stand_on_the_table(scene: Scene) -> None:
    scene.set_pose("blue_ball", from_xyz_rpy((1.1, -0.3, 1.1), (0, 0, 0)))
    found = errors(scene, {"blue_ball": fully_in_view(scene)["blue_ball"]})
    assert found["blue_ball"] < 0.02
