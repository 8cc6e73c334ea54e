"""Reads an SDF world: its cameras and lights, and the part of it that Drake renders.

Drake's parser reads models, links and visuals and refuses or ignores the rest, so sensors,
lights and the scene's colours are read here from the same file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from qwen3vl_ros.vision.poses import OPTICAL_FROM_BODY_RPY, Pose, from_xyz_rpy

Colour = tuple[float, float, float]
"""Red, green, blue, each 0 to 1."""

# Elements that Drake does not render. Some (`gz_frame_id`, which Gazebo needs inside <sensor>) make
# Drake's parser fail, the others make it warn; <collision> shapes are never visible.
_NOT_DRAWN = frozenset(
    {
        "atmosphere",
        "audio",
        "collision",
        "gravity",
        "gui",
        "light",
        "magnetic_field",
        "physics",
        "plugin",
        "scene",
        "sensor",
        "spherical_coordinates",
        "wind",
    }
)


class WorldError(Exception):
    """A world file cannot be used. The message names the file and says what to do."""


@dataclass(frozen=True)
class Camera:
    """One `<sensor>` of type camera, depth_camera or rgbd_camera.

    `world_from_optical` is the pose of the optical frame (z forward, x right, y down) in the world.
    `fx`, `fy`, `cx`, `cy` are in pixels with (0, 0) at the centre of the top left pixel;
    `near` and `far` are the clip range in metres, `rate` is in hertz.
    """

    name: str
    kind: str
    link: str
    topic: str
    frame_id: str
    rate: float
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    near: float
    far: float
    world_from_optical: Pose

    @property
    def intrinsics(self) -> tuple[float, float, float, float]:
        """(fx, fy, cx, cy) in pixels."""
        return self.fx, self.fy, self.cx, self.cy

    def sees_the_same_as(self, other: Camera) -> bool:
        """Return whether equal pixels of this camera and `other` have the same ray."""
        return (
            (self.width, self.height) == (other.width, other.height)
            and np.allclose(self.intrinsics, other.intrinsics, atol=1e-6)
            and np.allclose(self.world_from_optical, other.world_from_optical, atol=1e-9)
        )


@dataclass(frozen=True)
class Light:
    """One `<light>` of the world.

    `kind` is "directional", "point" or "spot"; `colour` is its diffuse colour;
    `position` is in metres and `direction` a vector, both in the world frame;
    `attenuation` is (constant, linear, quadratic); `cone_angle` is a spot's half angle in
    degrees.
    """

    kind: str
    colour: Colour
    intensity: float
    position: tuple[float, float, float]
    direction: tuple[float, float, float]
    attenuation: tuple[float, float, float]
    cone_angle: float
    casts_shadows: bool


@dataclass(frozen=True)
class World:
    """The parts of a world file that the built-in camera needs.

    `geometry` is SDF text with only what Drake renders; `ambient` and `background` are the
    scene's colours.
    """

    path: Path
    name: str
    cameras: tuple[Camera, ...]
    lights: tuple[Light, ...]
    ambient: Colour
    background: Colour
    geometry: str

    def colour_camera(self, name: str = "") -> Camera:
        """Return the colour camera called `name`, or the first one; raises WorldError without one."""
        cameras = [c for c in self.cameras if c.kind in ("camera", "rgbd_camera")]
        for camera in cameras:
            if name in ("", camera.name):
                return camera
        known = ", ".join(f"'{c.name}'" for c in cameras) or "none"
        wanted = f"no colour camera named '{name}'" if name else "no colour camera"
        raise WorldError(
            f"The world file {self.path} has {wanted} (it has: {known}): add a "
            '<sensor type="camera"> to one of its links, or name one of these.'
        )

    def depth_camera(self, colour: Camera) -> Camera | None:
        """Return the depth camera with the same rays as `colour`, or None.

        Raises:
            WorldError: The same link has a depth camera with other rays: its depth would be read
                at the wrong pixels.
        """
        if colour.kind == "rgbd_camera":
            return colour
        for depth in self.cameras:
            if depth.kind == "depth_camera" and depth.link == colour.link:
                if depth.sees_the_same_as(colour):
                    return depth
                raise WorldError(
                    f"In the world file {self.path} the depth camera '{depth.name}' and the "
                    f"camera '{colour.name}' share a link but differ in pose, image size or "
                    "field of view: give both the same."
                )
        return None


def read_world(path: str | Path) -> World:
    """Read the SDF world file at `path`.

    Raises:
        WorldError: The file is missing, is not XML, has no world, or has a camera or light that
            is not supported here; the sentence names the file.
    """
    path = Path(path)
    root, world = _parse(path)
    try:
        return World(
            path=path,
            name=world.get("name", ""),
            cameras=tuple(_cameras(world)),
            lights=tuple(_light(element) for element in world.findall("light")),
            ambient=_colour(world, "scene/ambient", (0.4, 0.4, 0.4)),
            background=_colour(world, "scene/background", (0.7, 0.7, 0.7)),
            geometry=_geometry(root, path),
        )
    except ValueError as error:
        raise WorldError(f"In the world file {path}: {error}") from error


def model_pose(path: str | Path, name: str) -> Pose:
    """Return the pose in the world frame that the world file at `path` gives to the model `name`.

    Raises:
        WorldError: The file cannot be read, or has no such model; the sentence lists the models.
    """
    path = Path(path)
    _, world = _parse(path)
    models = {model.get("name", ""): model for model in world.findall("model")}
    if name not in models:
        raise WorldError(f"The world file {path} has no model '{name}'; it has: {', '.join(models) or 'none'}.")
    try:
        return _pose(models[name])
    except ValueError as error:
        raise WorldError(f"In the world file {path}: {error}") from error


def _parse(path: Path) -> tuple[ElementTree.Element, ElementTree.Element]:
    """Return the file's root and its world."""
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise WorldError(
            f"The world file {path} cannot be read ({error.strerror or error}): check the path."
        ) from error
    except ElementTree.ParseError as error:
        raise WorldError(f"The world file {path} is not well-formed XML ({error}): correct that line.") from error
    world = root.find("world")
    if root.tag != "sdf" or world is None:
        raise WorldError(f"The world file {path} has no <world> inside <sdf>: is it a model file?")
    return root, world


