"""Event scenes to images, one of each state: the beginning, one object gone, moved aside, halfway, moved in depth.

python -m training.render_events OUT --first 0 --count 1000      # one process; start one per core
"""

import argparse
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.clips import SeenEvent
from training.dataset import Seen
from training.events import BEGINNING, STATES, EventScene, happening, sample_event_scene
from training.render import Rendering, is_visible, render
from training.scenes import MAX_OBJECTS, Split

# A camera's size when rendering, and what its frames become in a clip (112 tokens at most).
CLIP_FORMATS = (
    ((512, 384), (384, 288)),  # 640x480 cameras
    ((560, 320), (448, 256)),  # 1280x720 cameras
    ((416, 416), (320, 320)),  # square cameras
)


@dataclass(frozen=True)
class EventImages:
    """A scene in all its states; those that it does not have are None."""

    scene: EventScene
    images: tuple[Rendering | None, ...]  # [STATES]


def take_event(
    split: Split, index: int, size: tuple[int, int], textures: Path, states: Container[int] = range(STATES)
) -> EventImages:
    """The first event scene from `index` on (in steps of a million) whose objects are all visible in the beginning.

    Of the others only those `states` are rendered; one in which they are not all visible is left out.
    """
    while True:
        scene = sample_event_scene(split, index, size)
        images: list[Rendering | None] = []
        for state in range(STATES):
            there = state == BEGINNING or (state in states and scene.number[state] >= 0)
            image = render(scene.state(state), textures) if there else None
            if image and not all(is_visible(image, k) for k in range(len(image.scene.objects))):
                image = None
            if image is None and state == BEGINNING:
                break
            images.append(image)
        if images:
            return EventImages(scene, tuple(images))
        index += 1_000_000


def seen(event: EventImages) -> SeenEvent:
    """What its camera saw."""
    first = event.images[BEGINNING]
    assert first is not None
    places = zip(first.scene.objects, first.boxes().tolist(), first.distances().tolist(), strict=True)
    objects = [Seen(o.colour, o.shape, tuple(box), away) for o, box, away in places]
    said = tuple(happening(event.scene, s) if image else "" for s, image in enumerate(event.images))
    return SeenEvent(objects, said, event.scene.number)


def fitted(image: Rendering | None, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resized as the engine resizes frames; black for a state that there is not."""
    if image is None:
        return np.zeros((size[1], size[0], 3), np.uint8)
    return np.asarray(Image.fromarray(image.colour).resize(size, Image.Resampling.BICUBIC))


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--shard", type=int, default=30, help="event scenes in a file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for first in range(args.first, args.first + args.count, args.shard):
        camera, size = CLIP_FORMATS[first // args.shard % len(CLIP_FORMATS)]
        taken = [take_event("train", i, camera, args.out / "textures") for i in range(first, first + args.shard)]
        boxes = np.zeros((len(taken), STATES, MAX_OBJECTS, 4), np.float32)
        distances = np.zeros((len(taken), STATES, MAX_OBJECTS), np.float32)
        for row, event in enumerate(taken):
            for state, image in enumerate(event.images):
                if image is not None:
                    count = len(image.scene.objects)
                    boxes[row, state, :count] = image.boxes()
                    distances[row, state, :count] = image.distances()
        path = args.out / f"{size[0]}x{size[1]}-{first:06d}.npz"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                colour=np.stack([[fitted(image, size) for image in event.images] for event in taken]),
                objects=np.array([";".join(f"{o.colour} {o.shape}" for o in e.scene.scene.objects) for e in taken]),
                number=np.array([e.scene.number for e in taken]),
                there=np.array([[image is not None for image in e.images] for e in taken]),
                happening=np.array([seen(event).happening for event in taken]),
                boxes=boxes,
                distances=distances,
            )
        partial.rename(path)
        print(path.name, flush=True)


if __name__ == "__main__":
    main()
