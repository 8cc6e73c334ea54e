"""Tasks: question templates that a goal's prompt and slots fill in.

A task's texts are Jinja templates and run in Jinja's sandbox; a goal's slots are only values in them, never templates.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import jinja2

from qwen3vl_ros.engines.base import BadRequest, Options
from qwen3vl_ros.engines.plain_text import input_json
from qwen3vl_ros.prompts.camera_view import CameraView
from qwen3vl_ros.prompts.request import Parser
from qwen3vl_ros.prompts.schema import SchemaError, check_schema

SlotType: TypeAlias = Literal["text", "number", "boolean", "texts"]

_TYPES: Final[Mapping[SlotType, tuple[str, str]]] = {
    "text": ("a text", '"red cup"'),
    "number": ("a number", "3"),
    "boolean": ("true or false", "true"),
    "texts": ("a list of texts", '["cup", "bottle"]'),
}
_SEPARATORS: Final = re.compile("[,\uff0c\u3001;\uff1b\n]")  # including the Chinese ones
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA: Final = re.compile("[\u3040-\u30ff]")  # Han characters among these are Japanese
_TEMPLATE_FAILURES: Final = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


class BrokenTask(BadRequest):
    """The task is wrong at ``key``, not the goal."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


@dataclass(frozen=True, slots=True)
class TaskQuestion:
    """A task with its slots filled in. ``options`` has the values that the task sets, None for the rest.

    ``response_schema``: JSON Schema of the answer, None for text. ``min_images``: how many are needed at least.
    ``choices``: groups of words that the answer begins with; the probability of the first group is wanted.
    ``labels``: what the answer's labels repeat, () = they say something else. ``score_threshold``: regions with a lower
    score are left out. ``language``: of the wording, "" if the task has only one.
    """

    task: str
    prompt: str
    system_prompt: str
    options: Options
    response_schema: Mapping[str, Any] | None
    parser: Parser
    min_images: int
    choices: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...]
    score_threshold: float
    language: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A parameter of a task that a goal fills in. ``default`` is None for a slot without one."""

    name: str
    type: SlotType
    description: str
    required: bool = True
    default: Any = None
    choices: tuple[str, ...] = ()

    def value_of(self, value: Any) -> Any:
        """Convert ``value`` for templates: strip texts and remove duplicates.

        Raises:
            ValueError: The type is wrong; the text completes a sentence that names the slot.
        """
        if self.type == "text" and isinstance(value, str):
            value = value.strip()
            if self.choices and value and value not in self.choices:
                raise ValueError(f"wants one of {', '.join(map(repr, self.choices))}, not {short(value)}")
            return value
        if self.type == "boolean" and isinstance(value, bool):
            return value
        if self.type == "number" and type(value) in (int, float) and math.isfinite(value):
            return value
        if self.type == "texts" and isinstance(value, list | tuple):
            texts = [text.strip() for text in value if isinstance(text, str)]
            if len(texts) == len(value) and all(texts):
                return list(dict.fromkeys(texts))
        article, example = _TYPES[self.type]
        raise ValueError(f"wants {article}, such as {example}, not {short(value)}")


@dataclass(frozen=True)
class Task:
    """A question template. ``source``: the file that defines it. ``main``: the slot that a goal's prompt fills, if any.

    ``max_image_tokens``: of an image where the goal does not say, 0 = the engine's own number.
    ``clip_duration``: the task is about a clip, of so many seconds where the goal does not say; 0 = of single images.
    ``from_memory``: the node answers it from its memory, and the prompt is the thing that is looked for.
    ``schema`` may refer to slots: ``{"$slot": name}`` is the slot's value, and ``{"$each": name, "as": schema}`` is
    an object with that schema for each text of the slot. ``uses_camera``: whether a :class:`CameraView` is of use.
    ``example_answer``: the text, or the parsed JSON, of an answer to the question that ``example_slots`` make.
    """

    name: str
    description: str
    source: str
    slots: Mapping[str, Slot]
    main: str | None
    parser: Parser
    min_images: int
    options: Options
    choices: tuple[tuple[str, ...], ...]
    score_threshold: float
    schema: Mapping[str, Any] | None
    example_slots: Mapping[str, Any]
    example_answer: Any
    uses_camera: bool
    max_image_tokens: int
    clip_duration: float
    from_memory: bool
    prompts: Mapping[str, jinja2.Template] = field(repr=False)
    system_prompts: Mapping[str, jinja2.Template] = field(repr=False)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the wordings (ISO 639-1), the default first; () for a task with a single wording."""
        return tuple(language for language in self.prompts if language)

    @property
    def labels_repeat_prompt(self) -> bool:
        """Whether the regions' labels are what was asked for, as they are in the example; ``point`` numbers them."""
        if (
            self.parser not in ("regions", "regions_3d")
            or self.main is None
            or not isinstance(self.example_answer, list)
        ):
            return False
        asked = _texts(self.example_slots.get(self.main))
        labels = [item.get("label") for item in self.example_answer if isinstance(item, dict)]
        return bool(labels) and all(label in asked for label in labels)

    def ask(
        self, prompt: str = "", slots: Mapping[str, Any] | None = None, camera: CameraView | None = None
    ) -> TaskQuestion:
        """Fill in the slots and render the question.

        Args:
            prompt: Fills the main slot; for a slot that is a list it is split at commas and semicolons.
            slots: Values of the other slots by name.
            camera: The camera of the image, if known.

        Raises:
            BadRequest: A slot is missing or wrong; the sentence names it, its type and an example.
        """
        given = {name: value for name, value in (slots or {}).items() if value is not None}
        wanted = given.pop("language", None)
        if prompt.strip():
            given = self._with_prompt(prompt, given)
        unknown = next((name for name in given if name not in self.slots), None)
        if unknown is not None:
            raise BadRequest(
                f"slots: task {self.name!r} has no slot {short(unknown)}{nearest(unknown, self.slots)}; "
                f"it has {', '.join([f'{slot.name} ({slot.type})' for slot in self.slots.values()] + ['language'])}"
            )
        values = {name: self._value(slot, given.get(name)) for name, slot in self.slots.items()}
        language = self._language(wanted, given)
        context = values | {"camera": camera, "language": wanted}
        return TaskQuestion(
            task=self.name,
            prompt=self._render("prompt", self.prompts, language, context),
            system_prompt=self._render("system_prompt", self.system_prompts, language, context),
            options=self.options,
            response_schema=self._schema(values),
            parser=self.parser,
            min_images=self.min_images,
            choices=self.choices,
            labels=_texts(values[self.main]) if self.main and self.labels_repeat_prompt else (),
            score_threshold=self.score_threshold,
            language=language,
        )

    def _with_prompt(self, prompt: str, given: dict[str, Any]) -> dict[str, Any]:
        if self.main is None:
            raise BadRequest(f"prompt: task {self.name!r} takes none; leave it empty")
        if self.main in given:
            raise BadRequest(f"slots: {self.main!r} of task {self.name!r} is given twice: the prompt is that slot too")
        if self.slots[self.main].type == "texts":
            return given | {self.main: [text for text in _SEPARATORS.split(prompt) if text.strip()]}
        return given | {self.main: prompt}

    def _value(self, slot: Slot, given: Any) -> Any:
        try:
            value = None if given is None else slot.value_of(given)
        except ValueError as error:
            raise BadRequest(f"slots: {slot.name!r} of task {self.name!r} {error}") from error
        if value not in (None, "", []):
            return value
        if slot.required:
            example = json.dumps({slot.name: self.example_slots.get(slot.name)}, ensure_ascii=False)
            way = "give it as the prompt, or in slots as" if slot.name == self.main else "give it in slots as"
            raise BadRequest(
                f"slots: task {self.name!r} needs {slot.name!r} ({slot.type}: {slot.description}); {way} {example}"
            )
        return slot.default

    def _language(self, wanted: Any, given: Mapping[str, Any]) -> str:
        if wanted is not None:
            if wanted in self.languages:
                return str(wanted)
            have = f"wordings in {', '.join(self.languages)}" if self.languages else "a single wording; leave it out"
            raise BadRequest(f"slots: language {short(wanted)}: task {self.name!r} has {have}")
        texts = json.dumps([given[name] for name in given if not self.slots[name].choices], ensure_ascii=False)
        if "zh" in self.prompts and _HAN.search(texts) and not _KANA.search(texts):
            return "zh"
        return next(iter(self.prompts))

    def _render(
        self, key: str, wordings: Mapping[str, jinja2.Template], language: str, context: Mapping[str, Any]
    ) -> str:
        template = wordings.get(language, wordings.get(""))
        if template is None:
            return ""
        try:
            return template.render(context).strip()
        except _TEMPLATE_FAILURES as error:
            raise BrokenTask(
                key, f"task {self.name!r}: with these slots its {key} in {self.source} fails: {error}"
            ) from error

    def _schema(self, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if self.schema is None:
            return None
        schema: Mapping[str, Any] = _filled(self.schema, values)
        try:
            check_schema(schema)
        except SchemaError as error:
            raise BrokenTask(
                "schema", f"task {self.name!r}: with these slots its schema in {self.source} cannot be used: {error}"
            ) from error
        return schema


class Tasks(Mapping[str, Task]):
    """Tasks by name, in the order of their files."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = dict(tasks)

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def named(self, name: str) -> Task:
        """Return the task called ``name``; raises :class:`BadRequest`, which lists the nearest names."""
        if name in self._tasks:
            return self._tasks[name]
        raise BadRequest(f"task: there is no {short(name)}{nearest(name, self)}; there are {', '.join(self)}")


def parse_slots(text: str) -> Mapping[str, Any]:
    """Parse a goal's slots, a JSON object; {} for "". Raises :class:`BadRequest`."""
    if not text.strip():
        return {}
    try:
        slots = json.loads(text, object_pairs_hook=_unrepeated)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"slots: this is not JSON: {error}") from error
    if not isinstance(slots, dict):
        raise BadRequest('slots: this is JSON, but not an object such as {"what": "red cup"}')
    try:
        return input_json("slots", slots)  # type: ignore[no-any-return]
    except (ValueError, RecursionError) as error:
        raise BadRequest(str(error)) from error


def _texts(value: Any) -> tuple[str, ...]:
    """Return the value of a slot as texts."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def _filled(schema: Any, values: Mapping[str, Any]) -> Any:
    """Return ``schema`` with the values of the slots in place of the references."""
    if isinstance(schema, list):
        return [_filled(item, values) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$slot" in schema:
        return values[schema["$slot"]]
    if "$each" in schema:
        return {text: _filled(schema["as"], values) for text in values[schema["$each"]] or ()}
    return {key: _filled(value, values) for key, value in schema.items()}


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    slots: dict[str, Any] = {}
    for name, value in pairs:
        if name in slots:
            raise ValueError(f"{short(name)} is there twice")
        slots[name] = value
    return slots


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint such as ", did you mean 'locate'?"; "" if no name is similar."""
    near = difflib.get_close_matches(name[:60], list(names))
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""


def short(value: Any) -> str:
    """Return ``value`` as JSON, truncated if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
