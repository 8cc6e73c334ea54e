"""Ready-made questions: files of tasks, and the question that a goal's task, prompt and slots make.

docs/tasks.md describes the files, :data:`TASK_FILE` is their schema. A file's texts are Jinja templates and run in a
sandbox; what a goal puts into a slot is only ever a value in them.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import jinja2
import jinja2.meta
import jinja2.sandbox
import jsonschema
import yaml

from qwen3vl_ros.dialogue.camera_view import CameraView
from qwen3vl_ros.dialogue.question import Parser, merge_options
from qwen3vl_ros.engines.base import BadRequest, Options

SlotType: TypeAlias = Literal["text", "number", "boolean", "texts"]

_WORDING: Final = {
    "description": "One template, or one by language.",
    "type": ["string", "object"],
    "minLength": 1,
    "minProperties": 1,
    "propertyNames": {"pattern": "^[a-z]{2}$"},
    "additionalProperties": {"type": "string", "minLength": 1},
}
_NAME: Final = {"pattern": "^[a-z][a-z0-9_]*$"}
_SLOT: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["type", "description"],
    "properties": {
        "type": {"enum": ["text", "number", "boolean", "texts"]},
        "description": {"type": "string", "minLength": 1},
        "default": {"description": "What an unset slot holds; null for nothing. A slot without one is required."},
        "choices": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string", "minLength": 1}},
    },
}
_TASK: Final = {
    "type": "object",
    "additionalProperties": False,
    "required": ["description", "prompt", "parser", "example"],
    "properties": {
        "description": {"type": "string", "minLength": 1},
        "main": {"description": "The slot that a goal's prompt fills.", "type": "string"},
        "slots": {"type": "object", "propertyNames": _NAME, "additionalProperties": _SLOT},
        "prompt": _WORDING,
        "system_prompt": _WORDING,
        "options": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                option.name: {"type": "array", "items": {"type": "string"}}
                if option.name == "stop"
                else {"type": "integer" if option.name in ("top_k", "seed", "max_tokens") else "number", "minimum": 0}
                for option in fields(Options)
            },
        },
        "parser": {"enum": ["text", "json", "regions", "regions_3d"]},
        "schema": {"type": "object"},
        "pictures": {"type": "integer", "minimum": 1},
        "example": {
            "type": "object",
            "additionalProperties": False,
            "required": ["answer"],
            "properties": {"slots": {"type": "object"}, "answer": {}},
        },
    },
}
TASK_FILE: Final[Mapping[str, Any]] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["tasks"],
    "properties": {
        "tasks": {"type": "object", "minProperties": 1, "propertyNames": _NAME, "additionalProperties": _TASK}
    },
}
"""The JSON Schema of a file of tasks."""

_TYPES: Final[Mapping[SlotType, tuple[str, str]]] = {
    "text": ("a text", '"red cup"'),
    "number": ("a number", "3"),
    "boolean": ("true or false", "true"),
    "texts": ("a list of texts", '["cup", "bottle"]'),
}
_KEYS_OF_REGIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "regions": ("bbox_2d", "point_2d"),
    "regions_3d": ("bbox_3d",),
}
_SEPARATORS: Final = re.compile("[,\uff0c\u3001;\uff1b\n]")  # those of Chinese among them
_HAN: Final = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA: Final = re.compile("[\u3040-\u30ff]")  # Han characters among these are Japanese
_TEMPLATE_FAILURES: Final = (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


class TaskFileError(ValueError):
    """A file of tasks has mistakes: one line for each, with the file, the task and the key."""


class _BrokenTask(BadRequest):
    """Not the goal is at fault but what the task says at ``key``."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


