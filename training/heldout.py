"""Pictures that training never saw, with questions and accepted answers."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.questions import KINDS, NUMBERS, ask

# width, height in pixels
CAMERAS = ((640, 480), (1280, 720), (448, 448))


@dataclass(frozen=True)
class Item:
    """A camera's picture, uint8 RGB [H, W, 3], and what is asked about it."""

    picture: NDArray[np.uint8]
    questions: tuple[tuple[str, tuple[str, ...], str], ...]  # text, accepted answers, kind


def heldout_scenes(count: int, textures: Path) -> Iterator[Item]:
    """Scenes of the held-out split as cameras would see them; the same ones every time.

    Needs Drake. One question of each kind that the scene allows.
    """
    from training.render import take_picture

    for index in range(count):
        picture = take_picture("heldout", index, CAMERAS[index // 5 % len(CAMERAS)], textures)
        objects = [(o.colour, o.shape) for o in picture.scene.objects]
        rng = np.random.default_rng([5, index])
        asked = [question for kind in KINDS if (question := ask(rng, objects, kind))]
        yield Item(picture.colour, tuple((q.text, _accepted(q.answer), q.kind) for q in asked))


def gazebo_frames(folder: Path) -> Iterator[Item]:
    """Frames of another renderer, with the questions in their `qa.json`."""
    for entry in json.loads((folder / "qa.json").read_text()):
        picture = np.asarray(Image.open(folder / entry["image"]).convert("RGB"))
        yield Item(picture, tuple((text, tuple(good), kind) for text, good, kind in entry["qa"]))


def is_right(answer: str, accepted: tuple[str, ...]) -> bool:
    """Whether an accepted answer is among the words of the answer."""
    words = re.findall(r"[a-z0-9]+", answer.lower())
    return any(good in words for good in accepted)


def _accepted(answer: str) -> tuple[str, ...]:
    return (answer, str(NUMBERS.index(answer))) if answer in NUMBERS else (answer,)
