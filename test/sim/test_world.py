"""What the world file promises to Gazebo and to the built-in camera, and what that camera promises to whoever looks."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydrake", reason="the built-in camera draws with Drake, which is not installed here")

from qwen3vl_ros.sim.motion import MotionError, read_motions
from qwen3vl_ros.sim.scene import Scene
from qwen3vl_ros.sim.sdf import WorldError, read_world
from qwen3vl_ros.vision.poses import from_xyz_quaternion, from_xyz_rpy, to_rpy

BALL_RADIUS = 0.1  # metres, as in the world file


@pytest.fixture(scope="module")
def world_file(share: Path) -> Path:
    return share / "worlds" / "tabletop.sdf"


@pytest.fixture
def scene(world_file: Path) -> Scene:
    return Scene(read_world(world_file))


def seen(scene: Scene, name: str) -> np.ndarray:
    """Which pixels show the model: [height, width] bool."""
    labels = scene.labels()
    return np.isin(labels, [label for label, model in scene.label_names.items() if model == name])


def in_camera(scene: Scene, name: str) -> np.ndarray:
    """An object's origin [3] in the optical frame: x right, y down, z forward, metres."""
    return (np.linalg.inv(scene.camera.world_from_optical) @ scene.pose(name))[:3, 3]


def test_gazebos_own_checker_accepts_the_world(world_file: Path) -> None:
    tool = next((found for name in ("gz", "ign") if (found := shutil.which(name))), None)
    if tool is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no SDF checker: apt install ignition-tools libsdformat-dev sdformat-sdf")
        pytest.skip("no SDF checker here: apt install ignition-tools libsdformat-dev sdformat-sdf")
    check = subprocess.run([tool, "sdf", "-k", str(world_file)], capture_output=True, text=True, check=False)
    said = check.stdout + check.stderr
    assert check.returncode == 0, said
    assert "Valid" in said
    assert "Warning" not in said and "Error [" not in said, said


def test_objects_can_be_told_apart_by_colour_and_by_shape(world_file: Path, scene: Scene) -> None:
    colours, shapes = zip(*(name.split("_") for name in scene.objects), strict=True)
    assert 4 <= len(scene.objects) <= 5
    assert len(set(colours)) == len(colours)
    assert Counter(shapes)["box"] == 1 and Counter(shapes)["ball"] == 1


