"""Random tabletop scenes, as plain data: what stands where, the light and the camera.

World frame: z up, the supporting plane is z = 0, the camera stands above the origin and looks
along +x. Camera frame: x right, y down, z forward (ROS optical frame). Metres and radians.
The same (split, index) always gives the same scene.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

SHAPES = ("box", "ball", "cylinder")
COLOURS = ("red", "green", "blue", "yellow", "orange", "purple", "white", "black")
MAX_OBJECTS = 6

Split = Literal["train", "heldout"]
Array = NDArray[np.float64]

# Hue (degrees), saturation and value ranges; the gaps between neighbours keep names unambiguous.
_HSV = {
    "red": ((-9, 5), (0.8, 1.0), (0.55, 1.0)),
    "green": ((95, 150), (0.6, 1.0), (0.35, 0.95)),
    "blue": ((212, 245), (0.65, 1.0), (0.5, 1.0)),
    "yellow": ((51, 60), (0.75, 1.0), (0.75, 1.0)),
    "orange": ((20, 35), (0.8, 1.0), (0.8, 1.0)),
    "purple": ((268, 295), (0.5, 0.9), (0.45, 0.9)),
    "white": ((0, 360), (0.0, 0.05), (0.85, 1.0)),
    "black": ((0, 360), (0.0, 0.3), (0.01, 0.09)),
}


@dataclass(frozen=True)
class Thing:
    """An object that questions are about, or a plain slab (floor, table, wall, rug, poster)."""

    colour: str
    shape: str
    size: tuple[float, float, float]  # box: x, y, z; ball: diameter thrice; cylinder: d, d, length
    position: tuple[float, float, float]
    yaw: float
    lying: bool  # a cylinder on its side
    rgb: tuple[float, float, float]
    texture: int | None = None  # number of a procedural texture


@dataclass(frozen=True)
class Light:
    """In Drake's terms (LightParameter); positions and directions in the light's frame."""

    kind: Literal["directional", "point", "spot"]
    frame: Literal["camera", "world"]
    rgb: tuple[float, float, float]
    intensity: float
    position: tuple[float, float, float]
    direction: tuple[float, float, float]
    cone_angle: float  # degrees


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with square pixels and its centre in the middle."""

    width: int
    height: int
    fov_y: float
    rotation: tuple[tuple[float, float, float], ...]  # camera axes in the world, row-major
    position: tuple[float, float, float]

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.height / 2 / float(np.tan(self.fov_y / 2))

    def project(self, points: Array) -> Array:
        """World points [N, 3] -> pixels [N, 2]."""
        local = (points - np.array(self.position)) @ np.array(self.rotation)
        centre = np.array([self.width / 2, self.height / 2])
        return local[:, :2] / local[:, 2:] * self.focal + centre


@dataclass(frozen=True)
class Scene:
    """Everything that the renderer needs to know."""

    objects: tuple[Thing, ...]
    slabs: tuple[Thing, ...]
    lights: tuple[Light, ...]
    ambient: float  # light from everywhere, as a share of full brightness
    shadows: bool
    background: tuple[float, float, float]
    camera: Camera


def sample_scene(split: Split, index: int, size: tuple[int, int]) -> Scene:
    """Scene number `index` of a split for a camera of `size` = (width, height) pixels."""
    attempt = 0
    while True:
        rng = np.random.default_rng([0 if split == "train" else 1, index, attempt])
        camera = sample_camera(rng, size)
        objects = sample_objects(rng, camera, count=1 + index % MAX_OBJECTS)
        if objects is not None:
            return furnish(rng, camera, objects, objects, split)
        attempt += 1


def furnish(
    rng: np.random.Generator,
    camera: Camera,
    objects: tuple[Thing, ...],
    standing: tuple[Thing, ...],
    split: Split,
) -> Scene:
    """What `objects` stand on, and the light. A table has room for all of `standing`."""
    shadows = bool(rng.random() < 0.65)
    slabs = _slabs(rng, standing, shadows, textures=0 if split == "train" else 10_000)
    background = _surface_rgb(rng, saturation=0.6)
    lights, ambient = _lights(rng)
    return Scene(objects, slabs, lights, ambient, shadows, background, camera)


def hull_points(thing: Thing) -> Array:
    """World points whose convex hull is the object's outline, [N, 3]."""
    half = np.array(thing.size) / 2
    if thing.shape == "box":
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
        local = signs * half
    elif thing.shape == "ball":
        turn, tilt = np.meshgrid(np.linspace(0, 2 * np.pi, 24), np.linspace(0, np.pi, 13))
        local = half * np.stack([np.cos(turn) * np.sin(tilt), np.sin(turn) * np.sin(tilt), np.cos(tilt)], -1).reshape(
            -1, 3
        )
    else:
        turn = np.linspace(0, 2 * np.pi, 32)
        ring = np.stack([np.cos(turn), np.sin(turn), np.ones_like(turn)], -1)
        local = np.concatenate([ring, ring * [1, 1, -1]]) * half
    return local @ orientation(thing).T + np.array(thing.position)


