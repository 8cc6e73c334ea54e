"""`make bench` measures what it says it measures, with a model that has the shapes it claims."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen3vl_ros.engines.base import Cancel, Message, Options, Request
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.engines.shapes import Shapes

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmark"

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _scripts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARK)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a hundredth of the real one's size."""
    from qwen3vl_ros.engines.llama.random_model import make

    shapes = Shapes(
        embedding=256,
        layers=4,
        heads=4,
        kv_heads=2,
        head=64,
        feed_forward=512,
        vocabulary=2000,
        rope_sections=(12, 10, 10),
        vision_embedding=128,
        vision_layers=4,
        vision_heads=4,
        vision_feed_forward=256,
        deepstack=(0, 1),
    )
    return make(tmp_path_factory.mktemp("random"), shapes)


@pytest.mark.model
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_K", "Q6_K"])
def test_random_weights_have_zero_mean_and_the_asked_deviation(kind: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    from qwen3vl_ros.engines.llama.random_blocks import random_weights

    quantized = GGMLQuantizationType[kind]
    weights = dequantize(random_weights(np.random.default_rng(0), (64, 1024), quantized, 0.02), quantized)
    assert weights.shape == (64, 1024)
    assert weights.std() == pytest.approx(0.02, rel=0.03)
    assert abs(weights.mean()) < 0.001


@pytest.mark.model
def test_default_shapes_are_those_of_qwen3_vl_2b() -> None:
    s = Shapes()
    attention = s.embedding * s.head * (2 * s.heads + 2 * s.kv_heads)
    parameters = s.vocabulary * s.embedding + s.layers * (attention + 3 * s.embedding * s.feed_forward)
    assert parameters == pytest.approx(1.72e9, rel=0.01)  # Qwen3-1.7B, which is its language model


@pytest.mark.model
def test_the_engine_answers_with_a_random_model(model: Path) -> None:
    engine = LlamaEngine(str(model), n_ctx=512)
    try:
        request = Request((Message("user", (IMAGE, "What is it?")),), Options(temperature=0.0, max_tokens=20))
        chunks = list(engine.generate(request, Cancel()))
    finally:
        engine.close()
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].usage.image_tokens == 6
    assert sum(bool(chunk.text) for chunk in chunks) >= 18  # nearly every token streams


@pytest.mark.model
@pytest.mark.parametrize(
    ("question", "passed_on"),
    [("hi", {1, 2, 3, 4, 5}), ("Pass on every second token.", {2, 4}), ("Pass on no token.", set())],
)
def test_the_clocked_engine_passes_on_the_tokens_it_is_asked_for_and_says_when_they_left(
    model: Path, question: str, passed_on: set[int]
) -> None:
    script = (
        "import sys, time\n"
        "from qwen3vl_ros.engines import base, registry\n"
        "engine = registry.load('clocked_llama')(model=sys.argv[1], n_ctx=512)\n"
        "request = base.Request((base.Message('user', (sys.argv[2],)),), base.Options(temperature=0.0, max_tokens=5))\n"
        "for chunk in engine.generate(request, base.Cancel()):\n"
        "    print(time.monotonic_ns(), chunk.completion_tokens, chunk.text)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARK / "engine")}
    begin = time.monotonic_ns()
    output = subprocess.run(
        [sys.executable, "-c", script, str(model), question],
        env=environment, cwd="/", check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    *chunks, last = (line.split(maxsplit=2) for line in output.splitlines())
    clocks = {int(token): int(text) for _, token, text in (chunk for chunk in chunks if len(chunk) == 3)}
    times = [begin, *clocks.values(), int(last[0])]
    assert set(clocks) <= passed_on and bool(clocks) == bool(passed_on)  # not every token of noise is a text
    assert times == sorted(times)
    seconds = json.loads(last[2])
    assert last[1] == "5" and len(seconds) == 4
    assert sum(value or 0 for value in seconds) < (int(last[0]) - begin) / 1e9


def test_a_figure_knows_whether_its_target_is_met() -> None:
    from figures import Figure

    assert Figure("", 0.96, limit=0.95, at_least=True).met
    assert not Figure("", 0.94, limit=0.95, at_least=True).met
    assert Figure("", 0.9, "ms", limit=1.0).met
    assert not Figure("", 1.1, "ms", limit=1.0).met
    assert Figure("", 5.0).met


def test_percentile_is_a_measured_value() -> None:
    from figures import percentile

    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([1.0, 2.0], 0.5) == 1.0


@pytest.mark.once
@pytest.mark.model
@pytest.mark.ros
def test_benchmarks_run_and_show_every_figure(model: Path) -> None:
    command = [sys.executable, BENCHMARK / "run.py", "--quick", "--large", model, "--small", model, "delay", "start_up"]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: a target is not met on this machine
    for figure in ("delay per token, median", "delay per token, p99", "start-up, node / plain"):
        assert figure in done.stdout


@pytest.mark.model
def test_a_wrong_name_is_refused_with_the_right_ones() -> None:
    done = subprocess.run([sys.executable, BENCHMARK / "run.py", "speed"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 2
    assert "there is no benchmark speed" in done.stderr
    assert "throughput" in done.stderr