@dataclass(frozen=True, slots=True)
class TaskQuestion:
    """A task with its slots filled in. ``options`` has only what the task sets, None for the rest.

    ``response_schema``: what the answer must satisfy, None for text. ``pictures``: how many are needed at least.
    ``language``: of the wording, "" where the task has only one.
    """

    task: str
    prompt: str
    system_prompt: str
    options: Options
    response_schema: Mapping[str, Any] | None
    parser: Parser
    pictures: int
    language: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a task for something that a goal says. ``default`` is None for nothing."""

    name: str
    type: SlotType
    description: str
    required: bool = True
    default: Any = None
    choices: tuple[str, ...] = ()

    def value_of(self, value: Any) -> Any:
        """``value`` as templates get it; texts are stripped, repeated ones left out. ValueError in words."""
        if self.type == "text" and isinstance(value, str):
            value = value.strip()
            if self.choices and value and value not in self.choices:
                raise ValueError(f"wants one of {', '.join(map(repr, self.choices))}, not {_short(value)}")
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
        raise ValueError(f"wants {article}, such as {example}, not {_short(value)}")


@dataclass(frozen=True)
class Task:
    """A ready-made question. ``source``: the file it is from. ``main``: the slot that a goal's prompt fills, if any.

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
    pictures: int
    options: Options
    schema: Mapping[str, Any] | None
    example_slots: Mapping[str, Any]
    example_answer: Any
    uses_camera: bool
    prompts: Mapping[str, jinja2.Template] = field(repr=False)
    system_prompts: Mapping[str, jinja2.Template] = field(repr=False)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the wordings (ISO 639-1), the ordinary one first; () where there is a single one."""
        return tuple(language for language in self.prompts if language)

    def ask(
        self, prompt: str = "", slots: Mapping[str, Any] | None = None, camera: CameraView | None = None
    ) -> TaskQuestion:
        """The question. ``prompt`` fills the main slot; where that is a list it is split at commas and semicolons.

        Raises :class:`BadRequest` naming the slot, its type and an example.
        """
        given = {name: value for name, value in (slots or {}).items() if value is not None}
        wanted = given.pop("language", None)
        if prompt.strip():
            given = self._with_prompt(prompt, given)
        unknown = next((name for name in given if name not in self.slots), None)
        if unknown is not None:
            raise BadRequest(
                f"slots: task {self.name!r} has no slot {_short(unknown)}{_nearest(unknown, self.slots)}; "
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
            pictures=self.pictures,
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
            raise BadRequest(f"slots: language {_short(wanted)}: task {self.name!r} has {have}")
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
            raise _BrokenTask(
                key, f"task {self.name!r}: with these slots its {key} in {self.source} fails: {error}"
            ) from error

    def _schema(self, values: Mapping[str, Any]) -> Mapping[str, Any] | None:
        if self.schema is None:
            return None
        schema: Mapping[str, Any] = _filled(self.schema, values)
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise _BrokenTask(
                "schema",
                f"task {self.name!r}: with these slots its schema in {self.source} is no JSON Schema: "
                f"{error.json_path}: {error.message:.200}",
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
        """The task of that name. Raises :class:`BadRequest` that lists the nearest names."""
        if name in self._tasks:
            return self._tasks[name]
        raise BadRequest(f"task: there is no {_short(name)}{_nearest(name, self)}; there are {', '.join(self)}")


def parse_slots(text: str) -> Mapping[str, Any]:
    """The slots in a goal: a JSON object, {} for "". Raises :class:`BadRequest`."""
    if not text.strip():
        return {}
    try:
        slots = json.loads(text, object_pairs_hook=_unrepeated)
        json.dumps(slots, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"slots: the JSON has half a character: {error.object[error.start]!a}") from error
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"slots: this is not JSON: {error}") from error
    if not isinstance(slots, dict):
        raise BadRequest('slots: this is JSON, but not an object such as {"what": "red cup"}')
    return slots


def load_tasks(paths: Iterable[Path | str]) -> Tasks:
    """The tasks in these files; one in a later file takes the place of one of the same name in an earlier file.

    Raises :class:`TaskFileError` with every mistake in all of them.
    """
    tasks: dict[str, Task] = {}
    mistakes: list[str] = []
    for path in paths:
        definitions = _read(Path(path), mistakes)
        for name, definition in definitions.items():
            try:
                tasks[name] = _build(name, definition, str(path))
            except _Mistake as mistake:
                mistakes.append(f"{path}: task {name!r}, key {mistake.key!r}: {mistake}")
    if mistakes:
        raise TaskFileError("\n".join(mistakes))
    return Tasks(tasks)


class _Mistake(Exception):
    """One mistake in a definition, at ``key``."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(sentence)
        self.key = key


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as people mean it: a key that is there twice, or is not text, is a mistake."""

    def compose_mapping_node(self, anchor: str | None) -> Any:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            wrong = ""
            if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
                wrong = f"the key {key.value!s:.50} is not text: quote it"
            elif key.value in seen:
                wrong = f"the key {key.value!r} is there twice"
            if wrong:
                raise yaml.composer.ComposerError(None, None, wrong, key.start_mark)
            seen.add(key.value)
        return node


def _read(path: Path, mistakes: list[str]) -> Mapping[str, Any]:
    """The well-formed definitions in a file; what is wrong with the others is added to ``mistakes``."""
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        json.dumps(document, allow_nan=False)
    except OSError as error:
        mistakes.append(f"{path}: this file of tasks cannot be read: {error.strerror or error}")
        return {}
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # ValueError: not UTF-8, a number of thousands of digits or .nan; TypeError: dates and binary data
        reason = " ".join(str(error).split())
        mistakes.append(f"{path}: this is not YAML of texts, numbers, lists and mappings: {reason}")
        return {}
    malformed: set[str] = set()
    for fault in jsonschema.Draft202012Validator(TASK_FILE).iter_errors(document):
        steps = [str(step) for step in fault.absolute_path]
        if fault.validator == "required":
            steps.append(fault.message.split("'")[1])
        elif fault.validator == "additionalProperties":
            steps.append(_extra(fault))
        place = f" task {steps[1]!r}," if len(steps) > 1 else ""
        key = f" key {'.'.join(steps[2:] or steps)!r}:" if steps else ""
        mistakes.append(f"{path}:{place}{key} {_explained(fault)}")
        malformed.update(steps[1:2])
    found = document.get("tasks") if isinstance(document, dict) else None
    return {name: found[name] for name in found if name not in malformed} if isinstance(found, dict) else {}


def _extra(error: Any) -> str:
    """The key of which a jsonschema.ValidationError says that it should not be there."""
    extra: str = next(name for name in error.instance if name not in error.schema["properties"])
    return extra


def _explained(error: Any) -> str:
    """A jsonschema.ValidationError in a sentence."""
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        return f"there is no such key{_nearest(_extra(error), known)}; there are {', '.join(known)}"
    if error.validator == "required":
        return "this key is missing"
    if error.validator == "pattern":
        return f"{_short(error.instance)} is no name here: it does not match {error.validator_value}"
    return f"{error.message:.200}"


_sandbox = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
)
_sandbox.globals.clear()
_sandbox.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)


def _build(name: str, definition: Mapping[str, Any], source: str) -> Task:
    slots = {key: _slot(key, entry) for key, entry in definition.get("slots", {}).items()}
    main = definition.get("main")
    if main is not None and (main not in slots or slots[main].type not in ("text", "texts")):
        raise _Mistake("main", f"{main!r} is no slot of type text or texts of this task")
    schema = definition.get("schema")
    if (schema is None) != (definition["parser"] == "text"):
        raise _Mistake("schema", "every parser but text needs a schema, and text has none: JSON goes through json")
    in_schema = set(_references(schema))
    if in_schema - set(slots):
        raise _Mistake("schema", f"it uses {min(in_schema - set(slots))!r}, which is no slot of this task")
    prompts, in_prompts = _wordings("prompt", definition["prompt"], slots)
    system_prompts, in_system_prompts = _wordings("system_prompt", definition.get("system_prompt", {}), slots)
    if system_prompts and set(system_prompts) not in ({""}, set(prompts)):
        raise _Mistake("system_prompt", "give one text, or one for each language of the prompt")
    for language in prompts:
        used = in_schema | in_prompts[language] | in_system_prompts.get(language, in_system_prompts.get("", set()))
        if set(slots) - used:
            where = f"in {language!r}" if language else "here"
            raise _Mistake(f"slots.{min(set(slots) - used)}", f"nothing {where} uses this slot")
    example = definition["example"]
    task = Task(
        name=name,
        description=definition["description"],
        source=source,
        slots=slots,
        main=main,
        parser=definition["parser"],
        pictures=definition.get("pictures", 1),
        options=_options(definition.get("options", {})),
        schema=schema,
        example_slots=example.get("slots", {}),
        example_answer=example["answer"],
        uses_camera=any("camera" in names for names in (*in_prompts.values(), *in_system_prompts.values())),
        prompts=prompts,
        system_prompts=system_prompts,
    )
    _check_example(task)
    return task


def _slot(name: str, entry: Mapping[str, Any]) -> Slot:
    key = f"slots.{name}"
    if name in ("language", "camera"):
        raise _Mistake(key, "templates know this name already; choose another one")
    if "choices" in entry and entry["type"] != "text":
        raise _Mistake(f"{key}.choices", "only a slot of type text has them")
    slot = Slot(
        name=name,
        type=entry["type"],
        description=entry["description"],
        required="default" not in entry,
        choices=tuple(entry.get("choices", ())),
    )
    if entry.get("default") is None:
        return slot
    try:
        return replace(slot, default=slot.value_of(entry["default"]))
    except ValueError as error:
        raise _Mistake(f"{key}.default", f"this slot {error}") from error


def _wordings(
    key: str, texts: str | Mapping[str, str], slots: Mapping[str, Slot]
) -> tuple[dict[str, jinja2.Template], dict[str, set[str]]]:
    """Templates by language ("" for one that has none), and the names that each uses."""
    templates: dict[str, jinja2.Template] = {}
    names: dict[str, set[str]] = {}
    for language, text in ({"": texts} if isinstance(texts, str) else texts).items():
        place = f"{key}.{language}" if language else key
        try:
            names[language] = jinja2.meta.find_undeclared_variables(_sandbox.parse(text))
            templates[language] = _sandbox.from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise _Mistake(place, f"line {error.lineno} of this template: {error.message}") from error
        unknown = names[language] - set(slots) - {"camera", "language"}
        if unknown:
            raise _Mistake(place, f"it uses {min(unknown)!r}, which is no slot{_nearest(min(unknown), slots)}")
    return templates, names


def _options(options: Mapping[str, Any]) -> Options:
    try:
        return merge_options(options, {})
    except BadRequest as error:
        raise _Mistake("options", str(error)) from error


def _check_example(task: Task) -> None:
    """Ask as the example does, in every language, and look at its answer. Raises :class:`_Mistake`."""
    slots = task.example_slots
    views = (None, CameraView(640, 480, 554.0, 554.0, 320.0, 240.0)) if task.uses_camera else (None,)
    for language in task.prompts:
        for view in views:
            try:
                question = task.ask("", {**slots, "language": language} if language else slots, view)
            except _BrokenTask as error:
                raise _Mistake(error.key, str(error)) from error
            except BadRequest as error:
                raise _Mistake("example.slots", str(error)) from error
            if not question.prompt:
                raise _Mistake("prompt", "it is empty with the slots of the example")
    answer = task.example_answer
    if task.parser == "text":
        if not isinstance(answer, str):
            raise _Mistake("example.answer", f"the answer of parser text is text, not {_short(answer)}")
        return
    try:
        jsonschema.validate(answer, task.ask("", slots).response_schema, cls=jsonschema.Draft202012Validator)
    except jsonschema.ValidationError as error:
        raise _Mistake("example.answer", f"it breaks the schema at {error.json_path}: {error.message:.200}") from error
    except Exception as error:  # the validator raises whatever a schema's patterns and references do
        raise _Mistake("schema", f"nothing can be checked against it: {error!s:.200}") from error
    keys = _KEYS_OF_REGIONS.get(task.parser, ())
    if keys and not any(f'"{key}": ' in json.dumps(answer) for key in keys):
        raise _Mistake("example.answer", f"parser {task.parser} reads objects with {' or '.join(keys)}: it has none")


def _references(schema: Any) -> Iterator[str]:
    """Names of the slots that a schema refers to. Raises :class:`_Mistake` for a reference that is malformed."""
    if isinstance(schema, list):
        for item in schema:
            yield from _references(item)
    elif isinstance(schema, dict):
        if "$slot" in schema or "$each" in schema:
            name = schema.get("$slot", schema.get("$each"))
            if set(schema) not in ({"$slot"}, {"$each", "as"}) or not isinstance(name, str):
                raise _Mistake("schema", "a reference is {$slot: NAME} or {$each: NAME, as: SCHEMA} and nothing else")
            yield name
        for value in schema.values():
            yield from _references(value)


def _filled(schema: Any, values: Mapping[str, Any]) -> Any:
    """A schema with the values of the slots in the places of the references."""
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
    repeated = next((name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i])), None)
    if repeated is not None:
        raise ValueError(f"{_short(repeated)} is there twice")
    return dict(pairs)


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:60], list(names))
    return f", did you mean {' or '.join(map(repr, near))}?" if near else ""


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
