"""Rendered images from disk to training batches: augmentation, and where each object is."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.render import LABEL_STEP
from training.scenes import COLOURS, MAX_OBJECTS, SHAPES

LABELS = MAX_OBJECTS + 1  # 0 is the surroundings
_MIDDLE = (0.5, 0.5, 0.5, 0.5)
LEAST_PART = 0.72  # of an image's sides, when it is cut


@dataclass(frozen=True)
class Seen:
    """An object in an image."""

    colour: str
    shape: str
    box: tuple[float, float, float, float]  # what is visible: left, top, right, bottom as shares of the image
    distance: float  # metres from the camera


@dataclass(frozen=True)
class Batch:
    """Images of one size with what is in them."""

    images: Tensor  # float [B, 3, H, W], 0..1
    labels: Tensor  # long [B, H / 4, W / 4]: 0 surroundings, k the k-th object, from 1
    objects: list[list[Seen]]
    colours: Tensor  # long [B, LABELS]: of label k, 0 for none, else 1 + place in COLOURS
    shapes: Tensor  # long [B, LABELS]
    boxes: Tensor  # float [B, LABELS, 4]: as in Seen
    distances: Tensor  # float [B, LABELS]


@dataclass
class _Shard:
    colour: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    objects: list[list[Seen]]


class RenderedImages:
    """Rendered images in memory; processes that share a batch hold a part of them each."""

    def __init__(self, rank: int = 0, processes: int = 1) -> None:
        self._rank, self._processes = rank, processes
        self._shards: dict[str, list[_Shard]] = {}  # by size of the images
        self._known: set[str] = set()

    def add(self, paths: list[Path]) -> None:
        """Load this process's part of those files of `render.py` that are new; `paths` are the same in all of them."""
        new = [path for path in paths if path.name not in self._known]
        self._known.update(path.name for path in new)
        for size in sorted({_size(path) for path in new}):
            mine = [path for path in new if _size(path) == size][self._rank :: self._processes]
            for path in mine:
                with np.load(path) as data:
                    described = zip(data["objects"], data["boxes"], data["distances"], strict=True)
                    objects = [_seen(*row) for row in described]
                    self._shards.setdefault(size, []).append(_Shard(data["colour"], data["labels"], objects))

    def batch(self, plan_rng: np.random.Generator, rng: np.random.Generator, size: int) -> Batch:
        """`size` random images of one size, which is the same in all processes where `plan_rng` is."""
        files = Counter(_size(Path(name)) for name in sorted(self._known))
        sizes = [name for name in files.elements() if files[name] >= self._processes]
        shards = self._shards[sizes[plan_rng.integers(len(sizes))]]
        chosen = [shards[rng.integers(len(shards))] for _ in range(size)]
        return self._load(rng, [(shard, int(rng.integers(len(shard.objects)))) for shard in chosen])

    def all(self, rng: np.random.Generator, size: int) -> Iterator[Batch]:
        """Every image once, in batches of images of one size."""
        for shards in self._shards.values():
            places = [(shard, i) for shard in shards for i in range(len(shard.objects))]
            for start in range(0, len(places), size):
                yield self._load(rng, places[start : start + size])

    def _load(self, rng: np.random.Generator, chosen: list[tuple[_Shard, int]]) -> Batch:
        images = torch.from_numpy(np.stack([s.colour[i] for s, i in chosen]))
        labels = torch.from_numpy(np.stack([s.labels[i] for s, i in chosen])).long()
        flips = rng.random(len(chosen)) < 0.5
        objects = [_flipped(s.objects[i]) if f else s.objects[i] for (s, i), f in zip(chosen, flips, strict=True)]
        flip = torch.from_numpy(flips)
        pixels = images.permute(0, 3, 1, 2).float() / 255
        pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
        labels = torch.where(flip[:, None, None], labels.flip(2), labels)
        pixels, labels, objects = zoom(rng, pixels, labels, objects)
        colours = torch.zeros(len(chosen), LABELS, dtype=torch.long)
        shapes = torch.zeros(len(chosen), LABELS, dtype=torch.long)
        boxes, distances = torch.zeros(len(chosen), LABELS, 4), torch.ones(len(chosen), LABELS)
        for row, things in enumerate(objects):
            for k, thing in enumerate(things, start=1):
                colours[row, k] = 1 + COLOURS.index(thing.colour)
                shapes[row, k] = 1 + SHAPES.index(thing.shape)
                boxes[row, k] = torch.tensor(thing.box)
                distances[row, k] = thing.distance
        return Batch(augment(rng, pixels), labels, objects, colours, shapes, boxes, distances)


@dataclass(frozen=True)
class CellTargets:
    """What lies in each square cell of the image, row by row."""

    label: Tensor  # long [B, cells]: the object that covers most of the cell, 0 for none
    box: Tensor  # float [B, cells, 4]: its left, top, right, bottom from the cell's centre, in cells
    place: Tensor  # float [B, cells, 4]: its left, top, right, bottom as shares of the image
    centres: Tensor  # long [B, cells]: how many objects have their centre here, at most 2


