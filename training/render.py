"""Scenes to images with Drake's VTK renderer, headless: colour and which object is where.

python -m training.render OUT --first 0 --count 4000      # one process; start one per core
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydrake.geometry import (
    Box,
    ClippingRange,
    ColorRenderCamera,
    Cylinder,
    GeometryId,
    LightParameter,
    MakeRenderEngineVtk,
    PerceptionProperties,
    RenderCameraCore,
    RenderEngine,
    RenderEngineVtkParams,
    RenderLabel,
    Rgba,
    Sphere,
)
from pydrake.math import RigidTransform, RotationMatrix
from pydrake.systems.sensors import CameraInfo, ImageLabel16I, ImageRgba8U

from training.scenes import MAX_OBJECTS, Light, Scene, Split, Thing, hull_points, orientation, sample_scene
from training.textures import texture_file

# What a camera's image becomes before the model sees it (144 tokens at most): the camera's
# size in pixels when rendering, then the size the model sees.
FORMATS = (
    ((512, 512), (384, 384)),  # square cameras
    ((576, 432), (448, 320)),  # 640x480 cameras
    ((640, 360), (512, 288)),  # 1280x720 cameras
    ((576, 432), (352, 288)),  # 640x480 cameras, fitted more tightly
)
MIN_VISIBLE = 0.3  # share of an object's outline that must be seen
MIN_AREA = 0.0007  # share of the image that an object must cover
MIN_CONTRAST = 12  # grey levels of 255 between an object and what is around it
LABEL_STEP = 4  # label images are kept at a quarter of the image's resolution
_SURROUNDINGS = 100


@dataclass(frozen=True)
class Rendering:
    """A scene as its camera sees it."""

    scene: Scene
    colour: NDArray[np.uint8]  # RGB [H, W, 3]
    labels: NDArray[np.uint8]  # [H, W]: 0 surroundings, k the scene's k-th object, from 1

    def boxes(self) -> NDArray[np.float32]:
        """What is visible of each object: left, top, right, bottom as shares of the image, [objects, 4]."""
        height, width = self.labels.shape
        boxes = np.zeros((len(self.scene.objects), 4), np.float32)
        for k in range(len(boxes)):
            rows, columns = np.nonzero(self.labels == k + 1)
            boxes[k] = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        return boxes / np.array([width, height, width, height], np.float32)

    def distances(self) -> NDArray[np.float32]:
        """From the camera to each object's centre, metres, [objects]."""
        centres = np.array([thing.position for thing in self.scene.objects]).reshape(-1, 3)
        return np.linalg.norm(centres - self.scene.camera.position, axis=1).astype(np.float32)


def take_image(split: Split, index: int, size: tuple[int, int], textures: Path, *, empty: bool = False) -> Rendering:
    """The first scene from `index` on (in steps of a million) whose objects are all visible; `empty`: without them."""
    while True:
        scene = sample_scene(split, index, size)
        image = render(replace(scene, objects=()) if empty else scene, textures)
        if all(is_visible(image, k) for k in range(len(image.scene.objects))):
            return image
        index += 1_000_000


def render(scene: Scene, textures: Path) -> Rendering:
    """The image and its labels at the camera's own size. `textures` is a folder to keep texture files in."""
    things = [*scene.objects, *scene.slabs]
    camera = scene.camera
    core = ColorRenderCamera(
        RenderCameraCore(
            "vtk", CameraInfo(camera.width, camera.height, camera.fov_y), ClippingRange(0.05, 100), RigidTransform()
        )
    )
    engine = _engine(scene, things, [_parameter(light) for light in scene.lights], scene.shadows, textures)
    found, lit = ImageLabel16I(camera.width, camera.height), ImageRgba8U(camera.width, camera.height)
    engine.RenderLabelImage(core, found)
    engine.RenderColorImage(core, lit)
    labels, colour = found.data[..., 0].copy(), lit.data[..., :3].astype(np.float32)
    if scene.ambient:
        # This renderer has no ambient light: what everything looks like without any shading is added.
        plain = ImageRgba8U(camera.width, camera.height)
        _engine(scene, list(scene.slabs), _EVENLY, False, textures).RenderColorImage(core, plain)
        unshaded = plain.data[..., :3].astype(np.float32)
        for number, thing in enumerate(scene.objects, start=1):
            unshaded[labels == number] = np.array(thing.rgb) * 255
        there = (labels >= 1) & (labels <= _SURROUNDINGS)  # not the sky
        colour[there] += scene.ambient * unshaded[there]
    labels[(labels < 1) | (labels > len(scene.objects))] = 0
    return Rendering(scene, colour.clip(0, 255).round().astype(np.uint8), labels.astype(np.uint8))


