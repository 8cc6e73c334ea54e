"""Clips of an event: which state each frame shows, when it was taken, and what happens in it."""

from dataclasses import dataclass

import numpy as np

from training.dataset import Seen
from training.events import ASIDE, BEGINNING, GONE, HALFWAY, IN_DEPTH, Happening

MOST_FRAMES = 8
_FRAMES = (2, 3, 4, 5, 6, 8)
_OFTEN = (0.2, 0.22, 0.2, 0.13, 0.1, 0.15)
_NOTHING_SHARE = 0.12
_HALFWAY_SHARE = 0.4  # of the moves aside

_TURNED: dict[str, Happening] = {
    "came": "left",
    "left": "came",
    "moved_left": "moved_right",
    "moved_right": "moved_left",
    "moved_nearer": "moved_away",
    "moved_away": "moved_nearer",
}


@dataclass(frozen=True)
class SeenEvent:
    """An event scene as its camera saw it.

    For each of its states (see `events.py`) what happens from the beginning to it, "" where there is no such image, and
    the object that it happens to, from 0.
    """

    objects: list[Seen]
    happening: tuple[str, ...]
    number: tuple[int, ...]


@dataclass(frozen=True)
class SeenClip:
    """Frames of an event scene, and what happens in them.

    `first` is the index of the first frame in which something is not as before, `last` of the first one in which it is
    as at the end; -1 where nothing happens, as is then `thing`, the number of the object.
    """

    states: tuple[int, ...]
    times: tuple[float, ...]  # seconds since the first frame
    happening: Happening
    thing: int
    first: int
    last: int


def sample_clip(rng: np.random.Generator, event: SeenEvent, frames: int) -> SeenClip:
    """A clip of so many frames, in which one thing happens once at most, somewhere."""
    times = frame_times(rng, frames)
    there = [state for state in (GONE, ASIDE, IN_DEPTH) if event.happening[state]]
    if not there or rng.random() < _NOTHING_SHARE:
        state = (BEGINNING, *there)[rng.integers(1 + len(there))]
        return SeenClip((state,) * frames, times, "nothing", -1, -1, -1)
    state = there[rng.integers(len(there))]
    backwards = rng.random() < 0.5
    before, after = (state, BEGINNING) if backwards else (BEGINNING, state)
    last = first = int(rng.integers(1, frames))
    between: tuple[int, ...] = ()
    if state == ASIDE and event.happening[HALFWAY] and rng.random() < _HALFWAY_SHARE:
        last = min(first + int(rng.integers(1, 3)), frames - 1)
        between = (HALFWAY,) * (last - first)
    happening: Happening = event.happening[state]  # type: ignore[assignment]
    states = (before,) * first + between + (after,) * (frames - last)
    return SeenClip(states, times, _TURNED[happening] if backwards else happening, event.number[state], first, last)


def frame_count(rng: np.random.Generator) -> int:
    """Of a clip; short ones, which are learnt from faster, more often."""
    return int(rng.choice(_FRAMES, p=_OFTEN))


def frame_times(rng: np.random.Generator, frames: int) -> tuple[float, ...]:
    """Seconds since the first frame: half of the clips as the camera's history has them, others 0.25 to 10 s apart."""
    step = 0.5 if rng.random() < 0.5 else float(np.exp(rng.uniform(np.log(0.25), np.log(10))))
    steps = step * rng.uniform(0.8, 1.2, frames - 1) if rng.random() < 0.5 else np.full(frames - 1, step)
    return (0.0, *np.cumsum(steps.clip(min=0.25)).tolist())
