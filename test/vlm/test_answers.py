"""What a robot can act on: JSON, boxes in pixels, points in metres, from one camera or several. Over real DDS."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point32
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import Answer, ChatMessage
from qwen3vl_ros.srv import ListTasks
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import Marker, MarkerArray

import third_party
from qwen3vl_ros.vlm.cameras import DEPTH_PATIENCE
from qwen3vl_ros.vlm.parameters import ready_made_tasks
from ros_client import SENSOR_DATA, RosClient, noise_image
from vlm_process import SharedVlm, VlmProcess

pytestmark = pytest.mark.ros
Code = AskImage.Result
WIDTH, HEIGHT, FOCAL = 333, 201, 300.0
CUP = '```json\n[{"bbox_2d": [250, 250, 500, 750], "label": "cup"}]\n```'
SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})


class Reciter:
    """The node with an engine whose answers a test chooses."""

    def __init__(self, folder: Path, start_vlm: Callable[..., VlmProcess]) -> None:
        self._folder = folder
        self._start = start_vlm

    def start(self, *answers: str, constrains: bool = False, **parameters: object) -> VlmProcess:
        self.say(*answers)
        files = {f"reciter__{name}": str(self._folder / name) for name in ("says", "heard")}
        node = self._start(engine="reciter", reciter__constrains=constrains, **files, **parameters).wait_connected()
        (self._folder / "heard").write_text("")
        return node

    def say(self, *answers: str) -> None:
        (self._folder / "says").write_text(json.dumps(answers))

    @property
    def heard(self) -> list[str]:
        return [json.loads(line) for line in (self._folder / "heard").read_text().splitlines()]


@pytest.fixture
def reciter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_vlm: Callable[..., VlmProcess]) -> Reciter:
    package = third_party.install(tmp_path / "installed", third_party.RECITER, {"reciter": "Reciter"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    return Reciter(tmp_path, start_vlm)


@pytest.fixture(scope="module")
def shared_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reciter")
    return third_party.install(folder / "installed", third_party.RECITER, {"reciter": "Reciter"})


@pytest.fixture
def shared_reciter(shared_package: Path, monkeypatch: pytest.MonkeyPatch, shared_vlm: SharedVlm) -> Reciter:
    """The same without parameters, for tests that leave it as they found it; their cameras show all the same."""
    monkeypatch.setenv("PYTHONPATH", str(shared_package), prepend=os.pathsep)
    return Reciter(shared_package, shared_vlm.get)


class Camera:
    """A camera that shows a wall 2 m away and, in the middle, a thing 1 m away; ten times a second."""

    def __init__(
        self,
        ros: RosClient,
        prefix: str = "",
        *,
        frame_id: str = "lens",
        late_depth: float = 0.0,
        only: tuple[str, ...] = ("camera_info", "depth", "image"),
        focal: float = FOCAL,
    ) -> None:
        self._ros = ros
        self._late = late_depth
        kinds = {"image": Image, "depth": Image, "camera_info": CameraInfo}
        self._publishers = {
            name: ros.node.create_publisher(kinds[name], f"/{prefix}{name}", SENSOR_DATA) for name in only
        }
        self._colour = noise_image(WIDTH, HEIGHT)
        depth = np.full((HEIGHT, WIDTH), 2.0, np.float32)
        depth[HEIGHT // 4 : 3 * HEIGHT // 4, WIDTH // 4 : WIDTH // 2] = 1.0
        self._depth = Image(height=HEIGHT, width=WIDTH, encoding="32FC1", step=4 * WIDTH)
        self._depth.data = depth.tobytes()
        k = [focal, 0.0, WIDTH / 2 - 0.5, 0.0, focal, HEIGHT / 2 - 0.5, 0.0, 0.0, 1.0]
        self._info = CameraInfo(width=WIDTH, height=HEIGHT, k=k, distortion_model="plumb_bob", d=[0.0] * 5)
        for message in (self._colour, self._depth, self._info):
            message.header.frame_id = frame_id
        self._timer = ros.node.create_timer(0.1, self._publish)

    def _publish(self) -> None:
        now = self._ros.node.get_clock().now()
        for name, message in (("camera_info", self._info), ("depth", self._depth), ("image", self._colour)):
            stamp = now.to_msg()
            if name == "depth":
                stamp.sec -= int(self._late)
            message.header.stamp = stamp
            if name in self._publishers:
                self._publishers[name].publish(message)

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self._ros.on_executor(self._close)

    def _close(self) -> None:
        self._ros.node.destroy_timer(self._timer)
        for publisher in self._publishers.values():
            self._ros.node.destroy_publisher(publisher)


# --- boxes and metres ------------------------------------------------------------------------------------------------


def test_a_box_comes_back_in_pixels_of_the_original_and_in_metres_with_the_frames_header(
    ros: RosClient, shared_reciter: Reciter
) -> None:
    shared_reciter.start(CUP)
    with Camera(ros), ros.listen(MarkerArray, "/vlm/markers") as markers:
        result = ros.ask("cup", task="locate").result()
        shown = markers.wait_for(lambda array: len(array.markers) > 1)
    assert result.error_code == Code.NONE, result.error_msg
    (cup,) = result.regions
    assert cup.label == "cup"
    assert (cup.roi.x_offset, cup.roi.y_offset) == pytest.approx((WIDTH / 4, HEIGHT / 4), abs=1)
    assert (cup.roi.width, cup.roi.height) == pytest.approx((WIDTH / 4, HEIGHT / 2), abs=2)
    assert cup.has_position, cup.position_error
    assert cup.position.header == result.image_headers[0]
    assert cup.position.header.frame_id == "lens"
    assert cup.position.point.z == pytest.approx(1.0, abs=0.2)
    assert cup.position.point.x == pytest.approx(-WIDTH / 8 / FOCAL, abs=0.03)
    assert cup.position.point.y == pytest.approx(0.0, abs=0.03)
    assert (cup.position_kind, cup.score) == (cup.POSITION_CENTRE, -1.0)
    assert json.loads(result.json)[0]["label"] == "cup"
    box, text = shown.markers[1:3]
    assert (box.type, text.type, text.text) == (Marker.CUBE, Marker.TEXT_VIEW_FACING, "cup")
    assert box.header == cup.position.header and box.pose.position.z == cup.position.point.z


def test_the_position_of_a_point_is_on_the_surface_and_says_so(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start('[{"point_2d": [300, 500], "label": "handle"}]')
    with Camera(ros):
        (handle,) = ros.ask("handle", task="point").result().regions
    assert (handle.has_position, handle.position_kind) == (True, handle.POSITION_SURFACE), handle.position_error


def test_depth_of_another_moment_is_not_used_and_said_so(ros: RosClient, reciter: Reciter) -> None:
    reciter.start(CUP)
    with Camera(ros, late_depth=3.0):
        (cup,) = ros.ask("cup", task="locate").result().regions
    assert not cup.has_position
    assert cup.position_error.startswith("NO_DEPTH: ") and "depth_tolerance" in cup.position_error


def test_a_calibration_that_makes_no_sense_is_the_cameras_fault_and_the_answer_stays(
    ros: RosClient, reciter: Reciter
) -> None:
    reciter.start(CUP)
    with Camera(ros, focal=-1.0):
        measured = ros.ask("cup", task="locate").result()
        reciter.say('[{"bbox_3d": [0.1, 0.2, 2, 1, 1, 1, 0, 0, 0], "label": "chair"}]')
        guessed = ros.ask("chair", task="locate_3d").result()
    assert (measured.error_code, guessed.error_code) == (Code.NONE, Code.NONE)
    (cup,) = measured.regions
    assert not cup.has_position
    assert cup.position_error.startswith("NO_DEPTH: ") and "camera_info has the focal lengths" in cup.position_error
    (chair,) = guessed.regions
    assert chair.has_position
    assert "field of view is" not in reciter.heard[-1]
    note, no_score = guessed.notes
    assert no_score.startswith("no score: engine 'reciter'")
    assert "was not told the camera's field of view" in note and "camera_info has the focal lengths" in note


@pytest.mark.once
def test_a_task_that_points_into_an_image_is_refused_without_one(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start(CUP)
    result = ros.ask("cup", task="locate", text_only=True).result()
    assert result.error_code == Code.BAD_REQUEST
    assert "the goal has 0" in result.error_msg
    assert shared_reciter.heard == []


def test_a_question_that_ends_does_not_wait_for_depth(ros: RosClient, reciter: Reciter) -> None:
    reciter.start("WAIT")
    silent = ros.node.create_publisher(Image, "/depth", SENSOR_DATA)
    try:
        with Camera(ros, only=("image", "camera_info")):
            goal = ros.ask("What?", timeout=Duration(nanosec=200_000_000))
            assert goal.result().error_code == Code.TIMEOUT
            assert goal.result().usage.total_time < 0.2 + DEPTH_PATIENCE
    finally:
        ros.on_executor(lambda: ros.node.destroy_publisher(silent))


def test_images_in_the_goal_have_boxes_and_no_metres(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start('[{"point_2d": [500, 100], "label": "tip"}]')
    (tip,) = ros.ask("tip", task="point", images=[noise_image(WIDTH, HEIGHT)]).result().regions
    assert tip.has_point and not tip.has_position and tip.position_error == ""
    assert tip.point == Point32(x=np.float32(WIDTH / 2), y=pytest.approx(HEIGHT / 10, abs=0.01))


@pytest.mark.once
def test_a_question_in_own_words_that_is_answered_with_boxes_has_regions_too(
    ros: RosClient, shared_reciter: Reciter
) -> None:
    shared_reciter.start(CUP)
    prompt = "Where is the cup? As JSON with bbox_2d."
    assert [region.label for region in ros.ask(prompt, images=[noise_image()]).result().regions] == ["cup"]
    shared_reciter.say('A "bbox_2d" is a box; I see none.')
    result = ros.ask(prompt, images=[noise_image()]).result()
    assert (result.error_code, list(result.regions)) == (Code.NONE, [])


@pytest.mark.once
def test_an_answer_that_points_at_nothing_usable_is_a_bad_response_with_the_raw_text(
    ros: RosClient, reciter: Reciter
) -> None:
    reciter.start("I cannot see any.", constrains=True)
    result = ros.ask("cup", task="locate", images=[noise_image()]).result()
    assert (result.error_code, result.text) == (Code.BAD_RESPONSE, "I cannot see any.")


def test_the_annotated_image_is_published_while_somebody_looks(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start(CUP)
    with ros.listen(Image, "/vlm/annotated") as annotated:
        plain = noise_image(WIDTH, HEIGHT)
        plain.header.frame_id = "shown"
        ros.ask("cup", task="locate", images=[plain]).result()
        drawn = annotated.wait_for(lambda image: image.header.frame_id == "shown")
    assert drawn.encoding == "rgb8" and drawn.width >= 640 and drawn.height > HEIGHT


# --- tasks -----------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_a_task_puts_what_the_goal_says_into_its_own_words(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start("[]")
    assert ros.ask("red cup", task="locate", images=[noise_image()]).result().error_code == Code.NONE
    assert 'description "red cup"' in shared_reciter.heard[0]
    shared_reciter.say('{"label": "open"}')
    slots = json.dumps({"labels": ["open", "shut"]})
    ros.ask(task="classify", prompt="", slots=slots, images=[noise_image()]).result()
    assert "open" in shared_reciter.heard[-1] and "shut" in shared_reciter.heard[-1]


@pytest.mark.once
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": "locat"}, "locate"),
        ({"task": "classify", "prompt": ""}, "labels"),
        ({"task": "classify", "slots": "{"}, "JSON"),
        ({"slots": '{"what": "cup"}'}, "no task"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused_with_the_reason(
    ros: RosClient, vlm: VlmProcess, fields: dict[str, str], words: str
) -> None:
    result = ros.ask(images=[noise_image()], **({"prompt": "?"} | fields)).result()
    assert result.error_code == Code.BAD_REQUEST, result.error_msg
    assert words in result.error_msg


@pytest.mark.once
def test_a_task_about_two_images_wants_two(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start("no")
    result = ros.ask(task="compare", prompt="", images=[noise_image()]).result()
    assert result.error_code == Code.BAD_REQUEST, result.error_msg
    assert "2 images" in result.error_msg


@pytest.mark.once
def test_the_model_that_ships_does_what_its_card_says_and_no_more(ros: RosClient, vlm: VlmProcess) -> None:
    card = vlm.wait_ready().model_card
    assert card.demonstration and "boxes" in card.domain
    result = ros.ask(task="ocr", prompt="", images=[noise_image()]).result()
    assert result.error_code == Code.UNSUPPORTED
    assert result.error_msg.startswith("task: the model Tabletop does not know 'ocr'; it knows caption, ")
    (note,) = ros.ask("Is there a box?", images=[noise_image()], options={"max_tokens": 2}).result().notes
    assert note.startswith(f"a demonstration model: {card.domain}")
    before = [ChatMessage(role="user", content=["Is there a box?"]), ChatMessage(role="assistant", content=["no"])]
    asked = ros.ask("And now?", history=before, images=[noise_image()]).result()
    assert (asked.error_code == Code.UNSUPPORTED) == (not card.conversation)


@pytest.mark.once
def test_tasks_of_ones_own_are_added_and_mistakes_in_them_are_named(
    ros: RosClient, reciter: Reciter, tmp_path: Path
) -> None:
    own, broken = tmp_path / "own.yaml", tmp_path / "broken.yaml"
    lamp = {"description": "Is it on?", "prompt": "Is the lamp on?", "parser": "text", "example": {"answer": "Yes."}}
    own.write_text(json.dumps({"tasks": {"lamp": lamp}}))
    broken.write_text(json.dumps({"tasks": {"lamp": lamp | {"promt": "Is the lamp on?"}}}))
    node = reciter.start("Yes.", task_files=[str(own)])
    assert ros.ask(task="lamp", prompt="", images=[noise_image()]).result().text == "Yes."
    assert reciter.heard == ["<image>Is the lamp on?"]
    assert ros.lifecycle("deactivate") and ros.lifecycle("cleanup")
    assert ros.set_parameter("task_files", [str(broken)]).successful
    assert not ros.lifecycle("configure")
    assert "broken.yaml" in node.wait_status(lambda s: "promt" in s.message).message


def test_the_node_lists_its_tasks_and_those_of_its_user(ros: RosClient, reciter: Reciter, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    lamp = {
        "description": "Is it on?",
        "main": "which",
        "slots": {
            "which": {"type": "text", "description": "Which lamp", "default": "left", "choices": ["left", "right"]}
        },
        "prompt": "Is the {{ which }} lamp on?",
        "parser": "text",
        "example": {"answer": "Yes."},
    }
    own.write_text(json.dumps({"tasks": {"lamp": lamp}}))
    node = reciter.start("Yes.", task_files=[str(own)])
    listed = {task.name: task for task in ros.call(ListTasks, "/vlm/list_tasks", ListTasks.Request()).tasks}
    assert list(node.wait_ready().tasks) == list(listed)
    assert {"locate", "yes_no", "lamp"} <= set(listed)
    assert (listed["lamp"].main, listed["lamp"].source) == ("which", str(own))
    (which,) = listed["lamp"].slots
    assert (which.type, which.required, which.default_json, list(which.choices)) == (
        *("text", False, '"left"'),
        ["left", "right"],
    )
    assert (listed["compare"].min_images, list(listed["compare"].languages)) == (2, ["en", "zh"])
    assert ros.lifecycle("deactivate") and ros.lifecycle("cleanup")
    assert not ros.call(ListTasks, "/vlm/list_tasks", ListTasks.Request()).tasks


# --- how sure it is --------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_yes_no_has_a_probability(ros: RosClient, vlm: VlmProcess) -> None:
    with ros.listen(Answer, "/vlm/answers") as answers:
        for _ in range(100):  # until the subscription is known to the node
            result = ros.ask(
                "Is the box red?", task="yes_no", images=[noise_image()], options={"max_tokens": 4}
            ).result()
            if answers.waiting:
                break
        logged = answers.wait_for(lambda answer: answer.task == "yes_no")
    assert result.error_code == Code.NONE, result.error_msg
    assert 0 <= result.probability <= 1 and 0 < result.probability_mass <= 1
    assert all(note.startswith("a demonstration model: ") for note in result.notes)
    assert (logged.probability, logged.probability_mass) == (result.probability, result.probability_mass)
    plain = ros.ask("Is the box red?", images=[noise_image()], options={"max_tokens": 4}).result()
    assert (plain.probability, plain.probability_mass, list(plain.notes)) == (-1, -1, list(result.notes))


@pytest.mark.once
def test_a_region_has_the_score_and_the_spread_that_its_tokens_tell(ros: RosClient, reciter: Reciter) -> None:
    reciter.start(CUP, reciter__tells=True)
    with Camera(ros):
        result = ros.ask("cup", task="locate").result()
    (cup,) = result.regions
    assert cup.score == pytest.approx(0.75)
    per_unit = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT]) / 1000
    assert list(cup.spread) == pytest.approx(list(per_unit / math.sqrt(12)), rel=1e-3)  # no doubt but the rounding
    covariance = np.reshape(cup.position_covariance, (3, 3))
    across = cup.position.point.z * cup.spread[0] / math.sqrt(2) / FOCAL
    assert covariance[0, 0] == pytest.approx(across**2, rel=0.2)
    assert np.allclose(covariance, covariance.T) and (np.linalg.eigvalsh(covariance) > 0).all()
    assert not any("score" in note for note in result.notes)


@pytest.mark.once
def test_the_shipped_model_says_how_sure_it_is_of_a_box(ros: RosClient, vlm: VlmProcess) -> None:
    frame = Path(__file__).parents[1] / "support" / "data" / "gazebo_frames" / "0000.jpg"
    image = CompressedImage(format="jpeg", data=frame.read_bytes())
    result = ros.ask("blue box", task="locate", compressed_images=[image], score_threshold=0.0).result()
    assert result.error_code == Code.NONE, result.error_msg
    assert result.regions
    for region in result.regions:
        assert 0 < region.score <= 1
        assert len(region.spread) == 4 and min(region.spread) > 0
    threshold = max(region.score for region in result.regions) + 1e-3
    surer = ros.ask("blue box", task="locate", compressed_images=[image], score_threshold=min(threshold, 1.0)).result()
    assert threshold > 1 or (not surer.regions and any("left out" in note for note in surer.notes))


@pytest.mark.once
def test_regions_below_the_threshold_of_the_goal_or_else_of_the_task_are_left_out(
    ros: RosClient, reciter: Reciter, tmp_path: Path
) -> None:
    own = tmp_path / "own.yaml"
    tasks = yaml.safe_load(ready_made_tasks().read_text())["tasks"]
    own.write_text(json.dumps({"tasks": {"surely": tasks["locate"] | {"score_threshold": 0.8}}}))
    reciter.start(CUP, reciter__tells=True, task_files=[str(own)])

    def found(task: str, threshold: float = -1.0) -> tuple[int, list[str]]:
        result = ros.ask("cup", task=task, images=[noise_image()], score_threshold=threshold).result()
        assert result.error_code == Code.NONE, result.error_msg
        return len(result.regions), [note for note in result.notes if "left out" in note]

    assert found("locate", 0.7) == (1, [])
    assert found("locate", 0.8) == (0, ["1 of 1 regions are left out: score below 0.8"])
    assert found("surely") == (0, ["1 of 1 regions are left out: score below 0.8"])
    assert found("surely", 0.7) == (1, [])
    assert found("surely", 0.0) == (1, [])
    listed = {task.name: task for task in ros.call(ListTasks, "/vlm/list_tasks", ListTasks.Request()).tasks}
    assert listed["surely"].score_threshold == pytest.approx(0.8)


@pytest.mark.once
@pytest.mark.parametrize(
    ("task", "threshold", "code"),
    [("locate", 1.5, "BAD_REQUEST"), ("locate", math.nan, "BAD_REQUEST"), ("caption", 0.5, "BAD_REQUEST"),
     ("locate", 0.5, "UNSUPPORTED")],
)  # fmt: skip
def test_a_threshold_that_cannot_be_honoured_is_refused_by_name(
    ros: RosClient, shared_reciter: Reciter, task: str, threshold: float, code: str
) -> None:
    shared_reciter.start(CUP)
    prompt = "cup" if task == "locate" else ""
    result = ros.ask(prompt, task=task, images=[noise_image()], score_threshold=threshold).result()
    assert result.error_code == getattr(Code, code)
    assert result.error_msg.startswith("score_threshold: ")


@pytest.mark.once
def test_an_engine_that_tells_no_score_leaves_one_note_and_all_regions(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start(CUP)
    result = ros.ask("cup", task="locate", images=[noise_image()]).result()
    (cup,) = result.regions
    assert (cup.score, len(cup.spread), any(cup.position_covariance)) == (-1.0, 0, False)
    (note,) = [note for note in result.notes if note.startswith("no score: ")]
    assert "engine 'reciter' tells none" in note


@pytest.mark.once
def test_a_label_that_is_not_what_was_asked_for_is_a_note(ros: RosClient, reciter: Reciter) -> None:
    reciter.start(CUP.replace('"cup"', '"red box"'), reciter__tells=True)
    result = ros.ask("red cup", task="locate", images=[noise_image()]).result()
    assert "asked for 'red cup', the model says 'red box'" in result.notes
    assert result.regions[0].label == "red box"


@pytest.mark.once
def test_an_engine_that_tells_no_probability_leaves_a_note(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start("Yes")
    result = ros.ask_service(prompt="Is it?", task="yes_no", images=[noise_image()])
    assert (result.error_code, result.text, result.probability) == (Code.NONE, "Yes", -1)
    (note,) = result.notes
    assert note.startswith("no probability: engine 'reciter'")


@pytest.mark.once
def test_reasoning_that_max_tokens_cut_off_is_noted(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start("THINK ON")
    result = ros.ask("Which colour?", images=[noise_image()]).result()
    assert (result.error_code, result.text, result.reasoning) == (Code.NONE, "", "It is")
    assert result.finish_reason == "length"
    (note,) = result.notes
    assert note == (
        "max_tokens ended the answer before the reasoning was over: ask with a higher max_tokens, or with "
        "max_reasoning_tokens"
    )


@pytest.mark.once
def test_a_region_that_is_left_out_is_noted(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start(
        '[{"bbox_2d": [0, 0, 500, 500], "label": "cup"}, {"bbox_2d": [0, 0, 5000, 500], "label": "far"}]'
    )
    result = ros.ask("cup", task="locate", images=[noise_image()]).result()
    assert [region.label for region in result.regions] == ["cup"]
    left_out, no_score = result.notes
    assert "'far'" in left_out and "left out" in left_out
    assert no_score.startswith("no score: engine 'reciter'")


# --- JSON from an engine that cannot be made to write it -------------------------------------------------------------


@pytest.mark.once
def test_an_engine_without_grammar_is_asked_for_json_and_asked_again_with_what_was_wrong(
    ros: RosClient, shared_reciter: Reciter
) -> None:
    shared_reciter.start("Ready.")
    shared_reciter.say("It is two", '```json\n{"n": 2}\n```')
    goal = ros.ask("How many?", images=[noise_image()], response_schema=SCHEMA)
    feedback = goal.feedback_until_result()
    result = goal.result()
    assert result.error_code == Code.NONE, result.error_msg
    assert json.loads(result.json) == {"n": 2}
    assert "".join(message.delta for message in feedback) == result.text
    first, second = shared_reciter.heard
    assert '"n"' in first and "JSON Schema" in first
    assert "It is two" in second and "not JSON" in second


@pytest.mark.once
def test_json_that_stays_wrong_is_a_bad_response_with_the_raw_text(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start("Two.")
    result = ros.ask("How many?", images=[noise_image()], response_schema=SCHEMA).result()
    assert (result.error_code, result.text, result.json) == (Code.BAD_RESPONSE, "Two.", "")
    assert len(shared_reciter.heard) == 2, "asked again once"


@pytest.mark.once
def test_when_asking_again_fails_the_first_answer_is_the_raw_text(ros: RosClient, shared_reciter: Reciter) -> None:
    shared_reciter.start("Two.")
    shared_reciter.say("Two.", "TOO LONG")
    result = ros.ask("How many?", images=[noise_image()], response_schema=SCHEMA).result()
    assert (result.error_code, result.text) == (Code.BAD_RESPONSE, "Two.")
    assert "asking again failed" in result.error_msg


# --- several cameras -------------------------------------------------------------------------------------------------


def test_a_question_looks_through_the_cameras_that_it_names_in_its_order(ros: RosClient, reciter: Reciter) -> None:
    reciter.start('[{"bbox_2d": [0, 0, 100, 100], "label": "x", "image": 2}]', cameras=["front", "wrist"])
    with Camera(ros, "front/", frame_id="front_lens"), Camera(ros, "wrist/", frame_id="wrist_lens"):
        one = ros.ask("What?").result()
        both = ros.ask("What?", cameras=["wrist", "front"]).result()
        unknown = ros.ask("What?", cameras=["rear"]).result()
    assert [header.frame_id for header in one.image_headers] == ["front_lens"]
    assert [header.frame_id for header in both.image_headers] == ["wrist_lens", "front_lens"]
    assert reciter.heard[-1] == "Picture 1, camera wrist: <image>Picture 2, camera front: <image>What?"
    assert [region.image_index for region in both.regions] == [1]
    assert both.regions[0].position.header.frame_id == "front_lens"
    assert unknown.error_code == Code.BAD_REQUEST
    assert "'rear'" in unknown.error_msg and "'front', 'wrist'" in unknown.error_msg


def test_a_task_of_boxes_looks_through_several_cameras_and_each_box_names_its_own(
    ros: RosClient, reciter: Reciter
) -> None:
    reciter.start(
        '[{"bbox_2d": [0, 0, 100, 100], "label": "x", "image": 2}, {"bbox_2d": [0, 0, 99, 99], "label": "y"}]',
        cameras=["front", "wrist"],
    )
    with Camera(ros, "front/", frame_id="front_lens"), Camera(ros, "wrist/", frame_id="wrist_lens"):
        result = ros.ask("x", task="locate", cameras=["front", "wrist"]).result()
    assert "There are 2 pictures" in reciter.heard[-1]
    assert [(region.label, region.image_index) for region in result.regions] == [("x", 1)]
    assert result.regions[0].position.header.frame_id == "wrist_lens"
    assert "in which of the 2 images" in result.notes[0]


# --- images that are turned, or seen in parts ----------------------------------------------------------------------


def test_a_camera_that_is_mounted_upside_down_has_boxes_and_metres_of_its_own_image(
    ros: RosClient, reciter: Reciter
) -> None:
    turned = '[{"bbox_2d": [500, 250, 750, 750], "label": "cup"}]'  # the cup is left of the middle in the image
    reciter.start(turned, cameras=["front"], camera__front__rotation=180)
    with Camera(ros, "front/"):
        (cup,) = ros.ask("cup", task="locate").result().regions
    assert (cup.roi.x_offset, cup.roi.y_offset) == pytest.approx((WIDTH / 4, HEIGHT / 4), abs=1)
    assert (cup.roi.width, cup.roi.height) == pytest.approx((WIDTH / 4, HEIGHT / 2), abs=2)
    assert cup.position.point.x == pytest.approx(-WIDTH / 8 / FOCAL, abs=0.03)


def test_a_box_in_space_in_a_turned_image_is_in_the_cameras_frame_and_the_model_knows_the_turned_field_of_view(
    ros: RosClient, reciter: Reciter
) -> None:
    reciter.start('[{"bbox_3d": [0.1, 0.2, 2, 1, 1, 1, 0, 0, 0], "label": "chair"}]', rotation=90)
    with Camera(ros):
        (chair,) = ros.ask("chair", task="locate_3d").result().regions
    assert "field of view is 37 by 58 degrees" in reciter.heard[-1]  # of 333x201 pixels and a focal length of 300
    where = chair.position.point
    assert (where.x, where.y, where.z) == pytest.approx((0.2, -0.1, 2.0))


def test_an_image_in_parts_is_announced_as_such_and_what_two_parts_show_is_one_region(
    ros: RosClient, reciter: Reciter
) -> None:
    # Both parts are 185 pixels wide: 148 to 185 is in both.
    reciter.start(
        '[{"bbox_2d": [850, 250, 950, 750], "label": "cup", "image": 1},'
        ' {"bbox_2d": [50, 250, 150, 750], "label": "cup", "image": 2},'
        ' {"bbox_2d": [900, 0, 1000, 100], "label": "lamp", "image": 2}]',
        tiles="2x1",
    )
    with Camera(ros):
        result = ros.ask("cup", task="locate").result()
        assert reciter.heard[-1].startswith("Picture 1, column 1 of 2: <image>Picture 2, column 2 of 2: <image>")
        ros.ask("chair", task="locate_3d").result()
        assert reciter.heard[-1].count("<image>") == 1
    cup, lamp = result.regions
    assert (cup.image_index, lamp.image_index, len(result.image_headers)) == (0, 0, 1)
    assert (cup.roi.x_offset, cup.roi.width) == pytest.approx((157, 19), abs=2)
    assert (lamp.roi.x_offset, lamp.roi.x_offset + lamp.roi.width) == pytest.approx((314, WIDTH), abs=2)
    assert cup.has_position


def test_what_a_camera_cannot_be_told_is_said_and_can_be_mended(
    ros: RosClient, start_vlm: Callable[..., VlmProcess]
) -> None:
    node = start_vlm(engine="llama", cameras=["front"], camera__front__tiles="2", camera__front__rotation=45)
    for name, mended in (("rotation", 90), ("tiles", "2x1")):
        node.wait_status(lambda status, name=name: f"camera.front.{name}: " in status.message)
        assert ros.lifecycle_state() == "inactive"
        assert ros.lifecycle("cleanup")
        assert ros.set_parameter(f"camera.front.{name}", mended).successful
        assert ros.lifecycle("configure")
        ros.lifecycle("activate")
    assert node.wait_ready().message == ""
    assert ros.get_parameter("camera.front.tiles") == "2x1"


# --- tools -----------------------------------------------------------------------------------------------------------


def test_the_layouts_for_rviz_and_foxglove_show_topics_that_the_node_publishes(
    ros: RosClient, vlm: VlmProcess, share: Path
) -> None:
    rviz = yaml.safe_load((share / "config" / "vlm.rviz").read_text())["Visualization Manager"]["Displays"]
    panels = json.loads((share / "config" / "vlm.foxglove.json").read_text())["configById"]
    shown = {display["Topic"]["Value"] for display in rviz if "Topic" in display}
    shown |= {panels["Image!vlm"]["imageMode"]["imageTopic"], *panels["3D!vlm"]["topics"]}
    shown |= {panels["RawMessages!answers"]["topicPath"], panels["DiagnosticSummary!vlm"]["topicToRender"]}
    published = {name for name, _ in ros.node.get_publisher_names_and_types_by_node("vlm", "/")}
    assert shown <= published


def test_regions_are_detections_where_vision_msgs_is_installed(ros: RosClient, reciter: Reciter) -> None:
    messages = pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not among the ROS wheels")
    reciter.start(CUP)
    with (
        Camera(ros),
        ros.listen(messages.Detection2DArray, "/vlm/detections") as flat,
        ros.listen(messages.Detection3DArray, "/vlm/detections_3d") as solid,
    ):
        for _ in range(100):  # until both subscriptions are known to the node
            (cup,) = ros.ask("cup", task="locate").result().regions
            if flat.waiting and solid.waiting:
                break
        (box,), (thing,) = flat.wait_for().detections, solid.wait_for().detections
    assert (box.results[0].hypothesis.class_id, box.results[0].hypothesis.score) == ("cup", 1.0)
    assert box.header.frame_id == thing.header.frame_id == "lens"
    assert box.bbox.center.position.x == pytest.approx(cup.roi.x_offset + cup.roi.width / 2, abs=1)
    assert (box.bbox.size_x, box.bbox.size_y) == pytest.approx((cup.roi.width, cup.roi.height), abs=2)
    assert thing.bbox.center.position.z == pytest.approx(cup.position.point.z, abs=0.01)
    assert thing.bbox.size.x == pytest.approx(cup.extent.x, abs=0.01)
    assert thing.bbox.center.orientation.w == 1.0
