"""A task turns a word or two into a question that Qwen3-VL answers well, or says in a sentence why it cannot."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.engines.base import BadRequest, ImageInput
from qwen3vl_ros.engines.maix_http.tokens import most_tokens
from qwen3vl_ros.prompts.camera_view import CameraView
from qwen3vl_ros.prompts.schema import validate_answer
from qwen3vl_ros.prompts.task_files import TaskFileError, load_tasks
from qwen3vl_ros.prompts.tasks import Task, parse_slots
from qwen3vl_ros.vision.fit import fit_image
from qwen3vl_ros.vision.grounding import parse_regions
from qwen3vl_ros.vision.moments import Moment, parse_moments

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = REPOSITORY / "config" / "tasks.yaml"
TASKS = load_tasks([SHIPPED])
CAMERA = CameraView(width=640, height=480, fx=554.256, fy=554.256, cx=320.0, cy=240.0)
PROMISED = {
    *("caption", "vqa", "yes_no", "count", "locate", "point", "locate_3d", "describe_spatial", "ocr", "ocr_fields"),
    *("read_gauge", "classify", "find_anomaly", "compare", "gui_elements", "image_to_html", "image_to_drawio"),
    *("translate_sign", "steps_to"),
    *("what_happened", "when", "before_after", "count_events", "track", "where_last"),
}
ABOUT_A_CLIP = {"what_happened", "when", "before_after", "count_events", "track"}


def each_task(*parsers: str) -> pytest.MarkDecorator:
    """For every task whose answers go through one of these parsers, or any."""
    chosen = {name: task for name, task in TASKS.items() if not parsers or task.parser in parsers}
    return pytest.mark.parametrize("task", chosen.values(), ids=list(chosen))


def wordings(task: Task) -> list[Any]:
    """The example's question in every language of the task."""
    languages = task.languages or (None,)
    return [task.ask("", {**task.example_slots, "language": language}, CAMERA) for language in languages]


