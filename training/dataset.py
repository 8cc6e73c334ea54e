"""Rendered pictures from disk to training batches: augmentation, and where each object is."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.render import LABEL_STEP
from training.scenes import COLOURS, SHAPES


@dataclass(frozen=True)
class Batch:
    """Pictures of one size with what is in them."""

    images: Tensor  # float [B, 3, H, W], 0..1
    labels: Tensor  # long [B, H / 4, W / 4]: 0 surroundings, k the k-th object, from 1
    objects: list[list[tuple[str, str]]]  # colour, shape
    colours: Tensor  # long [B, 6]: of label k, 0 for none, else 1 + place in COLOURS
    shapes: Tensor  # long [B, 6]


@dataclass
class _Shard:
    colour: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    objects: list[list[tuple[str, str]]]


class Pictures:
    """Rendered pictures in memory."""

    def __init__(self) -> None:
        self._shards: dict[str, _Shard] = {}

    def __len__(self) -> int:
        return sum(len(s.objects) for s in self._shards.values())

    def add(self, paths: list[Path]) -> None:
        """Load those files of `render.py` that are not in memory yet."""
        for path in paths:
            if path.name not in self._shards:
                with np.load(path) as data:
                    objects = [[_pair(o) for o in text.split(";")] for text in data["objects"]]
                    self._shards[path.name] = _Shard(data["colour"], data["labels"], objects)

    def batches(
        self, plan_rng: np.random.Generator, rng: np.random.Generator, size: int, part: slice
    ) -> Iterator[Batch]:
        """One pass over the pictures; the pictures of a batch have one size.

        Processes that share a batch use the same `plan_rng`, a part each, and their own `rng`.
        """
        by_format: dict[str, list[tuple[str, int]]] = {}
        for name, shard in self._shards.items():
            places = by_format.setdefault(name.split("-")[0], [])
            places += [(name, i) for i in range(len(shard.objects))]
        plan = []
        for places in by_format.values():
            order = plan_rng.permutation(len(places))
            starts = range(0, len(places) - size + 1, size)
            plan += [[places[i] for i in order[start : start + size]] for start in starts]
        for number in plan_rng.permutation(len(plan)):
            yield self._load(rng, plan[number][part])

    def _load(self, rng: np.random.Generator, places: list[tuple[str, int]]) -> Batch:
        chosen = [(self._shards[name], i) for name, i in places]
        images = torch.from_numpy(np.stack([s.colour[i] for s, i in chosen]))
        labels = torch.from_numpy(np.stack([s.labels[i] for s, i in chosen])).long()
        objects = [s.objects[i] for s, i in chosen]
        flip = torch.from_numpy(rng.random(len(chosen)) < 0.5)
        pixels = images.permute(0, 3, 1, 2).float() / 255
        pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
        labels = torch.where(flip[:, None, None], labels.flip(2), labels)
        colours = torch.zeros(len(chosen), 6, dtype=torch.long)
        shapes = torch.zeros(len(chosen), 6, dtype=torch.long)
        for row, things in enumerate(objects):
            for k, (colour, shape) in enumerate(things, start=1):
                colours[row, k] = 1 + COLOURS.index(colour)
                shapes[row, k] = 1 + SHAPES.index(shape)
        return Batch(augment(rng, pixels), labels, objects, colours, shapes)


@dataclass(frozen=True)
class CellTargets:
    """What lies in each square cell of the picture, row by row."""

    label: Tensor  # long [B, cells]: the object that covers most of the cell, 0 for none
    box: Tensor  # float [B, cells, 4]: its left, top, right, bottom from the cell's centre, in cells
    centres: Tensor  # long [B, cells]: how many objects have their centre here, at most 2


def cell_targets(labels: Tensor, cell: int) -> CellTargets:
    """`cell` in pixels; an object must cover 5 % of a cell to be its object."""
    step = cell // LABEL_STEP
    batch, height, width = labels.shape
    one_hot = functional.one_hot(labels, 6).float()  # [B, h, w, 6]
    rows, columns = height // step, width // step
    cover = one_hot.view(batch, rows, step, columns, step, 6).mean((2, 4))
    best, label = cover[..., 1:].max(-1)
    label = torch.where(best >= 0.05, label + 1, 0)

    y = torch.arange(height, dtype=torch.float) + 0.5
    x = torch.arange(width, dtype=torch.float) + 0.5
    in_row, in_column = one_hot.amax(2), one_hot.amax(1)  # [B, h, 6], [B, w, 6]
    far = 1e4
    top = (y[:, None] - 0.5 + far * (1 - in_row)).amin(1)
    bottom = (y[:, None] + 0.5 - far * (1 - in_row)).amax(1)
    left = (x[:, None] - 0.5 + far * (1 - in_column)).amin(1)
    right = (x[:, None] + 0.5 - far * (1 - in_column)).amax(1)
    boxes = torch.stack([left, top, right, bottom], -1) / step  # [B, 6, 4], in cells
    flat = label.view(batch, -1)
    own = boxes.gather(1, flat[..., None].expand(-1, -1, 4))
    grid_y, grid_x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centre = torch.stack([grid_x, grid_y, grid_x, grid_y], -1).view(1, -1, 4) + 0.5
    mass = one_hot.sum((1, 2)).clamp(min=1)
    centre_y = (one_hot.sum(2) * y[:, None]).sum(1) / mass / step
    centre_x = (one_hot.sum(1) * x[:, None]).sum(1) / mass / step
    there = one_hot.sum((1, 2))[:, 1:] > 0
    place = centre_y.long() * columns + centre_x.long()
    centres = torch.zeros(batch, rows * columns)
    centres.scatter_add_(1, place[:, 1:], there.float())
    return CellTargets(flat, own - centre, centres.clamp(max=2).long())


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
    # Blur and noise for half of the pictures.
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    images = torch.lerp(images, blurred, draw(-0.6, 0.8, 1, 1, 1).clamp(min=-0.3))
    noise = torch.randn(images.shape) * draw(-0.04, 0.04, 1, 1, 1).clamp(min=0)
    return ((images + noise).clamp(0, 1) * 255).round() / 255


def _pair(text: str) -> tuple[str, str]:
    colour, shape = text.split(" ")
    return colour, shape
