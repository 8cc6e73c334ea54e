"""Scenes to pictures with Drake's VTK renderer, headless: colour and which object is where.

python -m training.render OUT --first 0 --count 4000      # one process; start one per core
"""

import argparse
from dataclasses import dataclass
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
    RenderEngineVtkParams,
    RenderLabel,
    Rgba,
    Sphere,
)
from pydrake.math import RigidTransform, RotationMatrix
from pydrake.systems.sensors import CameraInfo, ImageLabel16I, ImageRgba8U

from training.scenes import Scene, Split, Thing, hull_points, orientation, sample_scene
from training.textures import texture_file

# What a camera's picture becomes before the model sees it (64 tokens at most): the camera's
# size in pixels when rendering, then the size the model sees.
FORMATS = (
    ((512, 512), (256, 256)),  # 448x448 cameras
    ((576, 432), (288, 224)),  # 640x480 cameras
    ((576, 432), (256, 192)),  # 640x480 cameras, fitted more tightly
    ((640, 360), (320, 192)),  # 1280x720 cameras
)
MIN_VISIBLE = 0.3  # share of an object's outline that must be seen
MIN_AREA = 0.0007  # share of the picture that an object must cover
MIN_CONTRAST = 12  # grey levels of 255 between an object and what is around it
LABEL_STEP = 4  # label images are kept at a quarter of the picture's resolution
_SURROUNDINGS = 100


@dataclass(frozen=True)
class Picture:
    """A scene as its camera sees it."""

    scene: Scene
    colour: NDArray[np.uint8]  # RGB [H, W, 3]
    labels: NDArray[np.uint8]  # [H, W]: 0 surroundings, k the scene's k-th object, from 1


def take_picture(split: Split, index: int, size: tuple[int, int], textures: Path) -> Picture:
    """The first scene from `index` on (in steps of a million) whose objects are all visible."""
    while True:
        picture = render(sample_scene(split, index, size), textures)
        if all(_visible(picture, k) for k in range(len(picture.scene.objects))):
            return picture
        index += 1_000_000


def render(scene: Scene, textures: Path) -> Picture:
    """The picture and its labels at the camera's own size. `textures` is a folder to keep texture files in."""
    params = RenderEngineVtkParams()
    params.default_clear_color = list(scene.background)
    params.cast_shadows = scene.shadows
    params.shadow_map_size = 1024
    params.lights = [
        LightParameter(
            type=light.kind,
            color=Rgba(*light.rgb, 1),
            attenuation_values=[1.0, 0.0, 0.0],
            position=list(light.position),
            frame=light.frame,
            intensity=light.intensity,
            direction=list(light.direction),
            cone_angle=light.cone_angle,
        )
        for light in scene.lights
    ]
    engine = MakeRenderEngineVtk(params)
    things = [*scene.objects, *scene.slabs]
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
    camera = scene.camera
    width, height = camera.width, camera.height
    core = RenderCameraCore("vtk", CameraInfo(width, height, camera.fov_y), ClippingRange(0.05, 100), RigidTransform())
    engine.UpdateViewpoint(RigidTransform(RotationMatrix(np.array(camera.rotation)), camera.position))
    colour, labels = ImageRgba8U(width, height), ImageLabel16I(width, height)
    engine.RenderLabelImage(ColorRenderCamera(core), labels)
    engine.RenderColorImage(ColorRenderCamera(core), colour)
    ids = labels.data[..., 0].copy()
    ids[(ids < 1) | (ids > len(scene.objects))] = 0
    return Picture(scene, colour.data[..., :3].copy(), ids.astype(np.uint8))


def fit(picture: Picture, size: tuple[int, int]) -> Picture:
    """Resized as the engine resizes camera images (Pillow, bicubic), labels at a coarser step."""
    colour = Image.fromarray(picture.colour).resize(size, Image.Resampling.BICUBIC)
    small = (size[0] // LABEL_STEP, size[1] // LABEL_STEP)
    labels = cv2.resize(picture.labels, small, interpolation=cv2.INTER_NEAREST)
    return Picture(picture.scene, np.asarray(colour), labels.astype(np.uint8))


def _shape(thing: Thing) -> Box | Sphere | Cylinder:
    if thing.shape == "ball":
        return Sphere(thing.size[0] / 2)
    if thing.shape == "cylinder":
        return Cylinder(thing.size[0] / 2, thing.size[2])
    return Box(*thing.size)


def _visible(picture: Picture, k: int) -> bool:
    camera = picture.scene.camera
    outline = cv2.convexHull(camera.project(hull_points(picture.scene.objects[k])).astype(np.float32))
    seen = int((picture.labels == k + 1).sum())
    least = MIN_AREA * camera.width * camera.height
    if seen < max(least, MIN_VISIBLE * cv2.contourArea(outline)):
        return False
    # Black on black, or anything in the dark: nobody could tell.
    mask = (picture.labels == k + 1).astype(np.uint8)
    ring = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - mask
    inside, around = (cv2.mean(picture.colour, m)[:3] for m in (mask, ring))
    return max(abs(a - b) for a, b in zip(inside, around, strict=True)) >= MIN_CONTRAST


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--shard", type=int, default=500, help="pictures in a file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for first in range(args.first, args.first + args.count, args.shard):
        camera, size = FORMATS[first // args.shard % len(FORMATS)]
        indices = range(first, min(first + args.shard, args.first + args.count))
        pictures = [fit(take_picture("train", i, camera, args.out / "textures"), size) for i in indices]
        path = args.out / f"{size[0]}x{size[1]}-{first:06d}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                colour=np.stack([p.colour for p in pictures]),
                labels=np.stack([p.labels for p in pictures]),
                objects=np.array([";".join(f"{o.colour} {o.shape}" for o in p.scene.objects) for p in pictures]),
            )
        partial.rename(path)
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
