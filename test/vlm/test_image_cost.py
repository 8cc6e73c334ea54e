"""What earlier answers took says what the next one will take, whatever the machine and however it is disturbed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.engines.base import Image, Usage
from qwen3vl_ros.vlm.image_cost import ImageCost, ImageLoad

sizes = st.integers(16, 2048)
scales = st.floats(1e-5, 0.1)
curvatures = st.floats(0.0, 1 / 200)
prefills = st.floats(1e-6, 0.05)


class Machine:
    """Encodes an image of n tokens in ``scale * (n + curvature n^2)`` s, and reads a token in ``prefill`` s."""

    def __init__(self, scale: float, curvature: float, prefill: float) -> None:
        self.scale, self.curvature, self.prefill = scale, curvature, prefill

    def encode(self, size: int) -> float:
        return self.scale * (size + self.curvature * size**2)

    def first_token(self, new: list[int], text: int) -> float:
        return sum(map(self.encode, new)) + self.prefill * (sum(new) + text)

    def answer(self, size: int, text: int = 50, images: int = 1, slow: float = 1.0) -> Usage:
        encode = images * self.encode(size) * slow
        first = encode + self.prefill * (images * size + text) * slow
        return Usage(images * size + text, images * size, 0, 10, 0, encode, first, first + 0.9)


def learnt(machine: Machine, answered: list[int]) -> ImageCost:
    cost = ImageCost()
    for size in answered:
        cost.observe(ImageLoad((size,), (b"",)), machine.answer(size))
    return cost


machines = st.builds(Machine, scales, curvatures, prefills)


def test_nothing_is_expected_before_the_first_answer() -> None:
    cost = ImageCost()
    assert cost.first_token_time([300], 50) is None
    cost.observe(ImageLoad((300,), (b"",)), Usage(350, 300))  # cancelled before its first token
    assert cost.first_token_time([300], 50) is None
    assert cost.answer_time(None) == 0.0


@given(machine=machines, size=sizes, text=st.integers(10, 500))
@examples(200)
def test_the_same_again_takes_as_long_as_it_took(machine: Machine, size: int, text: int) -> None:
    cost = learnt(machine, [size])
    assert cost.first_token_time([size], text) == pytest.approx(machine.first_token([size], text), rel=1e-6)


@given(machine=machines, small=st.integers(16, 300), ratio=st.floats(1.6, 7.0), asked=sizes)
@examples(300)
def test_two_sizes_tell_all_sizes(machine: Machine, small: int, ratio: float, asked: int) -> None:
    cost = learnt(machine, [small, round(small * ratio)])
    assert cost.first_token_time([asked], 50) == pytest.approx(machine.first_token([asked], 50), rel=1e-3)


def test_one_size_of_qwen3_vl_on_a_cpu_tells_the_others_about() -> None:
    """The times of docs/engines.md; its prefill left out."""
    seconds = {80: 1.2, 300: 5.9, 920: 32.0}
    for known in seconds:
        cost = ImageCost()
        usage = Usage(known + 50, known, encode_time=seconds[known], first_token_time=seconds[known])
        cost.observe(ImageLoad((known,), (b"",)), usage)
        for asked, took in seconds.items():
            assert cost.first_token_time([asked], 0) == pytest.approx(took, rel=0.15)


@given(machine=machines, size=sizes, larger=sizes)
@examples(200)
def test_more_tokens_are_never_expected_sooner(machine: Machine, size: int, larger: int) -> None:
    cost = learnt(machine, [size, 300])
    low, high = sorted((size, larger))
    assert cost.first_token_time([low], 50) <= cost.first_token_time([high], 50)
    assert cost.first_token_time([low], 50) <= cost.first_token_time([low, high], 50)


@given(machine=machines, size=sizes, slow=st.floats(0.0, 1000.0), at=st.integers(0, 7))
@examples(200)
def test_one_odd_answer_changes_nothing(machine: Machine, size: int, slow: float, at: int) -> None:
    cost = ImageCost()
    for number in range(8):
        cost.observe(ImageLoad((size,), (b"",)), machine.answer(size, slow=slow if number == at else 1.0))
    assert cost.first_token_time([size], 50) == pytest.approx(machine.first_token([size], 50), rel=1e-6)


@given(machine=machines, size=sizes, slow=st.floats(0.1, 10.0))
@examples(100)
def test_a_machine_that_has_become_slower_or_faster_is_believed_soon(machine: Machine, size: int, slow: float) -> None:
    cost = learnt(machine, [size] * 100)
    for _ in range(8):
        cost.observe(ImageLoad((size,), (b"",)), machine.answer(size, slow=slow))
    assert cost.first_token_time([size], 50) == pytest.approx(machine.first_token([size], 50) * slow, rel=1e-6)


@given(machine=machines, size=sizes, images=st.integers(1, 6))
@examples(100)
def test_several_images_of_a_question_count_each(machine: Machine, size: int, images: int) -> None:
    cost = ImageCost()
    cost.observe(ImageLoad((size,) * images, (b"",) * images), machine.answer(size, images=images))
    assert cost.first_token_time([size], 50) == pytest.approx(machine.first_token([size], 50), rel=1e-6)


def picture(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 255, (64, 96, 3), np.uint8)


def test_an_image_that_the_engine_knows_costs_nothing_and_says_nothing() -> None:
    machine, cost = Machine(0.02, 0.0, 0.001), ImageCost()
    first = cost.load_of([picture(0)], 32)
    assert first.new == (6,)
    cost.observe(first, machine.answer(6))
    before = cost.first_token_time([6], 50)
    for _ in range(20):  # a still image
        again = cost.load_of([picture(0)], 32)
        assert again.new == ()
        cost.observe(again, Usage(56, 6, 0, 10, 0, 0.0, machine.prefill * 56, 1.0))
    assert cost.first_token_time([6], 50) == before
    assert cost.first_token_time([], 50) == pytest.approx(0.05)
    assert cost.load_of([picture(0), picture(1)], 32).new == (6,)
    assert cost.load_of([picture(0).reshape(96, 64, 3)], 32).new == (6,)


def test_an_image_whose_answer_never_began_is_not_known() -> None:
    cost = ImageCost()
    cost.observe(cost.load_of([picture(0)], 32), Usage())
    assert cost.load_of([picture(0)], 32).new == (6,)


def test_an_engine_that_encodes_known_images_again_is_believed() -> None:
    machine, cost = Machine(0.02, 0.0, 0.001), ImageCost()
    for _ in range(2):
        cost.observe(cost.load_of([picture(0)], 32), machine.answer(6))
    assert cost.load_of([picture(0)], 32).new == (6,)
    cost.observe(cost.load_of([picture(0)], 32), Usage(56, 6, 0, 10, 0, 0.0, 0.05, 1.0))
    assert cost.load_of([picture(0)], 32).new == ()


def test_a_server_that_tells_its_first_token_alone_is_measured_by_that() -> None:
    cost = ImageCost()
    for size in (100, 200):
        cost.observe(ImageLoad((size,), (b"",)), Usage(size + 50, 0, 0, 10, 0, None, size * 0.01, 5.0))
    assert cost.first_token_time([400], 50) == pytest.approx(4.0)


def test_a_long_answers_time_is_that_of_the_longer_recent_ones_within_max_tokens() -> None:
    cost = ImageCost()
    for tokens in (10, 20, 30, 100):
        cost.observe(ImageLoad(), Usage(50, 0, 0, tokens, 0, 0.0, 1.0, 1.0 + 0.1 * (tokens - 1)))
    assert cost.answer_time(None) == pytest.approx(10.0)
    assert cost.answer_time(5) == pytest.approx(0.5)
