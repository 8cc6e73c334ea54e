"""Which engine answers: chosen, fallen back to, or changed while questions come. Over real DDS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.msg import VlmStatus
from qwen3vl_ros.srv import SetEngine

import third_party
from fake_maix_service import FakeMaixService
from ros_client import RosClient, noise_image
from vlm_process import VlmProcess

pytestmark = pytest.mark.ros
Code = AskImage.Result


class Moods:
    """Engines ``first`` and ``second`` of a third party, whose moods a test sets."""

    def __init__(self, folder: Path) -> None:
        self._moods = {name: third_party.Mood(folder / name, "good") for name in ("first", "second")}
        self.parameters = {f"{name}__mood": str(mood.path) for name, mood in self._moods.items()}

    def set(self, **moods: str) -> None:
        for name, mood in moods.items():
            self._moods[name].set(mood)

    def close(self) -> None:
        for mood in self._moods.values():
            mood.close()


@pytest.fixture
def moods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moods]:
    package = third_party.install(tmp_path / "installed", third_party.MOODY, {"first": "Moody", "second": "Moody"})
    monkeypatch.setenv("PYTHONPATH", str(package))
    moods = Moods(tmp_path)
    yield moods
    moods.close()


def ask(ros: RosClient, prompt: str = "?") -> object:
    return ros.ask(prompt, text_only=True)


def set_engine(ros: RosClient, **fields: object) -> SetEngine.Response:
    return ros.call(SetEngine, "/vlm/set_engine", SetEngine.Request(**fields))


# --- auto ------------------------------------------------------------------------------------------------------------


def about_engines(result: AskImage.Result) -> list[str]:
    """The notes, without the one about the model that ships."""
    return [note for note in result.notes if not note.startswith("a demonstration model: ")]


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    moods.set(first="absent")
    node = start_vlm(engine="auto", engines=["first", "second", "llama"], **moods.parameters)
    status = node.wait_status(lambda s: s.state == VlmStatus.READY and s.message)
    assert (status.engine, status.model) == ("second", "model of second")
    assert "first is not installed" in status.message
    result = ask(ros).result()
    assert result.engine == "second"
    assert list(result.notes) == ["second answers; first is not used: first is not installed"]
    node.stop()
    assert "engine 'first' cannot be used: first is not installed" in node.output
    assert "engine 'second' can be used: second is here" in node.output


def test_a_node_without_parameters_answers_with_the_model_that_ships(
    ros: RosClient, start_vlm: Callable[..., VlmProcess]
) -> None:
    start_vlm(engine="auto", max_tokens=1).wait_connected()
    result = ask(ros).result()
    assert (result.engine, about_engines(result)) == ("llama", []), "nobody wanted another engine"


def test_a_configured_engine_that_is_out_is_in_the_notes_although_the_list_is_the_default(
    ros: RosClient, start_vlm: Callable[..., VlmProcess]
) -> None:
    start_vlm(engine="auto", max_tokens=1, openai__base_urls=["http://127.0.0.1:9/v1"]).wait_connected()
    (note,) = about_engines(ask(ros).result())
    assert note.startswith("llama answers; openai is not used: http://127.0.0.1:9/v1 refuses the connection")


def test_a_node_that_finds_no_engine_says_why_of_each(ros: RosClient, start_vlm: Callable[..., VlmProcess]) -> None:
    node = start_vlm(engine="auto", engines=["openai", "llama"], llama__model="/nowhere/model.gguf")
    status = node.wait_status(lambda s: s.state == VlmStatus.UNCONFIGURED and s.message)
    assert "llama: " in status.message and "/nowhere/model.gguf" in status.message
    assert "openai: " in status.message and "base_urls" in status.message


def test_a_question_ends_at_once_where_no_engine_can_be_used_and_one_needs_a_person(
    ros: RosClient, start_vlm: Callable[..., VlmProcess]
) -> None:
    node = start_vlm(engine="auto", maix_http__base_url="http://127.0.0.1:9", llama__model="/nowhere/typo.gguf")
    node.wait_status(lambda s: "no engine can be used" in s.message)
    result = ask(ros).result()
    assert result.error_code == Code.ENGINE_NOT_READY
    assert "/nowhere/typo.gguf" in result.error_msg and "asked again within" in result.error_msg
    assert ros.lifecycle_state() == "active"
    with ros.listen(DiagnosticArray, "/diagnostics") as diagnostics:
        found = diagnostics.wait_for(lambda a: a.status[0].name == "vlm: engine")
        assert found.status[0].level == DiagnosticStatus.ERROR
        assert "/nowhere/typo.gguf" in found.status[0].message


# --- falling back ----------------------------------------------------------------------------------------------------


def test_an_engine_that_fails_repeatedly_is_left_says_diagnostics_and_taken_again_when_it_is_back(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    node = start_vlm(engine="auto", engines=["first", "second"], fallback_failures=2, **moods.parameters)
    node.wait_connected()
    moods.set(first="failing")
    for _ in range(2):
        result = ask(ros).result()
        assert (result.error_code, result.engine) == (Code.ENGINE_ERROR, "first")
    moods.set(first="away")
    node.wait_status(lambda s: s.state == VlmStatus.READY and s.engine == "second")
    result = ask(ros).result()
    assert result.text == "second"
    (note,) = result.notes
    assert note.startswith("second answers; first is not used: ")
    with ros.listen(DiagnosticArray, "/diagnostics") as diagnostics:
        found = diagnostics.wait_for(lambda a: any("first" in s.message for s in a.status if "engine" in s.name))
        engine = next(status for status in found.status if status.name == "vlm: engine")
        assert engine.level == DiagnosticStatus.WARN
        moods.set(first="good")
        node.wait_status(lambda s: s.state == VlmStatus.READY and s.engine == "first" and not s.message)
        diagnostics.wait_for(lambda a: a.status[0].level == DiagnosticStatus.OK)
    result = ask(ros).result()
    assert (result.text, list(result.notes)) == ("first", [])


def test_an_answer_that_is_cut_because_its_engine_is_left_is_no_success(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    start_vlm(
        engine="auto", engines=["first", "second"], fallback_failures=2, first__concurrency=4, **moods.parameters
    ).wait_connected()
    running = ask(ros, "wait")
    running.wait_for_text()
    moods.set(first="failing")
    for _ in range(2):
        ask(ros).result()
    result = running.result()
    assert result.error_code in (Code.ENGINE_NOT_READY, Code.ENGINE_CRASHED), result.error_msg
    assert result.text == "first"


def test_a_question_waits_while_the_node_looks_for_another_engine(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    moods.set(first="slow")
    node = start_vlm(engine="auto", engines=["first", "second"], fallback_after=5.0, **moods.parameters)
    assert "it takes its time" in node.wait_status(lambda s: "its time" in s.message).message
    assert ask(ros).result().text == "second"


def test_the_npu_answers_and_the_cpu_takes_over_while_it_is_gone(
    ros: RosClient, start_vlm: Callable[..., VlmProcess]
) -> None:
    npu = FakeMaixService()
    try:
        node = start_vlm(
            engine="auto", engines=["maix_http", "llama"], fallback_failures=1, maix_http__base_url=npu.url
        ).wait_connected()
        result = ros.ask(images=[noise_image()]).result()
        assert (result.engine, result.text) == ("maix_http", "Hello there")
        assert result.usage.bytes_sent > 0
        npu.close()
        moved = ros.ask(images=[noise_image()], options={"max_tokens": 2}).result()
        assert (moved.error_code, moved.engine) == (Code.NONE, "llama"), "nothing had come yet, so it moved on"
        node.wait_status(lambda s: s.state == VlmStatus.READY and s.engine == "llama" and "maix_http" in s.message)
        npu = FakeMaixService(npu.port)
        node.wait_status(lambda s: s.state == VlmStatus.READY and s.engine == "maix_http")
        assert ros.ask(images=[noise_image()]).result().text == "Hello there"
    finally:
        npu.close()


# --- set_engine ------------------------------------------------------------------------------------------------------


def test_set_engine_changes_over_while_running_goals_finish_and_the_queue_is_kept(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    node = start_vlm(engine="first", **moods.parameters).wait_connected()
    running = ask(ros, "wait")
    running.wait_for_text()
    waiting = ask(ros)
    response = set_engine(ros, engine="second")
    assert response.success, response.message
    assert (response.engine, response.model) == ("second", "model of second")
    node.wait_status(lambda s: s.engine == "second")
    assert not running.done
    moods.set(first="let go")
    assert (running.result().text, running.result().engine) == ("first", "first")
    assert (waiting.result().text, waiting.result().engine) == ("second", "second")
    assert ros.get_parameter("engine") == "second"


def test_set_engine_cuts_what_still_runs_after_the_grace(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    start_vlm(engine="first", **moods.parameters).wait_connected()
    running = ask(ros, "wait")
    running.wait_for_text()
    assert set_engine(ros, engine="second", grace=Duration(nanosec=1)).success
    result = running.result()
    assert (result.error_code, result.text) == (Code.PREEMPTED, "first")
    assert "the engine was changed" in result.error_msg
    assert ask(ros).result().text == "second"


@pytest.mark.parametrize("mood", ["absent", "broken"])
def test_an_engine_that_cannot_be_loaded_leaves_the_old_one_in_place(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods, mood: str
) -> None:
    node = start_vlm(engine="first", **moods.parameters).wait_connected()
    moods.set(second=mood)
    response = set_engine(ros, engine="second")
    assert not response.success and "second is" in response.message
    node.wait_status(lambda s: s.engine == "first" and not s.message)
    assert (response.engine, response.model) == ("first", "model of first")
    assert ask(ros).result().text == "first"
    assert ros.get_parameter("engine") == "first"


def test_set_engine_takes_another_model_of_the_same_engine(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], share: Path
) -> None:
    start_vlm().wait_connected()
    missing = set_engine(ros, model="/nowhere/model.gguf")
    assert not missing.success and "/nowhere/model.gguf" in missing.message
    folder = share / "models" / "tabletop"
    assert set_engine(ros, model=str(folder / "tabletop-f16.gguf")).success
    assert ros.get_parameter("llama.model") == str(folder / "tabletop-f16.gguf")
    assert ask(ros).result().error_code == Code.NONE


def test_one_change_at_a_time_and_none_outlives_the_node(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    node = start_vlm(engine="first", **moods.parameters).wait_connected()
    moods.set(second="slow")
    change = ros.send(SetEngine, "/vlm/set_engine", SetEngine.Request(engine="second"))
    node.wait_status(lambda s: s.engine == "first" and "engine second loads" in s.message)
    answers = ask(ros).result()
    assert answers.text == "first", "the old engine answers while the new one loads"
    refusal = set_engine(ros, engine="second")
    assert not refusal.success and "under way" in refusal.message
    assert ros.lifecycle("deactivate") and ros.lifecycle("cleanup")
    cut = ros.complete(change)
    assert not cut.success and "cleaned up" in cut.message
    assert "unconfigured" in set_engine(ros, engine="second").message
    assert node.stop() == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "~a_user_that_nobody_is/m.gguf"}, "cannot be used"),
        ({"engine": "auto", "model": "x.gguf"}, "name the engine"),
        ({"engine": "openai", "mmproj": "x.gguf"}, "no such parameter"),
        ({"engine": "not_there"}, "there is no engine"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_and_leaves_everything_as_it_was(
    ros: RosClient, vlm: VlmProcess, fields: dict[str, str], words: str
) -> None:
    response = set_engine(ros, **fields)
    assert not response.success and words in response.message
    assert (ros.get_parameter("engine"), ros.get_parameter("llama.model")) == ("llama", "")
    assert ask(ros).result().error_code == Code.NONE


def test_a_goal_that_waits_for_a_loading_engine_is_answered_by_the_one_that_replaces_it(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    moods.set(first="slow")
    node = start_vlm(engine="first", **moods.parameters)
    node.wait_status(lambda s: "its time" in s.message)
    late = ros.ask("?", text_only=True, timeout=Duration(nanosec=300_000_000)).result()
    assert late.error_code == Code.ENGINE_NOT_READY
    assert "it was waiting, because no model was ready: loading engine 'first'" in late.error_msg
    with ros.status() as status:
        goal = ask(ros)
        status.wait_for(lambda s: s.goals_accepted == 2 and s.queue_length == 0)
        assert set_engine(ros, engine="second", grace=Duration(nanosec=1)).success
    assert goal.result().text == "second"


def test_status_says_busy_while_a_goal_is_answered(
    ros: RosClient, start_vlm: Callable[..., VlmProcess], moods: Moods
) -> None:
    start_vlm(engine="first", **moods.parameters).wait_connected()
    with ros.status() as status:
        goal = ask(ros, "wait")
        goal.wait_for_text()
        status.wait_for(lambda s: s.state == VlmStatus.BUSY and s.queue_length == 0)
        moods.set(first="let go")
        assert goal.result().text == "first"
        status.wait_for(lambda s: s.state == VlmStatus.READY)


# --- parameters ------------------------------------------------------------------------------------------------------


def test_a_parameter_that_does_not_exist_is_reported_with_the_one_that_may_be_meant(
    ros: RosClient, start_vlm: Callable[..., VlmProcess]
) -> None:
    node = start_vlm(model="x.gguf", que_size=3, llama__n_ctx=2048)
    assert node.wait_ready().context_length == 2048
    node.stop()
    assert "no parameter model, so it has no effect; did you mean" in node.output
    assert "no parameter que_size, so it has no effect; did you mean queue_size?" in node.output
    assert "n_ctx" not in node.output
