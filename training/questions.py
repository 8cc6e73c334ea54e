"""Questions about an image and their answers, in English and Chinese: many kinds, many wordings.

Short answers are one word or a name. Places are written as Qwen3-VL writes them: JSON with `bbox_2d` or `point_2d`,
whole numbers from 0 to 1000 across the image. A thing that is asked about and not there is said not to be there; a
question about anything but boxes, balls and cylinders is refused, and so is every question about an image that is no
such scene, except where the answer is JSON: nothing of what is known is there.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from training.dataset import Seen
from training.foreign_words import REFUSAL, Split, a_noun, article, foreign_question, plural_of
from training.scenes import COLOURS, MAX_OBJECTS, SHAPES
from training.wordings import (
    ABSENT,
    ADJECTIVES,
    ANSWERS,
    ARTICLE,
    EVERYTHING,
    EVERYWHERE,
    LANGUAGES,
    MORE_WORDINGS,
    NAMES,
    NUMBERS,
    OTHER_COLOURS,
    PLACES,
    SYSTEM_PROMPTS,
    WORDINGS,
    YES_OR_NO,
    Language,
)

Kind = Literal[
    "colour",
    "shape",
    "exist",
    "count",
    "count_shape",
    "count_colour",
    "locate",
    "point",
    "side",
    "distance",
    "caption",
    "absent",
    "absent_places",
    "foreign",
    "foreign_places",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
ClipKind = Literal["what_happened", "when", "foreign"]
_OF_EMPTY: tuple[Kind, ...] = ("exist", "count", "absent_places", "absent", "foreign", "foreign_places", "caption")
_OFTEN = {"locate": 1.4, "foreign": 1.2, "absent": 1.6, "count_shape": 2.0, "foreign_places": 0.7, "absent_places": 0.7}
STEP = 2  # places are even numbers
_APART = 0.04  # shares of the image's width between objects that are left and right of each other
_FARTHER = 1.12  # times as far away counts as farther


@dataclass(frozen=True)
class Question:
    """What is asked, and what answers it."""

    text: str
    answer: str
    kind: Kind | ClipKind
    things: tuple[Seen, ...] = ()  # those that the answer is about, in its order, where it gives places or names
    history: tuple[tuple[str, str], ...] = ()  # what was asked and answered before, about the same image

    @property
    def in_places(self) -> bool:
        """Whether the answer is a list of places."""
        return self.answer == "[]" or self.answer.startswith(('[{"bbox', '[{"point'))


@dataclass(frozen=True)
class _Asker:
    """A scene, and the language it is asked about in."""

    rng: np.random.Generator
    things: list[Seen]
    language: Language
    split: Split

    def colour(self) -> Question | None:
        shapes = [t.shape for t in self.things]
        thing = self._one([t for t in self.things if shapes.count(t.shape) == 1])
        if thing is None:
            return None
        return self._short("colour", self._word("colour", s=self._name(thing.shape)), self._say(thing.colour))

    def shape(self) -> Question | None:
        colours = [t.colour for t in self.things]
        thing = self._one([t for t in self.things if colours.count(t.colour) == 1])
        if thing is None:
            return None
        return self._short("shape", self._word("shape", c=self._colour(thing.colour)), self._say(thing.shape))

    def exist(self) -> Question | None:
        kind = self.rng.random()
        if not self.things or (kind > 0.95 and self.split == "train"):
            empty = self.rng.random() < 0.5
            return self._yes_no("exist", self._word("empty" if empty else "anything"), empty == (not self.things))
        if kind > 0.88 and self.split == "train":
            colour, shape = self._one_of(OTHER_COLOURS[self.language]), self._one_of(tuple(NAMES["en"]))
            name = f"{colour}{self._name(shape)}"
            return self._yes_no("exist", self._word("exist", t=name, a=ARTICLE[self.language](name)), False)
        if kind < 0.2 and self.split == "train":
            # Of a kind alone, as often there as not, as far as the scene allows.
            shapes = tuple(t.shape for t in self.things)
            missing = tuple(s for s in SHAPES if s not in shapes)
            shape = self._one_of(missing if missing and self.rng.random() < 0.5 else shapes)
            name = self._name(shape)
            there = shape in shapes
            text = self._word("exist", t=name, a=ARTICLE[self.language](name))
        elif kind < 0.7:
            colour, shape = self._target()
            there = any((t.colour, t.shape) == (colour, shape) for t in self.things)
            name = f"{self._colour(colour)}{self._name(shape)}"
            text = self._word("exist", t=name, a=ARTICLE[self.language](name))
        else:
            # Is the ball red? Is the red object a ball?
            shapes, colours = [t.shape for t in self.things], [t.colour for t in self.things]
            of_shape = [t for t in self.things if shapes.count(t.shape) == 1]
            of_colour = [t for t in self.things if colours.count(t.colour) == 1]
            thing = self._one(of_shape if kind < 0.79 else of_colour)
            if thing is None:
                return None
            there = self.rng.random() < 0.5
            if kind < 0.79:
                colour = thing.colour if there else self._other(thing.colour, tuple(ADJECTIVES["en"]))
                text = self._word("is_colour", s=self._name(thing.shape), c=self._plain(colour))
            else:
                shape = thing.shape if there else self._other(thing.shape, tuple(NAMES["en"]))
                text = self._word("is_shape", c=self._colour(thing.colour), s=self._name(shape))
        return self._yes_no("exist", text, there)

    def count(self) -> Question | None:
        if self.rng.random() < 0.6 or not self.things:
            what, number = EVERYTHING[self.language], len(self.things)
            if self.rng.random() < 0.6:
                return self._short("count", self._word("count_all"), NUMBERS[self.language][number])
        else:
            what, matches = self._description(plural=True)
            number = sum(matches(t) for t in self.things)
        return self._counted("count", what, number)

    def count_shape(self) -> Question:
        return self._counted("count_shape", *self._of_shape(plural=True))

    def count_colour(self) -> Question:
        colour = self._likely(tuple(t.colour for t in self.things), COLOURS)
        what = f"{self._colour(colour)}{EVERYTHING[self.language]}"
        return self._counted("count_colour", what, sum(t.colour == colour for t in self.things))

    def _of_shape(self, *, plural: bool) -> tuple[str, int]:
        shape = self._likely(tuple(t.shape for t in self.things), SHAPES)
        what = self._number(self._name(shape), plural=plural)
        return what, sum(t.shape == shape for t in self.things)

    def _likely(self, there: tuple[str, ...], known: tuple[str, ...]) -> str:
        """One of those that are there, now and then any."""
        return self._one_of(there if there and self.rng.random() < 0.8 else known)

    def _counted(self, kind: Kind, what: str, number: int) -> Question:
        if self.rng.random() < 0.4:
            return Question(self._word("count_json", w=what), json.dumps({"count": number}), kind)
        return self._short(kind, self._word("count", w=what), NUMBERS[self.language][number])

    def locate(self) -> Question | None:
        if self.rng.random() < 0.15:
            shapes = [s for s in NAMES["en"] if self.rng.random() < 0.5] or ["box"]
            names = [NAMES[self.language][s][0] for s in shapes]
            if self.rng.random() < 0.25:
                names.insert(int(self.rng.integers(len(names) + 1)), a_noun(self.rng, self.language, self.split))
            listed = (", " if self.language == "en" else "、").join(names)
            chosen = [t for t in self.things if t.shape in shapes]
            return self._places("locate", self._word("detect", w=listed), chosen)
        what, matches = self._description(plural=False)
        return self._places("locate", self._word("locate", w=what), [t for t in self.things if matches(t)])

    def point(self) -> Question | None:
        what, matches = self._description(plural=False)
        return self._places("point", self._word("point", w=what), [t for t in self.things if matches(t)])

    def side(self) -> Question | None:
        order = sorted(self.things, key=_middle)
        kind = self.rng.random()
        if kind < 0.5:
            last = self.rng.random() < 0.5
            ends = order[::-1] if last else order
            if len(ends) > 1 and abs(_middle(ends[0]) - _middle(ends[1])) < _APART:
                return None
            return self._named("side", "rightmost" if last else "leftmost", ends[0])
        pair = self._pair()
        if pair is None or abs(_middle(pair[0]) - _middle(pair[1])) < _APART:
            return None
        left = _middle(pair[0]) < _middle(pair[1])
        words = {"a": self._full(pair[0]), "b": self._full(pair[1])}
        if kind < 0.75:
            return self._short("side", self._word("left_or_right", **words), self._say("left" if left else "right"))
        asked_left = self.rng.random() < 0.5
        return self._yes_no("side", self._word("is_left" if asked_left else "is_right", **words), left == asked_left)

    def distance(self) -> Question | None:
        order = sorted(self.things, key=lambda t: t.distance)
        kind = self.rng.random()
        if kind < 0.6:
            last = self.rng.random() < 0.3
            if len(order) > 1:
                nearer, farther = (order[-2], order[-1]) if last else (order[0], order[1])
                if farther.distance / nearer.distance < _FARTHER:
                    return None
            return self._named("distance", "farthest" if last else "nearest", order[-1 if last else 0])
        pair = self._pair()
        if pair is None:
            return None
        near, far = sorted(pair, key=lambda t: t.distance)
        if far.distance / near.distance < _FARTHER:
            return None
        words = {"a": self._full(pair[0]), "b": self._full(pair[1])}
        if kind < 0.8:
            text = self._word("which_is_nearer", **words)
            return Question(text, self._full(near), "distance", (near,))
        return self._yes_no("distance", self._word("is_nearer", **words), pair[0] is near)

    def absent(self) -> Question | None:
        """Of something that is not there."""
        if not self.things and self.rng.random() < 0.3:
            wording = self._one_of(("leftmost", "rightmost", "nearest", "farthest"))
            return Question(self._word(wording), ABSENT[self.language]["nothing"], "absent")
        shapes = tuple(s for s in SHAPES if all(t.shape != s for t in self.things))
        colours = tuple(c for c in COLOURS if all(t.colour != c for t in self.things))
        kind = self.rng.random()
        if kind < 0.4 and shapes:
            name = self._name(self._one_of(shapes))
            return self._missing(self._word("colour", s=name), name)
        if kind < 0.7 or not self.things:
            colour = self._colour(self._one_of(colours))
            what = f"{colour}{EVERYTHING[self.language].removesuffix('s')}"
            return self._missing(self._word("shape", c=colour), what)
        there, (colour, shape) = self._full(self.things[self.rng.integers(len(self.things))]), self._missing_target()
        name = f"{ADJECTIVES[self.language][colour]}{NAMES[self.language][shape][0]}"
        pair = (there, name) if self.rng.random() < 0.5 else (name, there)
        return self._missing(
            self._word(self._one_of(("left_or_right", "which_is_nearer")), **dict(zip("ab", pair, strict=True))), name
        )

    def absent_places(self) -> Question | None:
        kind = self.rng.random()
        if kind < 0.6 or not self.things:
            colour, shape = self._missing_target()
            what = f"{self._colour(colour)}{self._name(shape)}"
        elif kind < 0.7:
            what = f"{self._one_of(OTHER_COLOURS[self.language])}{self._name(self._one_of(SHAPES))}"
        else:
            shapes = tuple(s for s in SHAPES if all(t.shape != s for t in self.things))
            colours = tuple(c for c in COLOURS if all(t.colour != c for t in self.things))
            thing = EVERYTHING[self.language].removesuffix("s")
            what = self._name(self._one_of(shapes)) if shapes else f"{self._colour(self._one_of(colours))}{thing}"
        return self._nowhere("absent_places", what)

    def foreign(self) -> Question:
        return Question(foreign_question(self.rng, self.language, self.split), REFUSAL[self.language], "foreign")

    def foreign_places(self) -> Question:
        noun = a_noun(self.rng, self.language, self.split)
        several = plural_of(noun) if self.language == "en" else noun
        if self.rng.random() < 0.3:
            return Question(self._word("count_json", w=several), json.dumps({"count": 0}), "foreign_places")
        kind = self.rng.random()
        if kind < 0.3:
            noun = f"{self._colour(self._one_of(COLOURS))}{noun}"
        elif kind < 0.4:
            noun = several
        elif kind < 0.5 and self.language == "en":
            noun = f"{article(noun)} {noun}"
        elif kind < 0.6:
            names = [noun, a_noun(self.rng, self.language, self.split)]
            listed = (", " if self.language == "en" else "、").join(names)
            return Question(self._word("detect", w=listed), "[]", "foreign_places")
        return self._nowhere("foreign_places", noun)

    def _missing_target(self) -> tuple[str, str]:
        """A colour and a shape that no thing has both of."""
        there = {(t.colour, t.shape) for t in self.things}
        while True:
            colour, shape = self._target() if self.things and self.rng.random() < 0.5 else self._any()
            if (colour, shape) not in there:
                return colour, shape

    def _any(self) -> tuple[str, str]:
        return self._one_of(COLOURS), self._one_of(SHAPES)

    def _missing(self, text: str, name: str) -> Question:
        return Question(text, ABSENT[self.language]["no"].replace("{t}", name), "absent")

    def _nowhere(self, kind: Kind, what: str) -> Question:
        return Question(self._word(self._one_of(("locate", "locate", "point")), w=what), "[]", kind)

    def caption(self) -> Question | None:
        if not self.things:
            return Question(self._word("caption"), ABSENT[self.language]["nothing"], "caption")
        things = sorted(self.things, key=_middle)
        names = [ARTICLE[self.language](n) + n for n in map(self._full, things)]
        number = NUMBERS[self.language][len(names)]
        if self.language == "en":
            listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
            answer = f"{listed}." if len(names) == 1 else f"{number} objects: {listed}."
            answer = answer[0].upper() + answer[1:]
        else:
            listed = names[0] if len(names) == 1 else "、".join(names[:-1]) + "和" + names[-1]
            answer = f"一个{listed}。" if len(names) == 1 else f"{number}个物体：{listed}。"
        return Question(self._word("caption"), answer, "caption", tuple(things))

    # What the kinds are made of.

    def _one(self, things: list[Seen]) -> Seen | None:
        return things[self.rng.integers(len(things))] if things else None

    def _pair(self) -> tuple[Seen, Seen] | None:
        names = [(t.colour, t.shape) for t in self.things]
        single = [t for t, name in zip(self.things, names, strict=True) if names.count(name) == 1]
        if len(single) < 2:
            return None
        first, second = self.rng.choice(len(single), 2, replace=False)
        return single[first], single[second]

    def _target(self) -> tuple[str, str]:
        """Half the time something that is there; else, mostly, something nearly there."""
        there = [(t.colour, t.shape) for t in self.things]
        colour, shape = there[self.rng.integers(len(there))]
        if self.rng.random() < 0.5:
            return colour, shape
        while (colour, shape) in there:
            colour, shape = there[self.rng.integers(len(there))]
            change = self.rng.random()
            if change > 0.4:
                colour = self._other(colour, tuple(ADJECTIVES["en"]))
            if change < 0.4 or change > 0.7:
                shape = self._other(shape, tuple(NAMES["en"]))
        return colour, shape

    def _description(self, *, plural: bool) -> tuple[str, Callable[[Seen], bool]]:
        """Words for some things, and whether one is meant."""
        kind = self.rng.random()
        if kind < 0.55:
            colour, shape = self._target() if self.rng.random() < 0.3 else _name(self._one(self.things))
            words = f"{self._colour(colour)}{self._number(self._name(shape), plural=plural)}"
            return words, lambda t: (t.colour, t.shape) == (colour, shape)
        if kind < 0.75:
            shape = self._one(self.things).shape if self.rng.random() < 0.9 else self._other("", tuple(NAMES["en"]))
            return self._number(self._name(shape), plural=plural), lambda t: t.shape == shape
        thing = self._number(EVERYTHING[self.language].removesuffix("s"), plural=plural)
        if kind < 0.9:
            colours = tuple(ADJECTIVES["en"])
            colour = self._one(self.things).colour if self.rng.random() < 0.9 else self._other("", colours)
            return f"{self._colour(colour)}{thing}", lambda t: t.colour == colour
        return thing, lambda _: True

    def _number(self, noun: str, *, plural: bool) -> str:
        """Of a noun, its plural if wanted; Chinese has none."""
        return plural_of(noun) if plural and self.language == "en" else noun

    def _one_of(self, words: tuple[str, ...]) -> str:
        return words[self.rng.integers(len(words))]

    def _other(self, word: str, words: tuple[str, ...]) -> str:
        rest = [w for w in words if w != word]
        return rest[self.rng.integers(len(rest))]

    def _say(self, word: str) -> str:
        return ANSWERS[self.language].get(word, word)

    def _plain(self, colour: str) -> str:
        """The colour alone: red, 红色."""
        return self._say(colour)

    def _colour(self, colour: str) -> str:
        """The colour before a name: "red ", "红色的"."""
        return ADJECTIVES[self.language][colour]

    def _name(self, shape: str) -> str:
        names = NAMES[self.language][shape]
        return names[0] if self.rng.random() < 0.6 else names[self.rng.integers(len(names))]

    def _full(self, thing: Seen) -> str:
        return f"{ADJECTIVES[self.language][thing.colour]}{NAMES[self.language][thing.shape][0]}"

    def _short(self, kind: Kind, text: str, answer: str) -> Question:
        return Question(text, answer, kind)

    def _yes_no(self, kind: Kind, text: str, truth: bool) -> Question:
        if self.rng.random() < 0.35:
            text += YES_OR_NO[self.language]
        return Question(text, self._say("yes" if truth else "no"), kind)

    def _named(self, kind: Kind, wording: str, thing: Seen) -> Question:
        """What is it, or its colour, or its shape?"""
        asked = self.rng.random()
        if asked < 0.6:
            return Question(self._word(wording), self._full(thing), kind, (thing,))
        if asked < 0.8:
            return Question(self._word(f"{wording}_colour"), self._say(thing.colour), kind)
        return Question(self._word(f"{wording}_shape"), self._say(thing.shape), kind)

    def _places(self, kind: Literal["locate", "point"], text: str, things: list[Seen]) -> Question:
        things = sorted(things, key=lambda t: t.box[0])
        places: list[dict[str, object]] = []
        for thing in things:
            left, top, right, bottom = thing.box
            if kind == "locate":
                place: dict[str, object] = {"bbox_2d": [_number(v) for v in thing.box]}
            else:
                place = {"point_2d": [_number((left + right) / 2), _number((top + bottom) / 2)]}
            places.append({**place, "label": self._full(thing)})
        return Question(text, json.dumps(places, ensure_ascii=False), kind, tuple(things))

    def _word(self, wording: str, **words: str) -> str:
        rng = self.rng
        choices = WORDINGS[self.language].get(wording, ())
        if self.split == "train":
            choices += MORE_WORDINGS[self.language].get(wording, ())
        places = PLACES[self.language]
        text = choices[rng.integers(len(choices))]
        if self.split == "train" and rng.random() < 0.15:
            before, after = EVERYWHERE[self.language]
            text = f"{self._one_of(before)}{text}" if rng.random() < 0.5 else f"{text}{self._one_of(after)}"
        text = text.replace("{p}", places[rng.integers(len(places))])
        for name, word in words.items():
            text = text.replace(f"{{{name}}}", word)
        if self.language == "en":
            if rng.random() < 0.5:
                text = text.replace("olour", "olor")
            if rng.random() < 0.2 and '"' not in text:
                text = text.lower()
        if rng.random() < 0.15:
            text = text.rstrip("?.？。")
        return text


def ask(
    rng: np.random.Generator,
    things: list[Seen],
    kind: Kind,
    language: Language | None = None,
    *,
    split: Split = "train",
) -> Question | None:
    """A question of a kind about what is in an image; None where it would be ambiguous."""
    language = language or LANGUAGES[int(rng.random() < 0.35)]
    if not things and kind not in _OF_EMPTY:
        return None
    question: Question | None = getattr(_Asker(rng, things, language, split), kind)()
    return question


def ask_in_vain(rng: np.random.Generator, things: list[Seen], language: Language | None = None) -> Question | None:
    """A question about the objects of some scene, to an image that is none.

    Refused, and where the answer would be JSON: nothing of that is there.
    """
    language = language or LANGUAGES[int(rng.random() < 0.35)]
    question = ask(rng, things, KINDS[rng.integers(len(KINDS))], language)
    if question is None:
        return None
    if question.in_places:
        return Question(question.text, "[]", "foreign_places")
    if question.answer.startswith("{"):
        return Question(question.text, json.dumps({"count": 0}), "foreign_places")
    return Question(question.text, REFUSAL[language], "foreign")


def scene_objects(rng: np.random.Generator) -> list[Seen]:
    """Objects that some image could show, for questions about an image that shows none."""
    number = rng.integers(1, MAX_OBJECTS + 1)
    names = [(COLOURS[rng.integers(len(COLOURS))], SHAPES[rng.integers(len(SHAPES))]) for _ in range(number)]
    corners = rng.uniform(0, 0.8, (number, 2))
    return [
        Seen(colour, shape, (x, y, x + 0.1, y + 0.1), float(rng.uniform(0.5, 3)))
        for (colour, shape), (x, y) in zip(names, corners.tolist(), strict=True)
    ]


def any_kind(rng: np.random.Generator) -> Kind:
    """The kinds that take longest to learn more often."""
    weights = np.array([_OFTEN.get(kind, 1.0) for kind in KINDS])
    return KINDS[rng.choice(len(KINDS), p=weights / weights.sum())]


def system_prompt(rng: np.random.Generator) -> str | None:
    """Mostly none."""
    return SYSTEM_PROMPTS[rng.integers(len(SYSTEM_PROMPTS))] if rng.random() < 0.1 else None


def _name(thing: Seen | None) -> tuple[str, str]:
    assert thing is not None
    return thing.colour, thing.shape


def _middle(thing: Seen) -> float:
    return (thing.box[0] + thing.box[2]) / 2


def _number(share: float) -> int:
    return STEP * round(1000 * share / STEP)