def write(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


# The tasks that ship.


def test_the_promised_tasks_are_there() -> None:
    assert set(TASKS) >= PROMISED


@each_task()
def test_an_example_is_an_answer_that_its_own_task_takes(task: Task) -> None:
    for question in wordings(task):
        if task.parser == "text":
            assert question.response_schema is None
            assert task.example_answer.strip()
            continue
        text = json.dumps(task.example_answer, ensure_ascii=False)
        assert json.loads(validate_answer(text, question.response_schema)) == task.example_answer
        with pytest.raises(jsonschema.ValidationError):  # a schema that takes anything checks nothing
            jsonschema.validate("an apology", question.response_schema)


@each_task("regions", "regions_3d")
def test_regions_have_the_shapes_that_qwen3vl_emits(task: Task) -> None:
    lengths = {"bbox_2d": 4, "point_2d": 2} if task.parser == "regions" else {"bbox_3d": 9}
    schema = wordings(task)[0].response_schema
    for region in task.example_answer:
        (key,) = lengths.keys() & region.keys()
        assert len(region[key]) == lengths[key]
        assert isinstance(region["label"], str)
        for numbers in (region[key][:-1], [*region[key], 1]):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate([region | {key: numbers}], schema)
        if task.parser == "regions":
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate([region | {key: [1001] * lengths[key]}], schema)


@each_task("regions", "regions_3d")
def test_an_examples_regions_are_read(task: Task) -> None:
    _, fit = fit_image(np.zeros((480, 640, 3), np.uint8), ImageInput())
    grounding = parse_regions(json.dumps(task.example_answer), [fit])
    assert not grounding.skipped
    assert [region.label for region in grounding.regions] == [item["label"] for item in task.example_answer]
    for region in grounding.regions:
        assert region.box or region.point or region.position


@each_task()
def test_a_task_speaks_english_and_chinese_or_neither(task: Task) -> None:
    assert task.languages in (("en", "zh"), ())
    for question in wordings(task):
        text = question.prompt + question.system_prompt
        assert bool(re.search("[\u4e00-\u9fff]", text)) == (question.language == "zh")
        assert not re.search(r"[{}]{2}|\{%|  |\bNone\b|\bnone\b", text)


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"compare"} - ABOUT_A_CLIP))
def test_a_question_fits_the_npus_320_tokens_beside_its_image(name: str) -> None:
    # The two images of compare alone are too many, and the NPU takes no clips.
    for question in wordings(TASKS[name]):
        image, template = (448 // 32) ** 2, 10
        assert image + template + most_tokens(question.system_prompt + question.prompt) <= 320


@each_task("json", "regions", "regions_3d")
def test_the_cpu_engine_can_follow_every_schema(task: Task) -> None:
    grammar = pytest.importorskip("llama_grammar")
    schema = wordings(task)[0].response_schema
    assert grammar.accepts(schema, json.dumps(task.example_answer, ensure_ascii=False))


@each_task()
def test_one_prompt_is_enough_where_there_is_one_thing_to_say(task: Task) -> None:
    required = {slot.name for slot in task.slots.values() if slot.required}
    assert required <= {task.main}
    if not required:
        assert task.ask().prompt
    if task.main:
        asked = task.ask("cup")
        assert "cup" in asked.prompt
        value = ["cup"] if task.slots[task.main].type == "texts" else "cup"
        assert asked == task.ask("", {task.main: value})
    else:
        with pytest.raises(BadRequest, match="takes none"):
            task.ask("cup")


def test_grounding_is_asked_for_in_qwens_own_words() -> None:
    assert TASKS["locate"].ask("red cup").prompt == (
        'Locate every object that matches the description "red cup" in the image. '
        "Report bbox coordinates in JSON format."
    )
    assert TASKS["detect"].ask("cup, bottle").prompt == (
        "Locate every instance that belongs to the following categories: 'cup, bottle'. "
        "Report bbox coordinates in JSON format."
    )
    assert TASKS["locate_3d"].ask("chair").prompt == (
        "Locate the chair in the provided image and output their positions and dimensions using 3D bounding boxes. "
        'The results must be in the JSON format: `[{"bbox_3d":[x_center, y_center, z_center, x_size, y_size, z_size, '
        'roll, pitch, yaw],"label":"category"}]`.'
    )


def test_a_3d_question_tells_the_field_of_view_of_a_camera_that_is_known() -> None:
    task = TASKS["locate_3d"]
    assert task.uses_camera and not TASKS["locate"].uses_camera
    assert "60 by 47 degrees" in task.ask("chair", {}, CAMERA).prompt
    assert "60度和47度" in task.ask("椅子", {}, CAMERA).prompt
    for question in (task.ask("chair", {}, None), task.ask("chair", {"tell_camera": False}, CAMERA)):
        assert "degrees" not in question.prompt


def test_a_field_of_view_counts_an_off_centre_axis() -> None:
    assert CAMERA.horizontal_fov == pytest.approx(60.0, abs=1e-3)
    assert CAMERA.vertical_fov == pytest.approx(46.826, abs=1e-3)
    assert CameraView(100, 100, 100.0, 100.0, 0.0, 100.0).horizontal_fov == pytest.approx(45.0)


def test_yes_or_no_is_plain_text_whose_first_token_answers() -> None:
    task = TASKS["yes_no"]
    assert task.ask("Is the door open?").prompt == "Is the door open? Please answer yes or no."
    assert "“是”或“否”" in task.ask("门开着吗？").prompt
    question = task.ask("Is the door open?")
    assert (question.parser, question.response_schema, question.options.temperature) == ("text", None, 0.0)


def test_comparing_needs_two_images() -> None:
    assert {name for name, task in TASKS.items() if task.ask("", task.example_slots).min_images != 1} == {"compare"}


def test_tasks_about_time_ask_for_a_clip_of_some_seconds_and_no_others_do() -> None:
    assert {name for name, task in TASKS.items() if task.clip_duration} == ABOUT_A_CLIP
    assert {TASKS[name].clip_duration for name in ABOUT_A_CLIP} == {4}


def test_following_a_thing_is_asked_for_in_qwens_own_words() -> None:
    assert TASKS["track"].ask("red cup").prompt == (
        'Given the query "red cup", for each frame, detect and localize the visual content described by the given '
        "textual query in JSON format. If the visual content does not exist in a frame, skip that frame. "
        'Output Format: [{"time": 1.0, "bbox_2d": [x_min, y_min, x_max, y_max], "label": ""}, '
        '{"time": 2.0, "bbox_2d": [x_min, y_min, x_max, y_max], "label": ""}, ...].'
    )


@each_task("json")
def test_times_in_an_example_are_moments(task: Task) -> None:
    events = task.example_answer["events"] if task.name == "count_events" else task.example_answer
    if task.name in ABOUT_A_CLIP - {"before_after"}:
        moments = parse_moments(json.dumps(task.example_answer), 4.0).moments
        assert moments == tuple(Moment(event["description"], event["start"], event["end"]) for event in events)


def test_labels_become_the_only_answers() -> None:
    schema = TASKS["classify"].ask("open, half open").response_schema
    assert schema is not None
    assert schema["properties"]["label"] == {"enum": ["open", "half open"]}
    with pytest.raises(ValueError, match="is not one of"):
        validate_answer('{"label": "ajar"}', schema)
    # Another question's labels are its own.
    assert TASKS["classify"].ask("on, off").response_schema["properties"]["label"] == {"enum": ["on", "off"]}
    assert schema["properties"]["label"] == {"enum": ["open", "half open"]}


def test_fields_become_required_properties() -> None:
    schema = TASKS["ocr_fields"].ask("店名、总计, date").response_schema
    assert schema is not None
    validate_answer('{"店名": "书店", "总计": "8.00", "date": ""}', schema)
    with pytest.raises(ValueError, match="date"):
        validate_answer('{"店名": "书店", "总计": "8.00"}', schema)
    accepts = pytest.importorskip("llama_grammar").accepts
    assert accepts(schema, '{"店名":"书店","总计":"8.00","date":""}')
    assert not accepts(schema, '{"店名":"书店","总计":"8.00"}')


def test_the_tasks_page_has_every_task() -> None:
    page = (REPOSITORY / "docs" / "tasks.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert sorted(table) == sorted(TASKS)


# What a goal says.


@pytest.mark.parametrize(
    ("prompt", "slots", "language"),
    [
        ("red cup", {}, "en"),
        ("红色的杯子", {}, "zh"),
        ("la tasse rouge", {}, "en"),
        ("赤いコップ", {}, "en"),
        ("cup", {"language": "zh"}, "zh"),
        ("杯子", {"language": "en"}, "en"),
        ("", {"what": "杯子"}, "zh"),
    ],
)
def test_a_question_is_put_in_the_language_of_its_texts_unless_told(
    prompt: str, slots: dict[str, Any], language: str
) -> None:
    question = TASKS["locate"].ask(prompt, slots)
    assert question.language == language
    assert question.prompt.startswith("Locate" if language == "en" else "定位")


def test_an_open_question_is_left_as_it_is_unless_a_language_is_told() -> None:
    assert TASKS["vqa"].ask("Was ist das?").prompt == "Was ist das?"
    assert TASKS["vqa"].ask("这是什么？").prompt == "这是什么？"
    assert TASKS["vqa"].ask("这是什么？", {"language": "en"}).prompt == "这是什么？ Answer in English."


@given(st.text(min_size=1).filter(lambda text: text.strip()))
def test_a_slots_text_is_never_a_template(text: str) -> None:
    assert TASKS["vqa"].ask(text).prompt == text.strip()
    assert f'"{text.strip()}"' in TASKS["locate"].ask("", {"what": text, "language": "en"}).prompt


@pytest.mark.parametrize("text", ["{{ 7 * 7 }}", "{% for x in y %}", "{# gone #}", "{{ question }}", "<b>&amp</b>"])
def test_a_slots_braces_and_brackets_arrive_as_they_are(text: str) -> None:
    assert TASKS["vqa"].ask(text).prompt == text
    assert TASKS["ocr_fields"].ask(text).prompt.count(text) == 1


@pytest.mark.parametrize(
    ("name", "prompt", "slots", "words"),
    [
        ("locate", "", {}, ["'what'", "text", '{"what": "red cup"}', "as the prompt"]),
        ("locate", " \n", {"what": "  "}, ["'what'", "text", '{"what": "red cup"}']),
        ("locate", "", {"what": None}, ["'what'", "text"]),
        ("locate", "", {"what": 3}, ["'what'", "a text, such as", "not 3"]),
        ("locate", "cup", {"wat": "x"}, ['"wat"', "did you mean 'what'", "what (text)", "language"]),
        ("locate", "cup", {"what": "cup"}, ["'what'", "twice"]),
        ("locate", "cup", {"language": "fr"}, ['"fr"', "en, zh"]),
        ("locate", "cup", {"language": ["en"]}, ['["en"]', "en, zh"]),
        ("locate_3d", "cup", {"tell_camera": "yes"}, ["'tell_camera'", "true or false"]),
        ("caption", "", {"words": "ten"}, ["'words'", "a number, such as 3"]),
        ("caption", "", {"words": True}, ["'words'", "a number"]),
        ("caption", "", {"words": float("nan")}, ["'words'", "a number"]),
        ("classify", "", {"labels": []}, ["'labels'", "texts", '["open", "closed"]']),
        ("classify", " ,; ", {}, ["'labels'", "texts"]),
        ("classify", "", {"labels": "open"}, ["'labels'", 'a list of texts, such as ["cup", "bottle"]']),
        ("classify", "", {"labels": ["open", 3]}, ["'labels'", "a list of texts"]),
        ("parse_document", "", {"format": "pdf"}, ["'format'", "'markdown', 'html'", '"pdf"']),
        ("parse_document", "", {"language": "zh"}, ["a single wording"]),
    ],
)
def test_a_slot_that_does_not_fit_is_refused_by_name_type_and_example(
    name: str, prompt: str, slots: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(BadRequest) as refusal:
        TASKS[name].ask(prompt, slots)
    for word in (repr(name), *words):
        assert word in str(refusal.value)
    assert len(str(refusal.value)) < 400


def test_an_unknown_task_lists_the_nearest_names() -> None:
    with pytest.raises(BadRequest, match=r"did you mean 'locate' or 'locate_3d'\?.*there are caption, vqa"):
        TASKS.named("locat")
    with pytest.raises(BadRequest, match="there are caption"):
        TASKS.named("x" * 100_000)
    assert TASKS.named("locate") is TASKS["locate"]


def test_texts_are_separated_as_either_language_does_and_count_once() -> None:
    schema = TASKS["classify"].ask("cup，bottle、can; cup,\n jar ").response_schema
    assert schema is not None
    assert schema["properties"]["label"]["enum"] == ["cup", "bottle", "can", "jar"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", ": .*not JSON"),
        ("[]", ": .*not an object"),
        (r'{"what": "\u0000"}', r"\.what: .*NUL"),
        ('"cup"', ": .*not an object"),
        ('{"a": 1, "a": 2}', ": .*twice"),
    ],
)
def test_slots_that_are_no_json_object_are_refused(text: str, reason: str) -> None:
    with pytest.raises(BadRequest, match=f"^slots{reason}"):
        parse_slots(text)


def test_no_slots_are_an_empty_text() -> None:
    assert parse_slots("") == parse_slots(" ") == parse_slots("{}") == {}
    assert parse_slots('{"what": "杯子"}') == {"what": "杯子"}


@examples(50)
@given(
    st.text()
    | st.recursive(st.none() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)).map(json.dumps)
)
def test_any_slots_are_an_object_or_refused(text: str) -> None:
    try:
        slots = parse_slots(text)
    except BadRequest:
        return
    for name in ("locate", "read_gauge", "classify"):
        assert refusal_of(TASKS[name], slots).startswith(("slots: ", "accepted"))


def refusal_of(task: Task, slots: Any) -> str:
    try:
        task.ask("", slots)
    except BadRequest as refusal:
        return str(refusal)
    return "accepted"


# Files of one's own.

MINE = """
tasks:
  locate:
    description: Mine.
    main: what
    slots:
      what: {type: text, description: What to find}
    prompt: "Where is {{ what }}?"
    parser: text
    example:
      slots: {what: the cup}
      answer: On the table.
  plants:
    description: Whether the plants need water.
    slots:
      kinds: {type: texts, description: Kinds of plants, default: [fern, ivy]}
    system_prompt: You are a gardener.
    prompt: "Do these need water: {{ kinds | join(', ') }}?"
    options: {temperature: 0.0, stop: ["\\n"]}
    parser: json
    schema:
      type: object
      properties: {$each: kinds, as: {type: boolean}}
      required: {$slot: kinds}
    example:
      answer: {fern: true, ivy: false}
"""


def test_a_later_file_adds_tasks_and_replaces_those_of_the_same_name(tmp_path: Path) -> None:
    tasks = load_tasks([SHIPPED, write(tmp_path, MINE)])
    assert set(tasks) == set(TASKS) | {"plants"}
    assert tasks["locate"].ask("the cup").prompt == "Where is the cup?"
    assert tasks["locate"].source.endswith("mine.yaml")
    assert tasks["point"].ask("cup") == TASKS["point"].ask("cup")
    question = tasks["plants"].ask()
    assert question.system_prompt == "You are a gardener."
    assert question.options.stop == ("\n",) and question.options.top_p is None
    assert question.response_schema == {
        "type": "object",
        "properties": {"fern": {"type": "boolean"}, "ivy": {"type": "boolean"}},
        "required": ["fern", "ivy"],
    }


def test_the_pages_example_of_an_own_task_works(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "tasks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(tasks:.*?)```", page, re.DOTALL)
    tasks = load_tasks([write(tmp_path, block)])
    (own,) = tasks.values()
    assert set(own.languages) == {"en", "zh"}
    (slots,) = re.findall(rf"--task {own.name} .*--slots '(.*)'", page)
    assert own.ask("shelf 3", parse_slots(slots)).prompt


def plants(changed: dict[str, Any]) -> dict[str, Any]:
    """The task plants of MINE with some of its keys changed; None leaves the key out."""
    task = {**yaml.safe_load(MINE)["tasks"]["plants"], **changed}
    return {key: value for key, value in task.items() if value is not None}


TEXT = {"type": "text", "description": "d"}


@pytest.mark.parametrize(
    ("changed", "key", "reason"),
    [
        ({"promt": "x"}, "promt", "did you mean 'prompt'"),
        ({"prompt": None}, "prompt", "missing"),
        ({"example": None}, "example", "missing"),
        ({"prompt": ""}, "prompt", ""),
        ({"prompt": 3}, "prompt", "type"),
        ({"prompt": {"english": "x"}}, "prompt", "english"),
        ({"prompt": "{{ kinds"}, "prompt", "line 1"),
        ({"prompt": {"en": "{{ kinds }}", "zh": "{% if %}"}}, "prompt.zh", "line 1"),
        ({"prompt": "{{ kind }}"}, "prompt", "did you mean 'kinds'"),
        ({"prompt": "{{ kinds[7] }}"}, "prompt", "fails"),
        ({"prompt": "{{ kinds.__class__.__mro__ }}"}, "prompt", "unsafe"),
        ({"prompt": "{{ kinds.append('x') }}"}, "prompt", "unsafe"),
        ({"prompt": "{% include 'other' %}{{ kinds }}"}, "prompt", "loader"),
        ({"prompt": "{% if not kinds %}x{% endif %}"}, "prompt", "empty"),
        ({"system_prompt": {"en": "x"}}, "system_prompt", "language"),
        ({"main": "sort"}, "main", "sort"),
        ({"slots": {"kinds": {"type": "word", "description": "d"}}}, "slots.kinds.type", "word"),
        ({"slots": {"kinds": {"type": "text"}}}, "slots.kinds.description", "missing"),
        ({"slots": {"Kinds": TEXT}}, "slots", "Kinds"),
        ({"slots": {"kinds": {"type": "texts", "description": "d", "default": "fern"}}}, "slots.kinds.default", "list"),
        ({"slots": {"kinds": {"type": "texts", "description": "d", "choices": ["a"]}}}, "slots.kinds.choices", "text"),
        (
            {"slots": {"kinds": {"type": "texts", "description": "d"}, "camera": TEXT}},
            "slots.camera",
            "choose another",
        ),
        ({"slots": {"kinds": {"type": "texts", "description": "d"}, "idle": TEXT}}, "slots.idle", "nothing"),
        ({"slots": {"kinds": {"type": "texts", "description": "d"}}}, "example.slots", "kinds"),
        ({"answer_from": "the cloud"}, "answer_from", "memory"),
        ({"options": {"temprature": 1}}, "options.temprature", "did you mean 'temperature'"),
        ({"options": {"temperature": 9}}, "options", "outside"),
        ({"options": {"temperature": -1}}, "options.temperature", "minimum"),
        ({"options": {"max_tokens": 1.5}}, "options.max_tokens", "integer"),
        ({"options": {"stop": [""]}}, "options", "empty stop"),
        ({"parser": "xml"}, "parser", "xml"),
        ({"parser": "text"}, "schema", "text has none"),
        ({"schema": None}, "schema", "needs a schema"),
        ({"schema": {"type": "objekt"}}, "schema", "not a JSON Schema"),
        ({"schema": {"enum": {"$slot": "kind"}}}, "schema", "kind"),
        ({"schema": {"enum": {"$slot": "kinds", "extra": 1}}}, "schema", "nothing else"),
        ({"schema": {"enum": {"$slot": ["kinds"]}}}, "schema", "nothing else"),
        ({"schema": {"properties": {"$each": "kinds"}}}, "schema", "nothing else"),
        ({"schema": {"$ref": "#/nowhere"}}, "schema", "nowhere"),
        ({"schema": {"patternProperties": {"(": {}}}}, "schema", ""),
        ({"schema": {"required": {"$slot": "kinds"}}, "example": {"answer": {}}}, "example.answer", "fern"),
        ({"parser": "regions"}, "example.answer", "bbox_2d or point_2d"),
        ({"parser": "text", "schema": None, "example": {"answer": 3}}, "example.answer", "not 3"),
        ({"example": {"answer": {"fern": True, "ivy": "no"}}}, "example.answer", "ivy"),
        ({"min_images": 0}, "min_images", "minimum"),
        ({"clip_duration": 0}, "clip_duration", "minimum"),
        ({"clip_duration": "long"}, "clip_duration", "number"),
        ({"score_threshold": 0.5}, "score_threshold", "no regions"),
        ({"score_threshold": 1.5}, "score_threshold", "maximum"),
    ],
)
def test_a_mistake_in_a_file_is_a_sentence_with_file_task_and_key(
    tmp_path: Path, changed: dict[str, Any], key: str, reason: str
) -> None:
    path = write(tmp_path, yaml.safe_dump({"tasks": {"plants": plants(changed)}}, allow_unicode=True))
    with pytest.raises(TaskFileError) as mistake:
        load_tasks([path])
    (line,) = str(mistake.value).splitlines()
    place = f"{path}: task 'plants', key '{key}': "
    assert line.startswith(place)
    assert reason in line.removeprefix(place)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not of type 'object'"),
        ("tasks: {}", "tasks"),
        ("task: {a: 1}", "did you mean 'tasks'"),
        ("tasks: [locate]", "tasks"),
        ("tasks: {Locate It: 3}", "Locate It"),
        ("tasks: {a: [}", "line 1"),
        ("tasks:\n\ta: 1", "line 2"),
        ("tasks: {yes: 1}", "the key yes is not text: quote it"),
        ("tasks: {a: 1, a: 2}", "the key 'a' is there twice"),
        ("tasks: {a: 2026-01-01}", "not JSON serializable"),
        ("tasks: {a: .nan}", "Out of range"),
        ("tasks: &a {b: *a}", "Circular"),
        ("tasks: {? [a] : b}", "not text"),
        ("tasks: !!python/object/apply:os.system ['touch owned']", "python/object"),
    ],
)
def test_a_file_that_is_no_file_of_tasks_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, text)
    with pytest.raises(TaskFileError) as mistake:
        load_tasks([path])
    assert str(mistake.value).startswith(f"{path}: ")
    assert reason in str(mistake.value)
    assert not Path("owned").exists()