def _engine(
    scene: Scene, things: list[Thing], lights: list[LightParameter], shadows: bool, textures: Path
) -> RenderEngine:
    """A renderer at the scene's camera. Objects are labelled by their number from 1, all else _SURROUNDINGS."""
    params = RenderEngineVtkParams()
    params.default_clear_color = list(scene.background)
    params.cast_shadows = shadows
    params.shadow_map_size = 1024
    params.lights = lights
    engine = MakeRenderEngineVtk(params)
    for number, thing in enumerate(things, start=1):
        properties = PerceptionProperties()
        properties.AddProperty("phong", "diffuse", Rgba(*thing.rgb, 1))
        if thing.texture is not None:
            path = texture_file(textures, thing.texture)
            properties.AddProperty("phong", "diffuse_map", str(path))
        label = number if thing.shape != "slab" else _SURROUNDINGS
        properties.AddProperty("label", "id", RenderLabel(label))
        pose = RigidTransform(RotationMatrix(orientation(thing)), thing.position)
        engine.RegisterVisual(GeometryId.get_new_id(), _shape(thing), properties, pose, False)
    pose = RigidTransform(RotationMatrix(np.array(scene.camera.rotation)), scene.camera.position)
    engine.UpdateViewpoint(pose)
    return engine


def _parameter(light: Light) -> LightParameter:
    return LightParameter(
        type=light.kind,
        color=Rgba(*light.rgb, 1),
        attenuation_values=[1.0, 0.0, 0.0],
        position=list(light.position),
        frame=light.frame,
        intensity=light.intensity,
        direction=list(light.direction),
        cone_angle=light.cone_angle,
    )


# Every face of a slab that a camera can see is lit at a right angle by one of these, and by no other.
_EVENLY = [
    LightParameter(type="directional", attenuation_values=[1.0, 0.0, 0.0], frame="world", direction=list(direction))
    for direction in ((0, 0, -1), (1, 0, 0), (0, 1, 0), (0, -1, 0))
]


def fit(image: Rendering, size: tuple[int, int]) -> Rendering:
    """Resized as the engine resizes camera images (Pillow, bicubic), labels at a coarser step."""
    colour = Image.fromarray(image.colour).resize(size, Image.Resampling.BICUBIC)
    small = (size[0] // LABEL_STEP, size[1] // LABEL_STEP)
    labels = cv2.resize(image.labels, small, interpolation=cv2.INTER_NEAREST)
    return Rendering(image.scene, np.asarray(colour), labels.astype(np.uint8))


def _shape(thing: Thing) -> Box | Sphere | Cylinder:
    if thing.shape == "ball":
        return Sphere(thing.size[0] / 2)
    if thing.shape == "cylinder":
        return Cylinder(thing.size[0] / 2, thing.size[2])
    return Box(*thing.size)


def is_visible(image: Rendering, k: int) -> bool:
    """Whether enough of the scene's object number `k`, from 0, is to be seen."""
    camera = image.scene.camera
    outline = cv2.convexHull(camera.project(hull_points(image.scene.objects[k])).astype(np.float32))
    seen = int((image.labels == k + 1).sum())
    least = MIN_AREA * camera.width * camera.height
    if seen < max(least, MIN_VISIBLE * cv2.contourArea(outline)):
        return False
    # Black on black, or anything in the dark: nobody could tell.
    mask = (image.labels == k + 1).astype(np.uint8)
    ring = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - mask
    inside, around = (cv2.mean(image.colour, m)[:3] for m in (mask, ring))
    return max(abs(a - b) for a, b in zip(inside, around, strict=True)) >= MIN_CONTRAST


def _rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Padded with zeros to one row for each of MAX_OBJECTS."""
    return np.concatenate([values, np.zeros((MAX_OBJECTS - len(values), *values.shape[1:]), np.float32)])


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--empty", action="store_true", help="the same tables and floors with nothing on them")
    parser.add_argument("--shard", type=int, default=500, help="images in a file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for first in range(args.first, args.first + args.count, args.shard):
        camera, size = FORMATS[first // args.shard % len(FORMATS)]
        indices = range(first, min(first + args.shard, args.first + args.count))
        seen = [take_image("train", i, camera, args.out / "textures", empty=args.empty) for i in indices]
        images = [fit(image, size) for image in seen]
        path = args.out / f"{size[0]}x{size[1]}-{'empty-' * args.empty}{first:06d}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                colour=np.stack([p.colour for p in images]),
                labels=np.stack([p.labels for p in images]),
                objects=np.array([";".join(f"{o.colour} {o.shape}" for o in p.scene.objects) for p in images]),
                boxes=np.stack([_rows(p.boxes()) for p in seen]),
                distances=np.stack([_rows(p.distances()) for p in seen]),
            )
        partial.rename(path)
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
