"""From the times of a few layers to those of whole models, and where they are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from qwen3vl_ros.engines import speed
from qwen3vl_ros.engines.catalogue import find
from qwen3vl_ros.engines.machine import Machine

MACHINE = Machine("a processor", 4, 16 * 10**9, 12 * 10**9, 10**11, bf16=True)
MEASURED = speed.Measurement(speed.Cost(0.25, 0.4), speed.Cost(0.15, 0.3), speed.Cost(0.0015, 0.012))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def estimated(name: str, quant: str = "Q4_K_M", engine: str = "llama") -> speed.Estimate:
    found = speed.estimate(find(name, engine, quant), MEASURED, MACHINE)
    assert found is not None
    return found


def test_two_models_of_few_layers_give_what_a_layer_takes_and_what_the_rest_takes() -> None:
    assert speed.Cost.from_two(4, 4 * 2.0 + 3.0, 8, 8 * 2.0 + 3.0) == speed.Cost(2.0, 3.0)
    assert speed.Cost.from_two(4, 5.0, 8, 4.9) == speed.Cost(0.0, 5.0)  # noise makes no negative times


def test_a_token_takes_the_time_of_the_weights_it_reads() -> None:
    small, large = estimated("2b"), estimated("2b", "Q8_0")
    weights = find("2b").shapes
    ratio = weights.text_bytes("Q8_0") / weights.text_bytes("Q4_K_M")
    assert small.tokens_per_second / large.tokens_per_second == pytest.approx(ratio, rel=0.1)
    assert large.first_token == small.first_token


def test_a_mixture_of_experts_is_as_fast_as_what_a_token_uses_of_it() -> None:
    assert estimated("30b-a3b").tokens_per_second > estimated("4b").tokens_per_second
    assert estimated("30b-a3b").tokens_per_second > 5 * estimated("32b").tokens_per_second


def test_larger_models_are_slower() -> None:
    for less, more in (("2b", "4b"), ("4b", "8b"), ("8b", "32b")):
        assert estimated(less).first_token < estimated(more).first_token
        assert estimated(less).tokens_per_second > estimated(more).tokens_per_second


def test_openvino_is_estimated_only_where_its_ratio_to_llama_is_known() -> None:
    entry = find("4b", "openvino", "int4")
    assert speed.estimate(entry, MEASURED, dataclasses.replace(MACHINE, bf16=False)) is None
    assert estimated("4b", "int4", "openvino").first_token == pytest.approx(0.43 * estimated("4b").first_token)


def test_a_measurement_is_kept_for_this_machine_alone() -> None:
    other = dataclasses.replace(MACHINE, cpu="another processor")
    assert speed.load(MACHINE) is None
    busy = dataclasses.replace(MEASURED, busy=True)
    speed.save(MACHINE, busy)
    assert speed.load(MACHINE) == busy
    speed.save(MACHINE, MEASURED)
    assert speed.load(MACHINE) == MEASURED
    assert speed.load(other) is None
    speed.save(other, speed.Measurement(*[speed.Cost(1.0, 1.0)] * 3))
    assert speed.load(MACHINE) == MEASURED


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "null"])
def test_a_damaged_cache_is_none_and_is_replaced(content: str) -> None:
    speed.cache_file().parent.mkdir(parents=True)
    speed.cache_file().write_text(content)
    assert speed.load(MACHINE) is None
    speed.save(MACHINE, MEASURED)
    assert speed.load(MACHINE) == MEASURED
