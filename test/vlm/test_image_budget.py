"""How many tokens an image gets: what the goal asks for, the task, the model's limits and the time that is left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qwen3vl_ros.action import AskImage

from examples import examples
from qwen3vl_ros.engines.base import Description, ImageInput, ModelCard, Options, Unsupported, Usage
from qwen3vl_ros.prompts.request import AUTO_IMAGE_TOKENS, AskRequest, check_supported
from qwen3vl_ros.vlm.image_budget import ImageBudget, choose_budget
from qwen3vl_ros.vlm.image_cost import ImageCost, ImageLoad

ENGINE = Description("llama", "qwen", context_length=8192, image_input=ImageInput(32, 4096, default_tokens=300))
FIXED = Description("maix", "qwen", image_input=ImageInput(size=(448, 448)))
SECOND = 0.01
"""Seconds that an image's token takes on the machine of these tests."""


def cost(per_token: float = SECOND, answer: float = 0.0) -> ImageCost:
    cost = ImageCost()
    for size in (100, 300):
        encode = size * per_token
        cost.observe(ImageLoad((size,), (b"",)), Usage(size, size, 0, 11, 0, encode, encode, encode + answer))
    return cost


def question(**fields: object) -> AskRequest:
    return AskRequest("What?", **{"options": Options(max_tokens=100), **fields})


def budget(
    request: AskRequest,
    seconds: float = 60.0,
    known: ImageCost | None = None,
    description: Description = ENGINE,
    parts: int = 1,
) -> ImageBudget:
    return choose_budget(request, description, parts, seconds, known or ImageCost())


def test_the_number_that_stands_for_auto_is_the_interfaces() -> None:
    assert AUTO_IMAGE_TOKENS == AskImage.Goal.MAX_IMAGE_TOKENS_AUTO


def test_a_question_that_says_nothing_gets_the_engines_own_number() -> None:
    assert budget(question(), known=cost()) == ImageBudget(300)
    assert budget(question(), 0.001, cost()) == ImageBudget(300)
    assert budget(question(), parts=0) == ImageBudget()
    assert budget(question(), description=FIXED) == ImageBudget(196)


def test_a_goals_number_is_taken_and_above_the_engines_own_a_small_image_is_enlarged() -> None:
    assert budget(question(max_image_tokens=64), 0.001, cost()) == ImageBudget(64)
    assert budget(question(max_image_tokens=300)) == ImageBudget(300)
    assert budget(question(max_image_tokens=1024), 0.001, cost()) == ImageBudget(1024, 1024)
    assert budget(question(max_image_tokens=1024, task_image_tokens=64)) == ImageBudget(1024, 1024)


def test_more_than_possible_becomes_the_most_possible_and_a_note() -> None:
    model = replace(ENGINE, image_input=ImageInput(32, 144, default_tokens=144))
    capped = budget(question(max_image_tokens=1024), description=model)
    assert (capped.tokens, capped.enlarged_to) == (144, 144)
    assert capped.note == "max_image_tokens: 1024 were asked for, and llama takes 144 for an image at most"
    small = replace(ENGINE, context_length=2048)
    capped = budget(question(max_image_tokens=4000), description=small)
    assert 1800 < capped.tokens < 2048 - 100
    assert "context of 2048 tokens" in capped.note
    several = budget(question(max_image_tokens=4000), description=small, parts=3)
    assert 600 < several.tokens < (2048 - 100) / 3


def test_the_answer_keeps_its_room_in_the_context() -> None:
    small = replace(ENGINE, context_length=4096)
    long = budget(question(max_image_tokens=4096, options=Options(max_tokens=8192)), description=small)
    assert long.tokens < 4096 * 3 / 4
    npu = replace(small, prompt_limit=1000)
    assert budget(question(max_image_tokens=4096), description=npu).tokens < 1000


def test_a_full_context_leaves_the_engines_own_number() -> None:
    small = replace(ENGINE, context_length=1024)
    assert budget(question(), description=small, parts=9).tokens == 300
    assert budget(question(max_image_tokens=2000), description=small, parts=9).tokens == 300
    assert budget(question(max_image_tokens=200), description=small, parts=9).tokens == 200