def _cameras(world: ElementTree.Element) -> list[Camera]:
    return [
        _camera(model, link, sensor)
        for model in world.findall("model")
        for link in model.findall("link")
        for sensor in link.findall("sensor")
        if sensor.get("type") in ("camera", "depth_camera", "rgbd_camera")
    ]


def _camera(model: ElementTree.Element, link: ElementTree.Element, sensor: ElementTree.Element) -> Camera:
    name = sensor.get("name", "")
    element = sensor.find("camera")
    if element is None:
        raise ValueError(f"the sensor '{name}' has no <camera> element; add one.")
    world_from_sensor = _pose(model) @ _pose(link) @ _pose(sensor) @ _pose(element)
    width = int(_number(element, "image/width", 320))
    height = int(_number(element, "image/height", 240))
    field_of_view = _number(element, "horizontal_fov", 1.047)
    near, far = _number(element, "clip/near", 0.1), _number(element, "clip/far", 100.0)
    if width < 1 or height < 1 or not 0 < field_of_view < math.pi or not 0 < near < far:
        raise ValueError(
            f"the sensor '{name}' needs a positive image size, a horizontal_fov between 0 and pi "
            "radians, and 0 < near < far."
        )
    if _number(element, "lens/intrinsics/s", 0.0) != 0.0:
        raise ValueError(f"the sensor '{name}' has a skewed lens (s), which cannot be drawn here.")
    focal = width / (2 * math.tan(field_of_view / 2))
    return Camera(
        name=name,
        kind=sensor.get("type", ""),
        link=f"{model.get('name')}::{link.get('name')}",
        topic=(sensor.findtext("topic") or "").strip(),
        frame_id=_frame_id(sensor, element, str(link.get("name"))),
        rate=_number(sensor, "update_rate", 0.0),
        width=width,
        height=height,
        fx=_number(element, "lens/intrinsics/fx", focal),
        fy=_number(element, "lens/intrinsics/fy", focal),
        # The image's centre: with whole numbers at pixel centres, it is half a pixel less than
        # width / 2.
        cx=_number(element, "lens/intrinsics/cx", (width - 1) / 2),
        cy=_number(element, "lens/intrinsics/cy", (height - 1) / 2),
        near=near,
        far=far,
        world_from_optical=world_from_sensor @ from_xyz_rpy((0, 0, 0), OPTICAL_FROM_BODY_RPY),
    )