def orientation(thing: Thing) -> Array:
    """Rotation matrix of an object in the world."""
    c, s = np.cos(thing.yaw), np.sin(thing.yaw)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    on_its_side = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    return turn @ on_its_side if thing.lying else turn


def sample_camera(rng: np.random.Generator, size: tuple[int, int]) -> Camera:
    """A camera above the origin, of `size` = (width, height) pixels."""
    height = rng.uniform(0.4, 2.0)
    look_at = np.exp(rng.uniform(np.log(0.8), np.log(4.5)))
    pitch = np.clip(np.arctan2(height, look_at) + rng.normal(0, 0.08), 0.1, 1.25)
    roll = rng.normal(0, 0.03)
    forward = np.array([np.cos(pitch), 0.0, -np.sin(pitch)])
    right = np.array([0.0, -1.0, 0.0])
    down = np.cross(forward, right)
    x = np.cos(roll) * right + np.sin(roll) * down
    y = np.cross(forward, x)
    # The longer side sees 50 to 85 degrees.
    fov_long = np.deg2rad(rng.uniform(50, 85))
    fov_y = 2 * np.arctan(np.tan(fov_long / 2) * size[1] / max(size))
    rotation = tuple((float(a), float(b), float(c)) for a, b, c in np.stack([x, y, forward], 1))
    return Camera(*size, float(fov_y), rotation, (0.0, 0.0, float(height)))


def sample_objects(rng: np.random.Generator, camera: Camera, count: int) -> tuple[Thing, ...] | None:
    """Objects at random pixels of the image; None where they do not fit."""
    placed: list[Thing] = []
    rotation, eye = np.array(camera.rotation), np.array(camera.position)
    for _ in range(80):
        pixel = rng.uniform(0.04, 0.96, 2) * [camera.width, camera.height]
        ray = rotation @ np.append((pixel - [camera.width / 2, camera.height / 2]) / camera.focal, 1)
        if ray[2] > -0.02:
            continue
        spot = eye - ray * eye[2] / ray[2]
        distance = float(np.linalg.norm(spot - eye))
        if not 0.5 < distance < 3.8:
            continue
        # The radius in the image, 2.3 % to 13 % of its longer side.
        seen = np.exp(rng.uniform(np.log(0.023), np.log(0.13))) * max(camera.width, camera.height)
        radius = seen * distance / camera.focal
        if not 0.03 <= radius <= 0.2:
            continue
        thing = _thing(rng, radius, spot)
        if not has_room(thing, placed):
            continue
        placed.append(thing)
        if len(placed) == count:
            return tuple(placed)
    return None


def has_room(thing: Thing, others: Sequence[Thing]) -> bool:
    """Whether it stands at least a centimetre from each of the others."""

    def reach(one: Thing) -> float:
        return float(np.hypot(one.size[0], max(one.size[1], one.size[2] * one.lying))) / 2

    x, y = thing.position[:2]
    return all(np.hypot(t.position[0] - x, t.position[1] - y) - reach(t) - reach(thing) >= 0.01 for t in others)


def _thing(rng: np.random.Generator, radius: float, spot: Array) -> Thing:
    shape = SHAPES[rng.integers(len(SHAPES))]
    colour = COLOURS[rng.integers(len(COLOURS))]
    lying = False
    if shape == "ball":
        size = (2 * radius,) * 3
    elif shape == "box":
        a, b = 2 * radius * rng.uniform(0.75, 1.0, 2)
        size = (a, b, 2 * radius * rng.uniform(0.5, 1.25))
    else:
        diameter = 2 * radius * rng.uniform(0.55, 1.0)
        size = (diameter, diameter, diameter * rng.uniform(0.6, 2.0))
        lying = bool(rng.random() < 0.08)
    rise = size[0] / 2 if lying else size[2] / 2
    position = (float(spot[0]), float(spot[1]), float(rise))
    size = (float(size[0]), float(size[1]), float(size[2]))
    return Thing(colour, shape, size, position, float(rng.uniform(0, 6.28)), lying, _rgb(rng, colour))


def _rgb(rng: np.random.Generator, colour: str) -> tuple[float, float, float]:
    hue, saturation, value = (float(rng.uniform(*limits)) for limits in _HSV[colour])
    return colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)


def _surface_rgb(rng: np.random.Generator, saturation: float) -> tuple[float, float, float]:
    """A floor, wall or sky colour: mostly greyish, so that it is no object's colour."""
    limit = saturation * rng.random() ** 1.5
    return colorsys.hsv_to_rgb(rng.random(), limit, float(rng.uniform(0.15, 1.0)))