def test_every_object_is_plainly_visible_in_its_colour(scene: Scene) -> None:
    image = scene.colour()
    assert image.shape == (448, 448, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
    wanted = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
    for name in scene.objects:
        pixels = seen(scene, name)
        assert pixels.sum() > 2000, name
        assert not (pixels[0].any() or pixels[-1].any() or pixels[:, 0].any() or pixels[:, -1].any()), name
        mean = image[pixels].mean(axis=0)
        strong = mean > 0.6 * mean.max()
        assert tuple(strong.astype(int)) == wanted[name.split("_")[0]], (name, mean)


def test_a_point_is_seen_where_the_calibration_says(scene: Scene) -> None:
    x, y, z = in_camera(scene, "blue_ball")
    fx, fy, cx, cy = scene.camera.intrinsics
    rows, columns = np.nonzero(seen(scene, "blue_ball"))
    assert (columns.min() + columns.max()) / 2 == pytest.approx(cx + fx * x / z, abs=1.0)
    assert (rows.min() + rows.max()) / 2 == pytest.approx(cy + fy * y / z, abs=2.0)


def test_depth_is_in_metres_along_the_optical_axis_and_lies_on_the_object(scene: Scene) -> None:
    depth = scene.depth()
    assert depth.shape == (448, 448) and depth.dtype == np.float32
    fx, fy, cx, cy = scene.camera.intrinsics
    pixels = seen(scene, "blue_ball")
    pixels &= np.roll(pixels, 2, 0) & np.roll(pixels, -2, 0) & np.roll(pixels, 2, 1) & np.roll(pixels, -2, 1)
    rows, columns = np.nonzero(pixels)
    z = depth[pixels]
    points = np.stack([(columns - cx) / fx * z, (rows - cy) / fy * z, z], axis=1)
    distances = np.linalg.norm(points - in_camera(scene, "blue_ball"), axis=1)
    assert np.abs(distances - BALL_RADIUS).max() < 0.004


def test_depth_says_infinity_beyond_the_range_and_minus_infinity_before_it(scene: Scene) -> None:
    assert np.isposinf(scene.depth()[0]).all()  # the sky
    near = scene.camera.world_from_optical @ from_xyz_rpy((0.0, 0.0, 0.15), (0.0, 0.0, 0.0))
    scene.set_pose("blue_ball", near)  # its front is 5 cm away, the range begins at 10
    depth = scene.depth()
    assert np.isneginf(depth[224, 224])
    assert not np.isnan(depth).any()


def test_a_moved_object_is_seen_in_its_new_place_and_nothing_else_moves(scene: Scene) -> None:
    before = {name: seen(scene, name) for name in scene.objects}
    scene.set_pose("red_box", from_xyz_rpy((1.2, 0.0, 1.3), (0.0, 0.0, 0.0)))
    assert not (seen(scene, "red_box") & before["red_box"]).any()
    assert (seen(scene, "yellow_cylinder") == before["yellow_cylinder"]).all()


def test_only_what_is_not_static_can_be_moved(scene: Scene) -> None:
    for name in ("table", "no_such_thing"):
        with pytest.raises(KeyError, match="red_box"):
            scene.set_pose(name, np.eye(4))


def test_the_world_says_how_the_camera_works(world_file: Path) -> None:
    camera = read_world(world_file).colour_camera()
    assert (camera.width, camera.height) == (448, 448)
    assert camera.frame_id == "camera_optical_frame"
    assert 10 <= camera.rate <= 30
    right, down, forward = camera.world_from_optical[:3, :3].T
    assert right == pytest.approx([0, -1, 0], abs=1e-9)  # y is to the left
    assert forward[0] > 0.5 and forward[2] < 0 and down[2] < -0.5
    assert camera.fx == pytest.approx(224 / np.tan(1.0472 / 2))


def test_depth_of_a_camera_that_looks_elsewhere_is_refused(world_file: Path, tmp_path: Path) -> None:
    text = world_file.read_text()
    at = text.index('type="depth_camera"')
    crooked = tmp_path / "crooked.sdf"
    crooked.write_text(text[:at] + text[at:].replace("<width>448", "<width>320", 1))
    world = read_world(crooked)
    with pytest.raises(WorldError, match="depth"):
        world.depth_camera(world.colour_camera())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("<sdf", "not well-formed"),
        ("<sdf version='1.9'><model name='m'/></sdf>", "no <world>"),
        ("<sdf version='1.9'><world name='w'/></sdf>", "no colour camera"),
        ("<sdf version='1.9'><world name='w'><light name='l' type='odd'/></world></sdf>", "unknown type 'odd'"),
    ],
)
def test_a_broken_world_is_named_in_a_sentence(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "broken.sdf"
    if text is not None:
        path.write_text(text)
    with pytest.raises(WorldError, match=says) as raised:
        Scene(read_world(path))
    assert str(path) in str(raised.value)


def test_objects_follow_their_paths_and_come_back() -> None:
    home = from_xyz_rpy((1.0, 2.0, 3.0), (0.0, 0.0, 0.5))
    circle, line, spin = read_motions("a circle radius=0.2 period=8; b line dy=0.3 period=4\nc spin period=2")
    for time in (0.0, 1.3, 5.0):
        assert np.linalg.norm((circle.pose(home, time) - home)[:3, 3]) == pytest.approx(0.2)
    assert line.pose(home, 2.0)[:3, 3] == pytest.approx([1.0, 2.3, 3.0])
    assert line.pose(home, 4.0) == pytest.approx(home)
    assert to_rpy(spin.pose(home, 0.5)) == pytest.approx((0.0, 0.0, 0.5 + np.pi / 2))
    assert spin.pose(home, 0.5)[:3, 3] == pytest.approx(home[:3, 3])


@pytest.mark.parametrize(
    "script",
    [
        "red_box",
        "red_box fly period=1",
        "red_box circle period=8",
        "red_box spin period=0",
        "red_box spin period=nan",
        "red_box spin speed=1 period=2",
        "a spin period=1; a spin period=2",
    ],
)
def test_a_motion_that_is_not_understood_is_quoted(script: str) -> None:
    with pytest.raises(MotionError) as raised:
        read_motions(script)
    assert script.split()[0] in str(raised.value)


def test_poses_from_quaternions_and_from_angles_agree() -> None:
    half = 0.7 / 2
    turned = from_xyz_quaternion((1, 2, 3), (0, 0, 2 * np.sin(half), 2 * np.cos(half)))
    assert turned == pytest.approx(from_xyz_rpy((1, 2, 3), (0, 0, 0.7)))
    assert to_rpy(from_xyz_rpy((0, 0, 0), (0.1, -0.2, 3.0))) == pytest.approx((0.1, -0.2, 3.0))
    for quaternion in ((0, 0, 0, 0), (0, 0, 0, np.nan)):
        with pytest.raises(ValueError, match=r"\."):
            from_xyz_quaternion((0, 0, 0), quaternion)
