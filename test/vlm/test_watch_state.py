"""What the answers of a watch add up to, and when it is asked: plain objects on a clock of the test's own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.vlm.watch_state import Event, Kind, Rules, WatchState

VALUES = st.sampled_from([True, False, None])


def answer(state: WatchState, value: Any, at: float) -> Event | None:
    state.answers(value, at, lambda: value, at)
    return state.poll(at)


def events(rules: Rules, values: Sequence[Any], period: float = 1.0) -> list[tuple[float, Event]]:
    """What a watch sends that is given an answer each period; it is polled ten times as often."""
    state, sent = WatchState(rules, 0.0), []
    for number, value in enumerate(values):
        state.answers(value, number * period, lambda value=value: value, number * period)
        for tick in range(10):
            now = (number + tick / 10) * period
            if (event := state.poll(now)) is not None:
                sent.append((now, event))
    return sent


def kinds(rules: Rules, values: Sequence[Any]) -> list[Kind]:
    return [event.kind for _, event in events(rules, values)]


def test_an_event_comes_when_the_condition_becomes_true_and_when_it_stops_being_true() -> None:
    assert kinds(Rules(), [False, True, True, False, False]) == [Kind.ON, Kind.OFF]


def test_what_is_true_from_the_start_is_an_event_and_what_is_false_is_none() -> None:
    assert kinds(Rules(), [True]) == [Kind.ON]
    assert kinds(Rules(), [False, False]) == []


def test_between_the_thresholds_nothing_changes() -> None:
    assert kinds(Rules(), [True, None, None, True, None, False, None, False]) == [Kind.ON, Kind.OFF]


@given(st.lists(VALUES, max_size=60), st.integers(1, 5), st.integers(0, 5))
def test_on_and_off_alternate_and_begin_with_on(values: list[bool | None], needed: int, more: int) -> None:
    sent = kinds(Rules(needed=needed, of_last=needed + more), values)
    assert sent == [Kind.ON, Kind.OFF] * (len(sent) // 2) + [Kind.ON] * (len(sent) % 2)


@given(st.lists(VALUES, max_size=60), st.integers(1, 5), st.integers(0, 5))
def test_an_event_needs_as_many_of_the_last_answers_as_were_wanted(
    values: list[bool | None], needed: int, more: int
) -> None:
    of_last = needed + more
    for when, event in events(Rules(needed=needed, of_last=of_last), values):
        number = int(when)
        last = values[max(0, number + 1 - of_last) : number + 1]
        assert last.count(event.active) >= needed
        assert values[number] is event.active


@given(st.lists(VALUES, max_size=60), st.floats(0.0, 8.0))
def test_no_two_events_are_nearer_than_the_cooldown_and_the_last_one_tells_the_truth(
    values: list[bool | None], cooldown: float
) -> None:
    rules = Rules(cooldown=cooldown)
    sent = events(rules, [*values, *[None] * 10])  # time for what was held back
    times = [when for when, _ in sent]
    assert all(later - earlier >= cooldown for earlier, later in itertools.pairwise(times))
    known = [value for value in values if value is not None]
    told = sent[-1][1].active if sent else False
    assert told == (known[-1] if known else False)


@given(st.lists(VALUES, max_size=40), st.floats(0.0, 3.0), st.sampled_from([1, 2, 3, 7]))
def test_events_are_numbered_without_gaps_and_only_of_the_kinds_that_were_wanted(
    values: list[bool | None], cooldown: float, wanted: int
) -> None:
    sent = [event for _, event in events(Rules(cooldown=cooldown, kinds=Kind(wanted)), values)]
    assert [event.sequence for event in sent] == list(range(len(sent)))
    assert all(event.kind & wanted for event in sent)


def test_the_cooldown_counts_from_the_last_event_that_was_sent() -> None:
    state = WatchState(Rules(cooldown=10.0, kinds=Kind.ON), 0.0)
    assert answer(state, True, 0.0) is not None
    assert answer(state, False, 9.0) is None  # not wanted, and so not sent
    assert answer(state, True, 9.5) is None
    assert state.next_event == 10.0
    assert state.poll(9.99) is None
    assert state.poll(10.0) is not None
    assert state.poll(30.0) is None


def test_what_passes_within_the_cooldown_is_not_told() -> None:
    state = WatchState(Rules(cooldown=10.0), 0.0)
    answer(state, True, 0.0)
    answer(state, False, 2.0)
    answer(state, True, 4.0)
    assert state.active and state.next_event == math.inf
    assert state.poll(20.0) is None


def test_texts_are_told_when_they_change_and_the_first_one_is_not() -> None:
    rules = Rules(updates=True)
    assert [event.content for _, event in events(rules, ["a", "a", "b", "b", "c", "b"])] == ["b", "c", "b"]
    assert kinds(replace(rules, needed=2, of_last=2), ["a", "a", "b", "a", "c", "c"]) == [Kind.UPDATE]


def test_a_muted_watch_sends_nothing_then_or_later_of_what_changed_meanwhile() -> None:
    state = WatchState(Rules(cooldown=5.0), 0.0, muted=True)
    assert answer(state, True, 0.0) is None
    state.muted = False
    assert answer(state, True, 1.0) is None
    event = answer(state, False, 2.0)
    assert event is not None and event.kind is Kind.OFF and event.sequence == 0
    answer(state, True, 3.0)  # held back by the cooldown
    state.muted = True
    assert state.poll(100.0) is None and state.active and state.asked == 4


def test_a_still_scene_costs_a_question_each_greatest_period_for_an_hour_and_sends_nothing() -> None:
    state = WatchState(Rules(min_period=1.0, max_period=60.0), 0.0)
    now, looks, change = 0.0, 0, None
    while now < 3600.0:
        now = max(now, state.next_look)
        looks += 1
        if state.wants(change, 6.0, now):
            state.begins(now)
            assert answer(state, False, now) is None
        else:
            state.left_out(now)
        change = 2.0  # noise
    assert (state.asked, state.events, state.late(now)) == (61, 0, 0.0)
    assert state.unchanged == looks - state.asked > 3500


def test_a_change_is_asked_about_at_once_but_not_before_the_least_period() -> None:
    state = WatchState(Rules(min_period=2.0, max_period=60.0), 0.0)
    state.answers(False, 0.0, lambda: None, 1.5, 0.0)  # an answer of 1.5 s
    assert state.next_look == 2.0
    assert state.wants(6.1, 6.0, 2.0) and not state.wants(6.0, 6.0, 2.0)
    assert state.wants(0.0, 6.0, 60.0) and state.wants(None, 6.0, 2.0)


def test_a_watch_that_waits_for_others_says_how_late_it_is() -> None:
    state = WatchState(Rules(max_period=60.0), 0.0)
    assert state.late(7.0) == 7.0
    state.begins(8.0)
    state.answers(False, 8.0, lambda: None, 9.0, 8.0)
    assert state.late(9.0) == 8.0
    state.begins(68.0)
    state.answers(False, 68.0, lambda: None, 69.0, 68.0)
    assert state.late(69.0) == 0.0


def test_a_question_that_fails_is_asked_ever_later_until_one_succeeds() -> None:
    state, waits, now = WatchState(Rules(min_period=1.0, max_period=60.0), 0.0), [], 0.0
    for _ in range(9):
        state.fails("the camera is gone", now)
        waits.append(state.next_look - now)
        now = state.next_look
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert (state.failed, state.error) == (9, "the camera is gone")
    answer(state, True, now)
    assert state.error == "" and state.next_look == now + 1.0


@pytest.mark.parametrize("cooldown", [0.0, 5.0])
def test_a_watch_ends_after_its_greatest_duration(cooldown: float) -> None:
    state = WatchState(Rules(max_duration=10.0, cooldown=cooldown), 3.0)
    assert not state.is_over(12.9)
    assert state.next_event == 13.0
    assert state.is_over(13.0)