def _frame_id(sensor: ElementTree.Element, camera: ElementTree.Element, link: str) -> str:
    """Return the frame_id of image headers, from one of Gazebo's three elements, newest release last."""
    for text in (
        camera.findtext("optical_frame_id"),
        sensor.findtext("gz_frame_id"),
        sensor.findtext("frame_id"),
    ):
        if text and text.strip():
            return text.strip()
    return f"{link}_optical_frame"


def _light(element: ElementTree.Element) -> Light:
    name = element.get("name", "")
    kind = element.get("type", "point")
    if kind not in ("directional", "point", "spot"):
        raise ValueError(f"the light '{name}' has the unknown type '{kind}'; use directional, point or spot.")
    pose = _pose(element)
    direction = pose[:3, :3] @ _numbers(element, "direction", (0.0, 0.0, -1.0))
    red, green, blue = _colour(element, "diffuse", (1.0, 1.0, 1.0))
    return Light(
        kind=kind,
        colour=(red, green, blue),
        intensity=_number(element, "intensity", 1.0),
        position=(float(pose[0, 3]), float(pose[1, 3]), float(pose[2, 3])),
        direction=(float(direction[0]), float(direction[1]), float(direction[2])),
        attenuation=(
            _number(element, "attenuation/constant", 1.0),
            _number(element, "attenuation/linear", 0.0),
            _number(element, "attenuation/quadratic", 0.0),
        ),
        cone_angle=math.degrees(_number(element, "spot/outer_angle", math.pi / 4)) / 2,
        casts_shadows=(element.findtext("cast_shadows") or "").strip() in ("1", "true"),
    )


def _geometry(root: ElementTree.Element, path: Path) -> str:
    """Return `root` as SDF text without elements that Drake does not render, meshes as absolute paths."""
    kept = ElementTree.fromstring(ElementTree.tostring(root))
    for parent in kept.iter():
        for child in [c for c in parent if c.tag in _NOT_DRAWN]:
            parent.remove(child)
    for uri in kept.iter("uri"):
        text = (uri.text or "").strip()
        if text and "://" not in text:
            # Drake reads the text from memory, so it cannot resolve relative paths.
            uri.text = (path.parent / text).resolve().as_uri()
    return ElementTree.tostring(kept, encoding="unicode")


def _pose(parent: ElementTree.Element) -> Pose:
    element = parent.find("pose")
    if element is None:
        return np.eye(4)
    if element.get("relative_to") or element.get("degrees") or element.get("rotation_format"):
        raise ValueError(
            f"the <pose> of '{parent.get('name')}' has attributes; where a camera or light hangs, "
            "only plain 'x y z roll pitch yaw' can be read."
        )
    numbers = _numbers(parent, "pose", (0.0,) * 6)
    return from_xyz_rpy(numbers[:3], numbers[3:])


def _number(parent: ElementTree.Element, tag: str, default: float) -> float:
    return float(_numbers(parent, tag, (default,))[0])


def _numbers(parent: ElementTree.Element, tag: str, default: tuple[float, ...]) -> tuple[float, ...]:
    text = parent.findtext(tag)
    if text is None or not text.strip():
        return default
    try:
        numbers = tuple(float(word) for word in text.split())
    except ValueError:
        numbers = ()
    if len(numbers) != len(default) or not all(math.isfinite(n) for n in numbers):
        raise ValueError(f"<{tag}> of '{parent.get('name')}' should be {len(default)} numbers, not '{text}'.")
    return numbers


def _colour(parent: ElementTree.Element, tag: str, default: Colour) -> Colour:
    text = parent.findtext(tag)
    if text is None or not text.strip():
        return default
    # SDF colours have three numbers, or four with an opacity, which is ignored.
    has_opacity = len(text.split()) == 4
    numbers = _numbers(parent, tag, (*default, 1.0) if has_opacity else default)
    return numbers[0], numbers[1], numbers[2]
