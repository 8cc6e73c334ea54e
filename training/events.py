"""Random events on a table, as plain data: a scene, and the same scene with one object gone or elsewhere.

Each state is a tuple of the scene's objects, of which one may be missing or moved; all else is the same. A clip shows
one state and then another. The same (split, index) always gives the same event scene.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from training.scenes import (
    MAX_OBJECTS,
    Camera,
    Scene,
    Split,
    Thing,
    furnish,
    has_room,
    hull_points,
    sample_camera,
    sample_objects,
)

Happening = Literal["came", "left", "moved_left", "moved_right", "moved_nearer", "moved_away", "nothing"]
HAPPENINGS: tuple[Happening, ...] = get_args(Happening)

# The states of a scene.
BEGINNING, GONE, ASIDE, HALFWAY, IN_DEPTH = range(5)
STATES = 5

_ASIDE = (0.1, 0.6)  # shares of the image's width that a thing moves to the left or right
_IN_DEPTH = (1.25, 2.2)  # times as far away along the floor, or as near, that a thing moves from or to the camera
_FARTHER = 1.12  # times as far from the camera, at least, is what that comes to
_MARGIN = 0.01  # of the image that stays free around a thing that has moved
_TRIES = 12


@dataclass(frozen=True)
class EventScene:
    """A scene and its states: for each the number of the object that is not as in the beginning, and where it is."""

    scene: Scene
    number: tuple[int, ...]  # [STATES]: of the object, from 0; -1 where there is no such state
    thing: tuple[Thing | None, ...]  # [STATES]: the object as it is then; None: gone

    def state(self, which: int) -> Scene:
        """The scene as it is then."""
        objects = list(self.scene.objects)
        if which != BEGINNING:
            thing = self.thing[which]
            objects[self.number[which] : self.number[which] + 1] = [] if thing is None else [thing]
        return replace(self.scene, objects=tuple(objects))


def sample_event_scene(split: Split, index: int, size: tuple[int, int]) -> EventScene:
    """Event scene number `index` of a split for a camera of `size` = (width, height) pixels.

    Every scene has the state in which an object is gone; those in which one has moved only where there is room.
    """
    attempt = 0
    while True:
        rng = np.random.default_rng([2 if split == "train" else 3, index, attempt])
        camera = sample_camera(rng, size)
        objects = sample_objects(rng, camera, count=1 + index % MAX_OBJECTS)
        if objects is not None:
            break
        attempt += 1
    number, things = [-1] * STATES, [None, None, None, None, None]
    number[GONE] = int(rng.integers(len(objects)))
    moved: list[Thing] = []
    for k in rng.permutation(len(objects)):
        if number[ASIDE] < 0 and (found := _moved(rng, camera, objects, k, aside=True)):
            number[ASIDE] = number[HALFWAY] = int(k)
            things[HALFWAY], things[ASIDE] = found
            moved += found
    for k in rng.permutation(len(objects)):
        if number[IN_DEPTH] < 0 and (found := _moved(rng, camera, objects, k, aside=False)):
            number[IN_DEPTH] = int(k)
            things[IN_DEPTH] = found[1]
            moved += found[1:]
    scene = furnish(rng, camera, objects, (*objects, *moved), split)
    return EventScene(scene, tuple(number), tuple(things))


def happening(scene: EventScene, state: int, *, backwards: bool = False) -> Happening:
    """What happens from the beginning to a state, or from there back to the beginning."""
    if state == BEGINNING:
        return "nothing"
    if state == GONE:
        return "came" if backwards else "left"
    thing, number = scene.thing[state], scene.number[state]
    assert thing is not None
    first, last = scene.scene.objects[number], thing
    if backwards:
        first, last = last, first
    if state == IN_DEPTH:
        nearer = distance(scene.scene.camera, last) < distance(scene.scene.camera, first)
        return "moved_nearer" if nearer else "moved_away"
    columns = [middle(scene.scene.camera, one) for one in (first, last)]
    return "moved_left" if columns[1] < columns[0] else "moved_right"


def distance(camera: Camera, thing: Thing) -> float:
    """From the camera to the object's centre, metres."""
    return float(np.linalg.norm(np.array(thing.position) - camera.position))


def middle(camera: Camera, thing: Thing) -> float:
    """The column of the object's centre, as a share of the image's width."""
    return float(camera.project(np.array([thing.position]))[0, 0]) / camera.width


def _moved(
    rng: np.random.Generator, camera: Camera, objects: tuple[Thing, ...], k: int, *, aside: bool
) -> tuple[Thing, Thing] | None:
    """Object number `k` halfway and at the end of a move in which it meets no other; None where there is no room."""
    thing = objects[k]
    others = [o for n, o in enumerate(objects) if n != k]
    for whole in _turns(rng) if aside else _stretches(rng):
        halfway, end = (_place(thing, whole, share, aside=aside) for share in (0.5, 1.0))
        if not 0.5 < distance(camera, end) < 3.8 or not all(has_room(one, others) for one in (halfway, end)):
            continue
        away = sorted(distance(camera, one) for one in (thing, end))
        if not aside and away[1] / away[0] < _FARTHER:
            continue
        columns = [middle(camera, one) for one in (thing, end)]
        if aside and not _ASIDE[0] <= abs(columns[1] - columns[0]) <= _ASIDE[1]:
            continue
        outline = camera.project(hull_points(end)) / [camera.width, camera.height]
        if outline.min() >= _MARGIN and outline.max() <= 1 - _MARGIN:
            return halfway, end
    return None


def _turns(rng: np.random.Generator) -> Iterator[float]:
    """Angles around the camera, radians."""
    for _ in range(_TRIES):
        yield float(rng.choice([-1, 1]) * rng.uniform(0.08, 0.7))


def _stretches(rng: np.random.Generator) -> Iterator[float]:
    """Logarithms of how many times as far away."""
    for _ in range(_TRIES):
        yield float(rng.choice([-1, 1]) * rng.uniform(*np.log(_IN_DEPTH)))


def _place(thing: Thing, whole: float, share: float, *, aside: bool) -> Thing:
    """A thing turned around the camera, at the same distance, or put farther along its line of sight, or nearer."""
    x, y, z = thing.position
    if aside:
        cos, sin = float(np.cos(whole * share)), float(np.sin(whole * share))
        return replace(thing, position=(cos * x - sin * y, sin * x + cos * y, z))
    stretch = float(np.exp(whole * share))
    return replace(thing, position=(stretch * x, stretch * y, z))
