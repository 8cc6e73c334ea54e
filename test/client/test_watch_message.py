"""Watches as Python arguments and as JSON: what they become, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from qwen3vl_ros.msg import Watch

from qwen3vl_ros.client import BadRequest
from qwen3vl_ros.client.watch_message import build_watch

EVERYTHING: dict[str, Any] = {
    "prompt": "people",
    "watch_id": "desk",
    "task": "count",
    "slots": {},
    "cameras": ["front"],
    "region": [[1, 2], [3, 4.5], [5, 6]],
    "condition": "json",
    "condition_schema": {"minimum": 3},
    "on_threshold": 0.75,
    "needed": 2,
    "of_last": 3,
    "min_period": 0.5,
    "max_period": 90,
    "cooldown": 1.25,
    "kinds": ["on", "update"],
    "message": "Crowd",
    "evidence": True,
    "priority": 7,
    "temperature": 0.0,
    "max_tokens": 9,
    "muted": True,
}


def test_json_says_everything_that_the_message_has() -> None:
    watch = build_watch(**json.loads(json.dumps(EVERYTHING)))
    assert (watch.prompt, watch.watch_id, watch.task, watch.cameras) == ("people", "desk", "count", ["front"])
    assert [(point.x, point.y) for point in watch.region.points] == [(1.0, 2.0), (3.0, 4.5), (5.0, 6.0)]
    assert (watch.condition, json.loads(watch.condition_schema)) == (Watch.CONDITION_JSON, {"minimum": 3})
    assert (watch.on_threshold, watch.off_threshold, watch.needed, watch.of_last) == (0.75, -1.0, 2, 3)
    assert (watch.min_period.nanosec, watch.max_period.sec) == (500_000_000, 90)
    assert (watch.cooldown.sec, watch.cooldown.nanosec) == (1, 250_000_000)
    assert watch.kinds == Watch.KIND_ON + Watch.KIND_UPDATE
    assert (watch.message, watch.evidence, watch.priority, watch.muted) == ("Crowd", True, 7, True)
    assert (watch.options.temperature, watch.options.max_tokens) == (0.0, 9)


def test_what_is_left_out_is_as_in_the_message() -> None:
    assert build_watch("Is it open?") == Watch(prompt="Is it open?")


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name not in ("evidence", "muted")])
@pytest.mark.parametrize("value", [{"a": object}, [None], -5, float("nan"), "\0"])
def test_a_wrong_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadRequest, match=name.split("_")[0]):
        build_watch(**{**EVERYTHING, name: value})


def test_an_unknown_name_is_refused_with_the_one_that_may_be_meant() -> None:
    with pytest.raises(BadRequest, match=r"cooldwon is no field of a watch; cooldown is\."):
        build_watch("Is it open?", cooldwon=3)
