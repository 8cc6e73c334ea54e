"""Loads files of tasks, checks them including every template, and reports all mistakes at once.

docs/tasks.md describes the files, :data:`TASK_FILE` is their schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import jinja2
import jinja2.meta
import jinja2.sandbox
import jsonschema
import yaml

from qwen3vl_ros.engines.base import BadRequest, Options
from qwen3vl_ros.engines.choices import beginnings
from qwen3vl_ros.prompts.camera_view import CameraView
from qwen3vl_ros.prompts.request import MOST_IMAGE_TOKENS, merge_options
from qwen3vl_ros.prompts.schema import validate_answer
from qwen3vl_ros.prompts.tasks import BrokenTask, Slot, Task, Tasks, nearest, short

_WORDING: Final = {
    "description": "One template, or one by language.",
    "type": ["string", "object"],
    "minLength": 1,
    "minProperties": 1,
    "propertyNames": {"pattern": "^[a-z]{2}$"},
    "additionalProperties": {"type": "string", "minLength": 1},
}
MOST_CLIP_SECONDS: Final = 3600
"""The longest clip of a task; histories of cameras are shorter."""

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
        "min_images": {"type": "integer", "minimum": 1},
        "max_image_tokens": {
            "description": "Tokens that an image may take at most, where the goal does not say.",
            "type": "integer",
            "minimum": 1,
            "maximum": MOST_IMAGE_TOKENS,
        },
        "answer_from": {
            "description": "What answers: the model, or the node's memory of what its cameras saw, which is asked for "
            "the thing that the prompt names.",
            "enum": ["model", "memory"],
        },
        "clip_duration": {
            "description": "The task is about a clip, of so many seconds where the goal does not say.",
            "type": "number",
            "exclusiveMinimum": 0,
            "maximum": MOST_CLIP_SECONDS,
        },
        "choices": {
            "description": "Words that the answer begins with, in groups that mean the same, for its probability.",
            "type": "array",
            "minItems": 2,
            "items": {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
        },
        "score_threshold": {
            "description": "Regions whose score is lower are left out.",
            "type": "number",
            "minimum": 0,
            "maximum": 1,
        },
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
_KEYS_OF_REGIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "regions": ("bbox_2d", "point_2d"),
    "regions_3d": ("bbox_3d",),
}


class TaskFileError(ValueError):
    """A file of tasks has mistakes: one line for each, with the file, the task and the key."""


def load_tasks(paths: Iterable[Path | str]) -> Tasks:
    """Load the tasks in these files; a task in a later file replaces one of the same name in an earlier file.

    Raises:
        TaskFileError: There are mistakes; it lists those of all files.
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
    """A strict YAML loader: a duplicate key, or one that is not text, is a mistake."""

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
    """Return the well-formed definitions in a file; append what is wrong with the others to ``mistakes``."""
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
    """Return the unexpected key that a jsonschema.ValidationError reports."""
    extra: str = next(name for name in error.instance if name not in error.schema["properties"])
    return extra


def _explained(error: Any) -> str:
    """Return a jsonschema.ValidationError as a sentence."""
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        return f"there is no such key{nearest(_extra(error), known)}; there are {', '.join(known)}"
    if error.validator == "required":
        return "this key is missing"
    if error.validator == "pattern":
        return f"{short(error.instance)} is no name here: it does not match {error.validator_value}"
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
        min_images=definition.get("min_images", 1),
        max_image_tokens=definition.get("max_image_tokens", 0),
        clip_duration=definition.get("clip_duration", 0.0),
        from_memory=definition.get("answer_from") == "memory",
        options=_options(definition.get("options", {})),
        choices=_choices(definition.get("choices", []), definition["parser"]),
        score_threshold=_score_threshold(definition.get("score_threshold"), definition["parser"]),
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
    """Compile templates; return them by language ("" for a single text), and the names that each uses."""
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
            raise _Mistake(place, f"it uses {min(unknown)!r}, which is no slot{nearest(min(unknown), slots)}")
    return templates, names


def _options(options: Mapping[str, Any]) -> Options:
    try:
        return merge_options(options, {})
    except BadRequest as error:
        raise _Mistake("options", str(error)) from error


def _choices(choices: list[list[str]], parser: str) -> tuple[tuple[str, ...], ...]:
    if choices and parser != "text":
        raise _Mistake("choices", f"an answer of parser {parser} begins with a bracket: only text has choices")
    told_apart = set(beginnings(choices).values())
    for number, words in enumerate(choices):
        if number not in told_apart:
            raise _Mistake("choices", f"nothing tells {short(words)} from the others at the beginning of an answer")
    return tuple(map(tuple, choices))


def _score_threshold(threshold: float | None, parser: str) -> float:
    if threshold is not None and parser not in ("regions", "regions_3d"):
        raise _Mistake("score_threshold", f"the answer of parser {parser} has no regions, and so no scores")
    return threshold or 0.0


def _check_example(task: Task) -> None:
    """Render the task's example in every language and parse its answer; raises :class:`_Mistake`."""
    slots = task.example_slots
    views = (None, CameraView(640, 480, 554.0, 554.0, 320.0, 240.0)) if task.uses_camera else (None,)
    for language in task.prompts:
        for view in views:
            try:
                question = task.ask("", {**slots, "language": language} if language else slots, view)
            except BrokenTask as error:
                raise _Mistake(error.key, str(error)) from error
            except BadRequest as error:
                raise _Mistake("example.slots", str(error)) from error
            if not question.prompt:
                raise _Mistake("prompt", "it is empty with the slots of the example")
    answer = task.example_answer
    if task.parser == "text":
        if not isinstance(answer, str):
            raise _Mistake("example.answer", f"the answer of parser text is text, not {short(answer)}")
        return
    schema = task.ask("", slots).response_schema or {}
    try:
        validate_answer(json.dumps(answer), schema)
    except ValueError as error:
        raise _Mistake("example.answer", str(error)) from error
    keys = _KEYS_OF_REGIONS.get(task.parser, ())
    if keys and not any(f'"{key}": ' in json.dumps(answer) for key in keys):
        raise _Mistake("example.answer", f"parser {task.parser} reads objects with {' or '.join(keys)}: it has none")


def _references(schema: Any) -> Iterator[str]:
    """Yield the names of the slots that a schema refers to; raises :class:`_Mistake` for a malformed reference."""
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
