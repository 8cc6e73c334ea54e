"""What the vision tower sees of event scenes, kept in files, and what becomes of each token from frame to frame."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from transformers import Qwen3VLForConditionalGeneration

from training.clips import SeenClip, SeenEvent
from training.dataset import Seen, augment
from training.events import BEGINNING, STATES
from training.train_seeing import rendered
from training.vision import encode


@dataclass(frozen=True)
class RememberedEvent:
    """What the vision tower made of an event scene's states, of the beginning twice, with other noise; bfloat16."""

    grid: tuple[int, int]
    tokens: Tensor  # [2, STATES, N, D]
    deepstack: Tensor  # the same
    event: SeenEvent
    boxes: Tensor  # float [STATES, 4]: the box of the object that the state is about, as shares of the image
    at_first: Tensor  # float [STATES, 4]: the box of the same object in the beginning


def changes_in(seen: RememberedEvent, clip: SeenClip) -> Tensor:
    """What becomes of each token of a clip against the frame before, long [frames * N]."""
    rows, columns = seen.grid
    changes = torch.zeros(len(clip.states), rows * columns, dtype=torch.long)
    for n in range(1, len(clip.states)):
        before, after = clip.states[n - 1], clip.states[n]
        if before != after:
            about = max(before, after)
            for state, change in ((before, 2), (after, 1)):
                box = seen.boxes[state] if state else seen.at_first[about]
                changes[n, _covered(box, rows, columns)] = change
    return changes.flatten()


def _covered(box: Tensor, rows: int, columns: int) -> Tensor:
    """Which tokens a box covers the middle of, or that its own middle is in; bool [rows * columns]."""
    row, column = torch.meshgrid(
        (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns, indexing="ij"
    )
    left, top, right, bottom = box.tolist()
    inside = (column >= left) & (column <= right) & (row >= top) & (row <= bottom)
    if right > left:
        inside[min(int((top + bottom) / 2 * rows), rows - 1), min(int((left + right) / 2 * columns), columns - 1)] = (
            True
        )
    return inside.flatten()


def see_events(
    model: Qwen3VLForConditionalGeneration, folder: Path, run: Path, rng: np.random.Generator
) -> list[RememberedEvent]:
    """This process's part of the event scenes; what was seen before is kept, file by file."""
    memory = []
    for path in rendered(folder)[dist.get_rank() :: dist.get_world_size()]:
        memory += kept(run / f"event-{path.stem}.pt", lambda path=path: list(_see(model, path, rng)))
    return memory


def _see(model: Qwen3VLForConditionalGeneration, path: Path, rng: np.random.Generator) -> list[RememberedEvent]:
    """The event scenes of a file, half of them in a mirror."""
    memory = []
    with np.load(path) as data, torch.no_grad():
        for row, pixels in enumerate(data["colour"]):
            there = torch.from_numpy(data["there"][row])
            flip = rng.random() < 0.5
            images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
            if flip:
                images = images.flip(3)
            # All states are one tall image to the augmentation: the camera is the same.
            tall = images.permute(1, 0, 2, 3).flatten(1, 2)[None]
            state = rng.bit_generator.state
            frames = []
            for _ in range(2):
                rng.bit_generator.state = state  # the noise is torch's
                frames.append(augment(rng, tall)[0].view(3, STATES, *images.shape[2:]).permute(1, 0, 2, 3))
            shown = torch.cat([frames[0][there], frames[1][BEGINNING : BEGINNING + 1]])
            seen, deep, _ = encode(model.model.visual, shown)
            tokens, places = (torch.zeros(2, STATES, *seen.shape[1:]).bfloat16() for _ in range(2))
            for made, room in ((seen, tokens), (deep[0], places)):
                room[:, there] = made[:-1].bfloat16()
                room[1, BEGINNING] = made[-1].bfloat16()
            grid = (images.shape[2] // 32, images.shape[3] // 32)
            memory.append(_remembered(data, row, grid, tokens, places, flip=flip))
    return memory


def _remembered(
    data: np.lib.npyio.NpzFile, row: int, grid: tuple[int, int], tokens: Tensor, places: Tensor, *, flip: bool
) -> RememberedEvent:
    boxes = torch.from_numpy(data["boxes"][row])  # [STATES, MAX_OBJECTS, 4]
    if flip:
        boxes = torch.stack([1 - boxes[..., 2], boxes[..., 1], 1 - boxes[..., 0], boxes[..., 3]], -1)
    number = [int(n) for n in data["number"][row]]
    turned = {"moved_left": "moved_right", "moved_right": "moved_left"} if flip else {}
    happening = tuple(turned.get(str(h), str(h)) for h in data["happening"][row])
    objects = []
    for n, name in enumerate(str(data["objects"][row]).split(";")):
        colour, shape = name.split(" ")
        left, top, right, bottom = boxes[0, n].tolist()
        objects.append(Seen(colour, shape, (left, top, right, bottom), float(data["distances"][row][0, n])))
    event = SeenEvent(objects, happening, tuple(number))
    moved = torch.zeros(STATES, 4)
    for state in range(2, STATES):  # a thing that is gone has no box
        if number[state] >= 0 and happening[state]:
            moved[state] = boxes[state, number[state]]
    at_first = torch.stack([boxes[0, max(n, 0)] for n in number])
    return RememberedEvent(grid, tokens, places, event, moved, at_first)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What is in a file, made and written if it is not there."""
    if not path.exists():
        made = make()
        torch.save(made, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)
        return made
    return torch.load(path, weights_only=False)