def cell_targets(batch: Batch, cell: int) -> CellTargets:
    """`cell` in pixels; an object must cover 5 % of a cell to be its object."""
    step = cell // LABEL_STEP
    number, height, width = batch.labels.shape
    rows, columns = height // step, width // step
    one_hot = functional.one_hot(batch.labels, LABELS).float()  # [B, h, w, LABELS]
    cover = one_hot.view(number, rows, step, columns, step, LABELS).mean((2, 4))
    best, label = cover[..., 1:].max(-1)
    flat = torch.where(best >= 0.05, label + 1, 0).view(number, -1)
    place = batch.boxes.gather(1, flat[..., None].expand(-1, -1, 4))
    grid_y, grid_x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centre = torch.stack([grid_x, grid_y, grid_x, grid_y], -1).view(1, -1, 4) + 0.5
    box = place * torch.tensor([columns, rows, columns, rows]) - centre

    there = batch.colours[:, 1:] > 0
    middle_x = (batch.boxes[:, 1:, 0] + batch.boxes[:, 1:, 2]) / 2 * columns
    middle_y = (batch.boxes[:, 1:, 1] + batch.boxes[:, 1:, 3]) / 2 * rows
    centres = torch.zeros(number, rows * columns)
    centres.scatter_add_(1, middle_y.long() * columns + middle_x.long(), there.float())
    return CellTargets(flat, box, place, centres.clamp(max=2).long())


def zoom(
    rng: np.random.Generator, images: Tensor, labels: Tensor, objects: list[list[Seen]]
) -> tuple[Tensor, Tensor, list[list[Seen]]]:
    """Cut half of the images down, at random, to a part that still shows all objects whole, and enlarge it."""
    windows = np.tile([0.0, 0.0, 1.0, 1.0], (len(objects), 1))  # left, top, right, bottom
    for window, things in zip(windows, objects, strict=True):
        boxes = np.array([thing.box for thing in things] or [_MIDDLE])
        first, last = boxes[:, :2].min(0), boxes[:, 2:].max(0)
        side = max(rng.uniform(LEAST_PART, 1), *(last - first))
        if rng.random() < 0.5:
            window[:2] = rng.uniform(np.maximum(last - side, 0), np.minimum(first, 1 - side))
            window[2:] = window[:2] + side
    middle, side = windows[:, :2] + windows[:, 2:] - 1, windows[:, 2] - windows[:, 0]
    turn = np.zeros((len(objects), 2, 3))
    turn[:, 0, 0] = turn[:, 1, 1] = side
    turn[:, :, 2] = middle
    affine = torch.from_numpy(turn).float()
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    coarse = functional.affine_grid(affine, [len(labels), 1, *labels.shape[1:]], align_corners=False)
    cut = functional.grid_sample(labels[:, None].float(), coarse, "nearest", "border", align_corners=False)
    parts = zip(objects, windows, side, strict=True)
    return images, cut[:, 0].long(), [[_part(t, window, s) for t in things] for things, window, s in parts]


def augment(rng: np.random.Generator, images: Tensor) -> Tensor:
    """Another camera's look: exposure, gamma, white balance, saturation, hue, blur and noise."""
    count = len(images)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *shape))).float()

    images = images.clamp(min=1e-3) ** torch.exp(draw(-0.55, 0.35, 1, 1, 1))
    images = images * torch.exp(draw(-0.3, 0.35, 1, 1, 1)) * draw(0.93, 1.07, 3, 1, 1)
    # Hue and saturation: a turn and a stretch of the colour plane around the grey axis.
    turn, stretch = draw(-0.1, 0.1), draw(0.75, 1.25)
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    plane = torch.eye(3) - grey
    cos, sin = (stretch * turn.cos())[:, None, None], (stretch * turn.sin())[:, None, None]
    images = torch.einsum("bij,bjhw->bihw", grey + cos * plane + sin * cross, images)
    middle = images.mean((1, 2, 3), keepdim=True)
    images = (images - middle) * draw(0.75, 1.2, 1, 1, 1) + middle + draw(-0.06, 0.06, 1, 1, 1)
    # Blur and noise for half of the images.
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, draw(-0.6, 0.8, 1, 1, 1).clamp(min=-0.3))
    noise = torch.randn(images.shape) * draw(-0.04, 0.04, 1, 1, 1).clamp(min=0)
    return ((images + noise).clamp(0, 1) * 255).round() / 255


def _size(path: Path) -> str:
    return path.name.split("-")[0]


def _seen(text: str, boxes: NDArray[np.float32], distances: NDArray[np.float32]) -> list[Seen]:
    things = []
    for name, box, distance in zip(filter(None, text.split(";")), boxes.tolist(), distances.tolist(), strict=False):
        colour, shape = name.split(" ")
        left, top, right, bottom = box
        things.append(Seen(colour, shape, (left, top, right, bottom), distance))
    return things


def _part(thing: Seen, window: NDArray[np.float64], side: float) -> Seen:
    """As in a part of the image."""
    left, top, right, bottom = ((np.array(thing.box) - np.tile(window[:2], 2)) / side).clip(0, 1).tolist()
    return replace(thing, box=(left, top, right, bottom))


def _flipped(things: list[Seen]) -> list[Seen]:
    """As in a mirror."""
    return [replace(t, box=(1 - t.box[2], t.box[1], 1 - t.box[0], t.box[3])) for t in things]
