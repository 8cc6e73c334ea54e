"""The catalogue of published models: names, sizes, what fits a machine, what is recommended."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from qwen3vl_ros.engines import fitted_catalogue as fitting
from qwen3vl_ros.engines import speed
from qwen3vl_ros.engines.catalogue import UnknownModel, catalogue, find
from qwen3vl_ros.engines.fitted_catalogue import Fit, FittedCatalogue, fits, fitted_catalogue
from qwen3vl_ros.engines.machine import Machine, this_machine

MACHINE = Machine("a processor", 4, 16_000_000_000, 12_000_000_000, 100_000_000_000, bf16=False)
MEASURED = speed.Measurement(speed.Cost(0.25, 0.4), speed.Cost(0.15, 0.3), speed.Cost(0.0015, 0.012))

# Bytes of the files on Hugging Face, as public projects that download them state them.
PUBLISHED = {
    ("2b", "Q4_K_M"): 1.03 * 2**30,
    ("2b", "Q8_0"): 1.70 * 2**30,
    ("2b", "F16"): 3.21 * 2**30,
    ("4b", "Q4_K_M"): 2.33 * 2**30,
    ("4b", "F16"): 7.50 * 2**30,
    ("8b", "Q4_K_M"): 5027784800,
    ("8b", "Q8_0"): 8.11 * 2**30,
    ("30b-a3b", "Q4_K_M"): 18.6e9,
    ("32b", "Q4_K_M"): 19762150432,
    ("32b", "Q8_0"): 34817720352,
    ("4b", "int4"): 3.1e9,
    ("8b", "int4"): 5462515610,
}


@pytest.mark.parametrize(("name", "quant"), PUBLISHED)
def test_sizes_are_those_of_the_published_files(name: str, quant: str) -> None:
    engine = "openvino" if quant.startswith("int") else "llama"
    entry = find(name, engine, quant)
    projector = entry.shapes.vision_bytes if engine == "llama" else 0
    assert entry.disk - projector == pytest.approx(PUBLISHED[name, quant], rel=0.03)


def test_size_of_the_projector_is_that_of_a_file() -> None:
    assert find("2b").shapes.vision_bytes == pytest.approx(782 * 2**20, rel=0.01)  # of the 2B in F16


def test_every_published_size_variant_and_quantisation_is_there() -> None:
    repos = {(entry.repo, entry.quant) for entry in catalogue() if entry.engine == "llama"}
    for size in ("2B", "4B", "8B", "30B-A3B", "32B", "235B-A22B"):
        for variant in ("Instruct", "Thinking"):
            for quant in ("Q4_K_M", "Q8_0", "F16"):
                assert (f"Qwen/Qwen3-VL-{size}-{variant}-GGUF", quant) in repos
    assert len(repos) == 36


def test_a_model_is_found_by_what_people_write() -> None:
    assert find("2b").repo == find("2B").repo == find("Qwen3-VL-2B-Instruct").repo == "Qwen/Qwen3-VL-2B-Instruct-GGUF"
    assert find("4b-thinking").repo == "Qwen/Qwen3-VL-4B-Thinking-GGUF"
    assert find("8b", quant="q8_0").quant == "Q8_0"
    assert find("4b", "openvino").repo == "OpenVINO/Qwen3-VL-4B-Instruct-int4-ov"


def test_what_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(UnknownModel, match=r"no model '4b-thinkin'; did you mean '4b-thinking'"):
        find("4b-thinkin")
    with pytest.raises(UnknownModel, match=r"no ready-made 32b for the engine openvino, only for llama"):
        find("32b", "openvino")
    with pytest.raises(UnknownModel, match=r"Qwen3-VL-2B-Instruct has no Q2_K for llama; it has Q4_K_M, Q8_0, F16"):
        find("2b", "llama", "Q2_K")


def test_what_does_not_fit_disk_or_memory_is_marked() -> None:
    assert fits(find("2b"), MACHINE) == Fit(disk=True, memory=True)
    assert fits(find("32b"), MACHINE) == Fit(disk=True, memory=False)
    assert fits(find("2b"), dataclasses.replace(MACHINE, disk_free=10**9)) == Fit(disk=False, memory=True)
    assert fits(find("235b-a22b"), MACHINE) == Fit(disk=False, memory=False)


def recommended(machine: Machine, measured: speed.Measurement | None) -> list[str]:
    return [f"{model.name} {model.quant}" for model in fitted_catalogue(machine, measured).models if model.recommended]


def test_the_largest_that_fits_and_is_fast_enough_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_installed", lambda _: False)
    costs = (
        speed.Cost(cost.layer / 10, cost.rest / 10) for cost in (MEASURED.encode, MEASURED.prefill, MEASURED.token)
    )
    fast = speed.Measurement(*costs)
    assert recommended(MACHINE, MEASURED) == ["2b Q4_K_M"]
    assert recommended(MACHINE, fast) == ["8b Q4_K_M"]
    assert recommended(dataclasses.replace(MACHINE, memory_free=6 * 10**9), fast) == ["4b Q4_K_M"]
    assert recommended(dataclasses.replace(MACHINE, disk_free=10**9), fast) == []


def test_without_figures_the_smallest_that_fits_is_recommended() -> None:
    assert recommended(MACHINE, None) == ["2b Q4_K_M"]
    assert recommended(dataclasses.replace(MACHINE, memory_free=10**9), None) == []


def test_openvino_is_recommended_where_it_is_installed_and_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_installed", lambda _: True)
    slower = speed.Measurement(MEASURED.encode, MEASURED.prefill, MEASURED.token)
    assert recommended(dataclasses.replace(MACHINE, bf16=True), slower) == ["4b int4"]
    assert recommended(MACHINE, slower) == ["2b Q4_K_M"]  # without BF16 there is no figure of openvino


def test_times_are_given_for_what_fits_and_never_without_a_measurement() -> None:
    models = {(model.name, model.quant): model for model in fitted_catalogue(MACHINE, MEASURED).models}
    assert models["2b", "Q4_K_M"].first_token == pytest.approx(24 * 0.25 + 0.4 + 28 * 0.15 + 0.3, abs=0.01)
    assert models["2b", "Q4_K_M"].tokens_per_second == pytest.approx(1 / (28 * 0.0015 + 0.012), abs=0.01)
    assert models["32b", "Q4_K_M"].first_token is None
    assert models["2b", "int8"].first_token is None
    unmeasured = fitted_catalogue(MACHINE, None)
    assert not unmeasured.measured
    assert {model.first_token for model in unmeasured.models} == {None}


def test_the_catalogue_is_json() -> None:
    found = fitted_catalogue(MACHINE, MEASURED)
    read = json.loads(json.dumps(dataclasses.asdict(found)))
    assert read["models"][0]["url"] == "https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct-GGUF"
    assert set(read) == {field.name for field in dataclasses.fields(FittedCatalogue)}


def test_the_machine_is_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\nflags\t\t: fpu avx512_bf16 sse\n"
    )
    (tmp_path / "meminfo").write_text(
        "MemTotal:       16000000 kB\nMemFree:          100 kB\nMemAvailable:    2000000 kB\n"
    )
    machine = this_machine(tmp_path / "not" / "there", proc=tmp_path)
    assert (machine.cpu, machine.bf16) == ("Some CPU @ 3 GHz", True)
    assert (machine.memory, machine.memory_free) == (16_384_000_000, 2_048_000_000)
    assert machine.disk_free > 0
    nothing = this_machine(tmp_path, proc=tmp_path / "none")
    assert (nothing.memory, nothing.bf16) == (0, False)