@given(seconds=st.floats(0.0, 300.0), per_token=st.floats(1e-5, 1.0), answer=st.floats(0.0, 100.0))
@examples(300)
def test_auto_leaves_the_answer_its_time(seconds: float, per_token: float, answer: float) -> None:
    known = cost(per_token, answer)
    chosen = budget(question(max_image_tokens=AUTO_IMAGE_TOKENS), seconds, known)
    expected = known.first_token_time([chosen.tokens], 20)
    assert expected is not None
    if not chosen.note:
        assert expected <= seconds / 2 + 1e-6
        assert expected + known.answer_time(100) <= seconds + 1e-6
    else:
        assert chosen.tokens == 64
        assert "timeout" in chosen.note


@given(seconds=st.floats(0.0, 300.0), more=st.floats(0.0, 100.0), per_token=st.floats(1e-5, 1.0))
@examples(200)
def test_more_time_never_gets_fewer_tokens(seconds: float, more: float, per_token: float) -> None:
    auto, task = question(max_image_tokens=AUTO_IMAGE_TOKENS), question(task_image_tokens=1024)
    for asked in (auto, task):
        known = cost(per_token)
        assert budget(asked, seconds, known).tokens <= budget(asked, seconds + more, known).tokens


def test_auto_takes_all_that_the_time_allows() -> None:
    auto = question(max_image_tokens=AUTO_IMAGE_TOKENS)
    assert budget(auto, 1000.0, cost()).tokens == 2048
    for seconds in (2.0, 7.0, 20.0, 39.0):
        tokens = budget(auto, seconds, cost()).tokens
        assert seconds / 2 / SECOND / 1.3 <= tokens <= seconds / 2 / SECOND
    assert budget(auto, 7.0, cost()).tokens == budget(auto, 7.2, cost(SECOND * 1.02)).tokens  # its image is known


def test_auto_before_anything_was_measured_is_the_engines_own_number() -> None:
    assert budget(question(max_image_tokens=AUTO_IMAGE_TOKENS)) == ImageBudget(300)


def test_auto_enlarges_no_image_but_for_a_task_that_wants_it() -> None:
    assert budget(question(max_image_tokens=AUTO_IMAGE_TOKENS), 1000.0, cost()).enlarged_to == 0
    locate = question(max_image_tokens=AUTO_IMAGE_TOKENS, task_image_tokens=1024)
    assert budget(locate, 1000.0, cost()) == ImageBudget(2048, 1024)


def test_a_tasks_number_is_taken_as_far_as_the_engines_speed_allows() -> None:
    locate = question(task_image_tokens=1024)
    assert budget(locate) == ImageBudget(300)  # nothing is known of its speed
    assert budget(locate, 60.0, cost()) == ImageBudget(1024, 1024)
    assert budget(locate, 1.0, cost()) == ImageBudget(300)
    between = budget(locate, 24.0, cost())
    assert 300 < between.tokens == between.enlarged_to <= 24.0 / 4 / SECOND
    assert budget(question(task_image_tokens=64), 60.0, cost()) == ImageBudget(64)


def test_a_tasks_number_is_left_out_where_the_encoder_has_one_size() -> None:
    locate = question(task_image_tokens=1024)
    check_supported(locate, FIXED)
    assert budget(locate, 60.0, cost(), FIXED) == ImageBudget(196)
    check_supported(question(max_image_tokens=AUTO_IMAGE_TOKENS), FIXED)
    with pytest.raises(Unsupported, match=r"^max_image_tokens"):
        check_supported(question(max_image_tokens=196), FIXED)


def test_the_models_card_knows_better_than_a_ready_made_task() -> None:
    trained = replace(ENGINE, card=ModelCard(grounding_image_tokens=200))
    locate = question(task_image_tokens=1024, parser="regions", ready_made=True)
    assert budget(locate, 60.0, cost(), trained) == ImageBudget(200)
    assert budget(replace(locate, ready_made=False), 60.0, cost(), trained).tokens == 1024
    assert budget(replace(locate, parser="text"), 60.0, cost(), trained).tokens == 1024