def test_every_mistake_in_every_file_is_told_at_once(tmp_path: Path) -> None:
    first = write(tmp_path, MINE.replace("parser: json", "parser: xml").replace("{{ what }}", "{{ wat }}"), "1.yaml")
    latin = tmp_path / "3.yaml"
    latin.write_bytes("tasks: {ä: 1}".encode("latin-1"))
    with pytest.raises(TaskFileError) as mistakes:
        load_tasks([first, tmp_path / "2.yaml", latin, tmp_path])
    lines = str(mistakes.value).splitlines()
    assert len(lines) == 5
    assert any("'plants', key 'parser'" in line for line in lines)
    assert any("'locate', key 'prompt'" in line for line in lines)
    assert any("2.yaml" in line and "No such file" in line for line in lines)
    assert any("3.yaml" in line and "utf-8" in line for line in lines)
    assert any("directory" in line for line in lines)


WORDS = st.sampled_from(
    [
        "kinds",
        "$slot",
        "$each",
        "as",
        "type",
        "texts",
        "{{ kinds }}",
        "{% if %}",
        "en",
        "zh",
        "bbox_2d",
        "object",
        "",
        "x",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda value: st.lists(value, max_size=3) | st.dictionaries(WORDS, value, max_size=3),
    max_leaves=8,
)


@examples(60)
@given(st.dictionaries(st.sampled_from([*plants({}), "main", "min_images"]), VALUES, min_size=1, max_size=3))
def test_any_file_loads_or_is_refused_in_sentences(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({"tasks": {"plants": {**plants({}), **changed}}}), encoding="utf-8")
    mistakes = mistakes_of(path)
    if not mistakes:
        task = load_tasks([path])["plants"]
        assert task.ask("", task.example_slots).prompt
    for line in mistakes:
        assert line.startswith(f"{path}: task 'plants', key ")


def mistakes_of(path: Path) -> list[str]:
    try:
        load_tasks([path])
    except TaskFileError as mistakes:
        return str(mistakes).splitlines()
    return []
