"""Of several engines, the best one that works is asked, whatever happens to them."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import third_party
from qwen3vl_ros.engines.base import Chunk, EngineError, EngineNotReady, Message, PromptTooLong, Request
from qwen3vl_ros.engines.chain import EngineChain, Policy
from qwen3vl_ros.engines.probing import Probe
from qwen3vl_ros.engines.process import EngineSpec, Health, State

PATIENCE = 60.0
NAMES = ("first", "second", "third", "fourth")
POLICY = Policy(failures=2, after=0.5, retry=0.1, longest_retry=0.2)


class Chain:
    """A chain of moody engines whose changes are events."""

    def __init__(self, folder: Path, moods: dict[str, str], policy: Policy) -> None:
        self.changes: queue.Queue[Health] = queue.Queue()
        self.reports: queue.Queue[str] = queue.Queue()
        self.moods = {name: third_party.Mood(folder / name, mood) for name, mood in moods.items()}
        specs = [EngineSpec(name, {"mood": str(folder / name)}) for name in moods]
        self.chain = EngineChain(specs, self.changes.put, self.reports.put, policy)

    def wait_for(self, wanted: Callable[[Health], bool]) -> Health:
        health = self.chain.health
        while not wanted(health):
            health = self.changes.get(timeout=PATIENCE)
        return health

    def wait_asked(self, name: str) -> Health:
        """Until the engine that answers is that one."""
        return self.wait_for(
            lambda health: (
                health.state is State.READY and health.description is not None and health.description.engine == name
            )
        )

    def wait_report(self, words: str) -> str:
        while words not in (report := self.reports.get(timeout=PATIENCE)):
            pass
        return report

    def ask(self, prompt: str = "?") -> queue.Queue[Chunk | EngineError]:
        items: queue.Queue[Chunk | EngineError] = queue.Queue()
        description = self.chain.health.description
        assert description is not None
        self.chain.submit(Request((Message("user", (prompt,)),)), description, items.put)
        return items

    def answer(self) -> str | EngineError:
        return end_of(self.ask())


def end_of(items: queue.Queue[Chunk | EngineError]) -> str | EngineError:
    text = ""
    while True:
        item = items.get(timeout=PATIENCE)
        if isinstance(item, EngineError):
            return item
        text += item.text
        if item.finish_reason is not None:
            return text


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Chain]]:
    package = third_party.install(tmp_path / "installed", third_party.MOODY, dict.fromkeys(NAMES, "Moody"))
    monkeypatch.syspath_prepend(str(package))
    started: list[Chain] = []

    def start(policy: Policy = POLICY, **moods: str) -> Chain:
        started.append(Chain(tmp_path, moods, policy))
        return started[-1]

    yield start
    for chain in started:
        chain.chain.close()
        for mood in chain.moods.values():
            mood.close()


def test_the_first_engine_that_works_answers_and_it_is_said_why_the_others_do_not(start: Callable[..., Chain]) -> None:
    chain = start(first="absent", second="away", third="good", fourth="good")
    chain.wait_asked("third")
    assert chain.answer() == "third"
    passed_over = chain.wait_for(lambda health: "second" in health.passed_over).passed_over
    assert passed_over == {
        "first": "first is not used: first is not installed",
        "second": "second is not used: second is away",
    }
    assert "third is here" in chain.wait_report("can be used")


def test_an_engine_that_fails_repeatedly_is_left_and_taken_again_when_it_is_back(start: Callable[..., Chain]) -> None:
    chain = start(first="good", second="good")
    chain.wait_asked("first")
    assert chain.answer() == "first"
    chain.moods["first"].set("failing")
    assert "first fails" in str(chain.answer())
    assert chain.chain.health.state is State.READY, "one failure is no reason to leave"
    assert "first fails" in str(chain.answer())
    chain.moods["first"].set("away")
    chain.wait_asked("second")
    assert chain.answer() == "second"
    assert "2 answers in a row failed" in chain.wait_report("is out")
    chain.wait_for(lambda health: "first" in health.passed_over)
    chain.moods["first"].set("good")
    assert chain.wait_asked("first").description
    chain.wait_for(lambda health: not health.passed_over)
    assert chain.answer() == "first"


def test_an_answer_in_between_starts_the_count_of_failures_anew(start: Callable[..., Chain]) -> None:
    chain = start(first="good", second="good")
    chain.wait_asked("first")
    for _ in range(3):
        chain.moods["first"].set("failing")
        assert isinstance(chain.answer(), EngineError)
        chain.moods["first"].set("good")
        assert chain.answer() == "first"
    assert not [report for report in chain.reports.queue if "is out" in report]


def test_a_refused_prompt_is_no_failure_of_the_engine(start: Callable[..., Chain]) -> None:
    chain = start(first="good", second="good")
    chain.wait_asked("first")
    chain.moods["first"].set("strict")
    for _ in range(3):
        assert isinstance(chain.answer(), PromptTooLong)
    chain.moods["first"].set("good")
    assert chain.answer() == "first"
    assert not [report for report in chain.reports.queue if "is out" in report]


def test_an_engine_that_takes_long_to_load_is_not_waited_for(start: Callable[..., Chain]) -> None:
    chain = start(first="slow", second="good")
    assert "it takes its time" in chain.wait_for(lambda health: "its time" in health.message).message
    chain.wait_asked("second")
    assert chain.answer() == "second"
    running = chain.ask("wait")
    assert isinstance(running.get(timeout=PATIENCE), Chunk)
    chain.moods["first"].set("good")
    chain.wait_asked("first")
    assert chain.answer() == "first"
    chain.moods["second"].set("let go")
    assert end_of(running) == "", "what runs on the engine that is left goes on, and ends well"


def test_a_broken_engine_is_left_for_good(start: Callable[..., Chain]) -> None:
    chain = start(first="broken", second="good")
    chain.wait_for(lambda health: "first is broken" in health.passed_over.get("first", ""))
    chain.wait_asked("second")
    assert chain.answer() == "second"


def test_no_engine_at_all_says_why_of_each_and_when_those_that_may_come_are_asked_again(
    start: Callable[..., Chain],
) -> None:
    chain = start(first="away", second="absent")
    message = chain.wait_for(lambda health: health.state is State.OUT).message
    assert "no engine can be used" in message
    assert message.index("second is not installed") < message.index("first is away (asked again within 0.")
    chain.moods["first"].set("good")
    chain.wait_asked("first")


def test_engines_that_may_all_come_by_themselves_are_waited_for(start: Callable[..., Chain]) -> None:
    chain = start(first="away", second="away")
    assert "second is away" in chain.wait_for(lambda health: "no engine" in health.message).message
    assert chain.chain.health.state is State.RESTARTING
    chain.moods["second"].set("good")
    chain.wait_asked("second")


def test_no_engine_that_could_come_has_failed(start: Callable[..., Chain]) -> None:
    chain = start(first="absent", second="absent")
    assert "first is not installed" in chain.wait_for(lambda health: health.state is State.FAILED).message


def test_a_request_made_for_an_engine_that_was_left_is_refused_before_it_is_sent(start: Callable[..., Chain]) -> None:
    chain = start(first="away", second="good")
    description = chain.wait_asked("second").description
    assert description is not None
    chain.moods["first"].set("good")
    chain.wait_asked("first")
    with pytest.raises(EngineNotReady, match="left for another"):
        chain.chain.submit(Request(()), description, lambda _: None)


@pytest.mark.parametrize("mood", ["slow", "good", "away"])
def test_closing_at_any_moment_ends_every_process(start: Callable[..., Chain], mood: str) -> None:
    chain = start(first=mood, second="slow")
    chain.chain.close()
    assert chain.chain.health.pid == 0


@pytest.mark.parametrize("printed", ["import os; os.write(1, b'native words')", "print('words')"])
def test_what_an_engine_prints_while_it_is_probed_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str
) -> None:
    source = third_party.MOODY.replace("    import threading", f"    {printed}\n    import threading", 1)
    monkeypatch.syspath_prepend(str(third_party.install(tmp_path / "loud", source, {"loud": "Moody"})))
    (tmp_path / "loud.mood").write_text("good")
    (finding,) = Probe([EngineSpec("loud", {"mood": str(tmp_path / "loud.mood")})])
    assert (finding.usable, finding.sentence) == (True, "loud.mood is here")
