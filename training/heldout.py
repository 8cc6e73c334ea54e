"""Images that training never saw, with questions, and how good an answer to one is."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.grounding import GroundingError, parse_regions
from qwen3vl_ros.vision.region import Box
from training.dataset import Seen
from training.questions import KINDS, Question, ask, ask_in_vain, scene_objects
from training.wordings import ABSENT, LANGUAGES, NUMBERS

ABSENT_ANSWERS = tuple(text for texts in ABSENT.values() for text in texts.values())
# width, height in pixels
CAMERAS = ((640, 480), (1280, 720), (448, 448))


@dataclass(frozen=True)
class Item:
    """A camera's image, uint8 RGB [H, W, 3], and what is asked about it."""

    image: NDArray[np.uint8]
    questions: tuple[Question, ...]


def heldout_scenes(count: int, textures: Path, first: int = 0, *, history: bool = False) -> Iterator[Item]:
    """Scenes of the held-out split as cameras would see them; the same ones every time.

    Needs Drake. One question of each kind that the scene allows, each in one of the two languages; with `history` the
    same ones, each after one to three others.
    """
    from training.render import take_image

    for index in range(first, first + count):
        image = take_image("heldout", index, CAMERAS[index // 6 % len(CAMERAS)], textures)
        places = zip(image.scene.objects, image.boxes().tolist(), image.distances().tolist(), strict=True)
        things = [Seen(o.colour, o.shape, tuple(box), distance) for o, box, distance in places]
        rng = np.random.default_rng([5, index])
        asked = [ask(rng, things, kind, LANGUAGES[(index + n) % 2], split="heldout") for n, kind in enumerate(KINDS)]
        questions = [question for question in asked if question]
        if history:
            turns = [(question.text, question.answer) for question in questions]
            for n, question in enumerate(questions):
                others = rng.permutation([k for k in range(len(turns)) if k != n])[: rng.integers(1, 4)]
                questions[n] = replace(question, history=tuple(turns[k] for k in others))
        yield Item(image.colour, tuple(questions))


def photographs(files: Iterable[Path]) -> Iterator[Item]:
    """Images that are no scenes, each with questions about boxes, balls and cylinders and about other things."""
    for number, path in enumerate(files):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        rng = np.random.default_rng([7, number])
        asked = [ask_in_vain(rng, scene_objects(rng), LANGUAGES[n % 2]) for n in range(8)]
        asked += [ask(rng, [], "foreign", language, split="heldout") for language in LANGUAGES]
        yield Item(pixels, tuple(question for question in asked if question))


def gazebo_frames(folder: Path) -> Iterator[Item]:
    """Frames of another renderer, with the questions in their `qa.json`."""
    for entry in json.loads((folder / "qa.json").read_text()):
        image = np.asarray(Image.open(folder / entry["image"]).convert("RGB"))
        yield Item(image, tuple(Question(text, good[0], kind) for text, good, kind in entry["qa"]))


def goodness(question: Question, answer: str, fit: Fit) -> float:
    """From 0 to 1. For boxes their mean IoU with the true ones; else 1 for right and 0 for wrong.

    Boxes are matched with the true ones greedily; one too many or too few has an IoU of 0. A point is right inside the
    true box of its thing, and each thing needs one.
    """
    if question.kind == "absent":
        return float(answer.startswith(tuple(text.split("{")[0].rstrip() for text in ABSENT_ANSWERS)))
    if not question.in_places:
        return float(_said(answer) & _accepted(question.answer) != set() or answer.strip() == question.answer)
    width, height = fit.original_size
    truth = [_scaled(thing.box, width, height) for thing in question.things]
    try:
        regions = parse_regions(answer, [fit]).regions
    except GroundingError:
        return 0.0
    if not truth or not regions:
        return float(not truth and not regions)
    if "bbox" in question.answer:
        return _mean_iou(truth, [r.box for r in regions if r.box])
    points = [r.point for r in regions if r.point]
    inside = [any(x0 <= x <= x1 and y0 <= y <= y1 for x, y in points) for x0, y0, x1, y1 in truth]
    return float(all(inside) and len(points) == len(truth))


def _scaled(box: Box, width: int, height: int) -> Box:
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height


def _mean_iou(truth: list[Box], found: list[Box]) -> float:
    pairs = sorted(((iou(t, f), i, j) for i, t in enumerate(truth) for j, f in enumerate(found)), reverse=True)
    left, right, total = set(range(len(truth))), set(range(len(found))), 0.0
    for value, i, j in pairs:
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            total += value
    return total / max(len(truth), len(found))


def iou(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return shared / (areas - shared)


def _said(answer: str) -> set[str]:
    """The words of an answer."""
    return set(re.findall(r"[a-z0-9]+", answer.lower())) | {answer.strip().rstrip("。.")}


def _accepted(answer: str) -> set[str]:
    """Words that are right where ``answer`` is; none for an answer that only counts as a whole."""
    if not re.fullmatch(r"[a-z]+|[\u4e00-\u9fff]{1,3}", answer):
        return set()
    numbers = {word: str(n) for words in NUMBERS.values() for n, word in enumerate(words)}
    return {answer} | ({numbers[answer]} if answer in numbers else set())
