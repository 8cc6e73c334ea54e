"""Questions about a scene and their answers: four kinds, many wordings, one word each time."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.scenes import COLOURS, SHAPES

Kind = Literal["colour", "shape", "exist", "count"]
KINDS: tuple[Kind, ...] = ("colour", "shape", "exist", "count")
NUMBERS = ("zero", "one", "two", "three", "four", "five")

# {s} a shape, {c} a colour, {a} an article, {p} a place; each is filled in at random.
WORDINGS: dict[Kind, tuple[str, ...]] = {
    "colour": (
        "What colour is the {s}?",
        "What colour is the {s}?",
        "What colour is the {s}{p}?",
        "Which colour is the {s}?",
        "What is the colour of the {s}?",
        "What's the colour of the {s}{p}?",
        "Tell me the colour of the {s}.",
        "Name the colour of the {s}.",
        "What colour does the {s} have?",
        "Colour of the {s}?",
        "The {s}: what colour is it?",
    ),
    "shape": (
        "What shape is the {c} object?",
        "What shape is the {c} object?",
        "What shape is the {c} thing{p}?",
        "Which shape is the {c} object?",
        "Which shape does the {c} object have?",
        "What is the shape of the {c} object?",
        "What's the shape of the {c} thing?",
        "What is the {c} object?",
        "What is the {c} thing{p}?",
        "Tell me the shape of the {c} object.",
        "Name the shape of the {c} object.",
        "Shape of the {c} object?",
        "Is the {c} object a box, a ball or a cylinder?",
        "What kind of object is the {c} one?",
    ),
    "exist": (
        "Is there {a} {t}?",
        "Is there {a} {t}?",
        "Is there {a} {t}{p}?",
        "Is there any {t}{p}?",
        "Do you see {a} {t}?",
        "Do you see {a} {t}{p}?",
        "Can you see {a} {t}?",
        "Can you find {a} {t}{p}?",
        "Is {a} {t} in the picture?",
        "Is {a} {t} visible?",
    ),
    "count": (
        "How many objects are there?",
        "How many objects are there?",
        "How many objects are there{p}?",
        "How many objects do you see?",
        "How many objects can you see{p}?",
        "How many things are there{p}?",
        "How many objects are visible?",
        "Count the objects.",
        "Count the objects{p}.",
        "Number of objects?",
        "What is the number of objects{p}?",
        "Tell me how many objects there are.",
    ),
}
PLACES = (
    " on the table",
    " on the floor",
    " on the ground",
    " in the picture",
    " in the image",
    " in the scene",
    " here",
)
NAMES = {"box": ("box", "cube"), "ball": ("ball", "sphere"), "cylinder": ("cylinder",)}
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a robot. Answer briefly.",
    "Answer with one word.",
    "You are the eyes of a robot. Answer in one word.",
)


@dataclass(frozen=True)
class Question:
    """What is asked, and the one word that answers it."""

    text: str
    answer: str
    kind: Kind


def ask(rng: np.random.Generator, objects: list[tuple[str, str]], kind: Kind) -> Question | None:
    """A question of a kind about (colour, shape) objects; None where it would be ambiguous."""
    colours, shapes = Counter(c for c, _ in objects), Counter(s for _, s in objects)
    if kind == "colour":
        single = [(c, s) for c, s in objects if shapes[s] == 1]
        if not single:
            return None
        colour, shape = single[rng.integers(len(single))]
        return Question(_word(rng, kind, s=_name(rng, shape)), colour, kind)
    if kind == "shape":
        single = [(c, s) for c, s in objects if colours[c] == 1]
        if not single:
            return None
        colour, shape = single[rng.integers(len(single))]
        return Question(_word(rng, kind, c=colour), shape, kind)
    if kind == "exist":
        colour, shape = _target(rng, objects)
        there = (colour, shape) in objects
        target = f"{colour} {_name(rng, shape)}"
        article = "a" if colour != "orange" or rng.random() < 0.5 else "an"
        return Question(_word(rng, kind, t=target, a=article), "yes" if there else "no", kind)
    return Question(_word(rng, kind), NUMBERS[len(objects)], kind)


def system_prompt(rng: np.random.Generator) -> str | None:
    """Mostly none."""
    return SYSTEM_PROMPTS[rng.integers(len(SYSTEM_PROMPTS))] if rng.random() < 0.1 else None


def every_wording() -> list[str]:
    """Each wording with each filling: what the tokenizer is trained on."""
    texts = [*SYSTEM_PROMPTS, *NUMBERS, "yes", "no", *COLOURS, *SHAPES, "user\nassistant\nsystem\n"]
    for wordings in WORDINGS.values():
        for wording in wordings:
            for c in COLOURS:
                for s in (name for names in NAMES.values() for name in names):
                    for a in ("a", "an"):
                        place = PLACES[len(texts) % len(PLACES)]
                        text = wording.format(s=s, c=c, a=a, t=f"{c} {s}", p=place)
                        texts += [text, text.replace("olour", "olor"), text.lower()]
    return texts


def _target(rng: np.random.Generator, objects: list[tuple[str, str]]) -> tuple[str, str]:
    """Half the time something that is there; else, mostly, something nearly there."""
    if rng.random() < 0.5:
        return objects[rng.integers(len(objects))]
    while True:
        colour, shape = objects[rng.integers(len(objects))]
        change = rng.random()
        if change > 0.4:
            colour = COLOURS[rng.integers(len(COLOURS))]
        if change < 0.4 or change > 0.7:
            shape = SHAPES[rng.integers(len(SHAPES))]
        if (colour, shape) not in objects:
            return colour, shape


def _name(rng: np.random.Generator, shape: str) -> str:
    names = NAMES[shape]
    return names[0] if rng.random() < 0.6 else names[rng.integers(len(names))]


def _word(rng: np.random.Generator, kind: Kind, **words: str) -> str:
    wordings = WORDINGS[kind]
    place = PLACES[rng.integers(len(PLACES))]
    text = wordings[rng.integers(len(wordings))].format(p=place, **words)
    if rng.random() < 0.5:
        text = text.replace("olour", "olor")
    if rng.random() < 0.2:
        text = text.lower()
    if rng.random() < 0.15:
        text = text.rstrip("?.")
    return text