def _slabs(rng: np.random.Generator, objects: tuple[Thing, ...], shadows: bool, textures: int) -> tuple[Thing, ...]:
    """The floor or a table over a floor, and sometimes walls."""

    def slab(size: tuple[float, float, float], position: tuple[float, float, float]) -> Thing:
        textured = rng.random() < 0.6
        texture = textures + int(rng.integers(200)) if textured else None
        rgb = (1.0, 1.0, 1.0) if textured else _surface_rgb(rng, 0.35)  # it multiplies the texture
        return Thing("", "slab", size, position, 0.0, False, rgb, texture)

    def patch(size: tuple[float, ...], position: tuple[float, ...]) -> Thing:
        """A rug or a poster, of any colour: what is flat is no object."""
        x, y, z = (float(v) for v in size)
        i, j, k = (float(v) for v in position)
        return Thing("", "slab", (x, y, z), (i, j, k), 0.0, False, _surface_rgb(rng, 0.9))

    slabs = []
    # A shadow map covers the whole scene: a huge floor would make shadows coarse.
    reach = float(rng.uniform(9, 14) if shadows else rng.uniform(12, 60))
    wall = float(rng.uniform(4.5, 7))
    floor_z = 0.0
    if rng.random() < 0.3:
        far = max(t.position[0] for t in objects) + 0.3
        wide = max(abs(t.position[1]) for t in objects) + 0.3
        near = min(t.position[0] for t in objects) - float(rng.uniform(0.2, 0.8))
        far, wide = far + float(rng.uniform(0, 0.8)), wide + float(rng.uniform(0, 0.8))
        slabs.append(slab((far - near, 2 * wide, 0.04), ((near + far) / 2, 0.0, -0.02)))
        floor_z = -float(rng.uniform(0.4, 0.8))
    slabs.append(slab((reach, reach, 0.02), (reach / 3, 0.0, floor_z - 0.01)))
    if rng.random() < 0.35:
        slabs.append(slab((0.1, 2 * reach, 8.0), (wall, 0.0, 4.0 + floor_z)))
        if rng.random() < 0.4:
            side = float(rng.choice([-1, 1]) * rng.uniform(3, 5))
            slabs.append(slab((2 * reach, 0.1, 8.0), (0.0, side, 4.0 + floor_z)))
        if rng.random() < 0.5:
            slabs.append(
                patch((0.02, *rng.uniform(0.3, 1.2, 2)), (wall - 0.06, rng.uniform(-2, 2), rng.uniform(0.3, 2)))
            )
    if rng.random() < 0.25:
        around = objects[rng.integers(len(objects))].position
        place = rng.normal(around[:2], 0.4)
        slabs.append(patch((*rng.uniform(0.1, 0.8, 2), 0.004), (place[0], place[1], 0.0)))
    return tuple(slabs)


def _lights(rng: np.random.Generator) -> tuple[tuple[Light, ...], float]:
    """The lights, and the ambient light."""

    def tint() -> tuple[float, float, float]:
        warm = rng.normal(0, 0.07)
        return (float(np.clip(1 + warm, 0.7, 1)), 1.0, float(np.clip(1 - warm, 0.7, 1)))

    def light(kind: Literal["directional", "point", "spot"], intensity: float, lowest: float = 30) -> Light:
        turn, tilt = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(lowest, 88))
        away = np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)])
        at = away * rng.uniform(2.5, 5) + [1.7, 0, 0]
        aim = (float(-away[0]), float(-away[1]), float(-away[2]))
        place = (float(at[0]), float(at[1]), float(at[2]))
        return Light(kind, "world", tint(), intensity, place, aim, float(rng.uniform(35, 70)))

    def at_the_camera(intensity: float) -> Light:
        return Light("directional", "camera", tint(), intensity, (0, 0, 0), (0, 0, 1), 0)

    kind = rng.random()
    # As most simulators light their worlds: one sun from above, and the same light from everywhere.
    if kind < 0.5:
        lights = [light("directional", float(rng.uniform(0.3, 0.8)), lowest=40)]
        if rng.random() < 0.2:
            lights.append(at_the_camera(float(rng.uniform(0.05, 0.2))))
        return tuple(lights), float(rng.uniform(0.2, 0.6))
    # As a flash or a window lights a room.
    if kind < 0.55:
        return (at_the_camera(float(rng.uniform(0.8, 1.1))),), 0.0
    lights = [at_the_camera(float(rng.uniform(0.35, 0.75)))]
    if kind < 0.8:
        lights.append(light("directional", float(rng.uniform(0.4, 1.0))))
    elif kind < 0.87:
        lights += [light("directional", float(rng.uniform(0.25, 0.55))) for _ in range(2)]
    else:
        lights.append(light("point" if rng.random() < 0.5 else "spot", float(rng.uniform(0.5, 1.2))))
    return tuple(lights), 0.0
