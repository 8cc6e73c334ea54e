"""How likely an answer begins with yes is what the model's own distribution says, or a sentence on why nobody knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engines.base import Description
from qwen3vl_ros.engines.choices import FirstToken, bare, beginnings, probabilities
from qwen3vl_ros.prompts.probability import certainty, wanted_choices
from qwen3vl_ros.prompts.request import AskRequest

YES_NO = (("yes", "是", "是的"), ("no", "否", "不是"))
ASKED = AskRequest("Is it?", choices=YES_NO)
TELLS = Description("teller", "m", supports=frozenset({"probabilities"}))


@pytest.mark.parametrize("token", ["Yes", "yes", " yes", "YES", " Yes,", '"Yes', "**yes**", "Ye", "是", "是的", "：是"])
def test_every_way_to_write_a_word_counts_for_its_choice(token: str) -> None:
    assert probabilities([(token, 0.4)], YES_NO) == (0.4, 0.0)


@pytest.mark.parametrize("token", ["", " ", "\n\n", "yesterday", "nothing", "now", "\ufffd", "...", "!", "maybe"])
def test_what_begins_no_word_counts_for_none(token: str) -> None:
    assert probabilities([(token, 0.4)], YES_NO) == (0.0, 0.0)


def test_a_token_that_begins_words_of_several_choices_counts_for_none() -> None:
    ajar = (("half open",), ("half shut",), ("open",))
    assert probabilities([("half", 0.5), (" Open", 0.2), ("half s", 0.1)], ajar) == (0.0, 0.1, 0.2)


tokens_told = st.lists(st.tuples(st.text(max_size=6), st.floats(0, 1)), max_size=20)


@given(tokens_told, st.lists(st.lists(st.text()), max_size=4))
def test_any_tokens_and_words_add_up(tokens: list[tuple[str, float]], choices: list[list[str]]) -> None:
    found = probabilities(tokens, choices)
    assert len(found) == len(choices)
    assert sum(found) <= sum(probability for _, probability in tokens) + 1e-9
    assert "" not in beginnings(choices)


@given(st.text())
def test_a_bare_text_has_nothing_left_to_strip(text: str) -> None:
    assert bare(f" ,{bare(text)}. ") == bare(bare(text))


def test_the_first_token_that_says_something_counts() -> None:
    first_token = FirstToken(YES_NO)
    for token, told in (("\n\n", (0.1, 0.1)), ('"', (0.2, 0.1)), ("Yes", (0.7, 0.2)), ("no", (0.0, 1.0))):
        first_token.take(token, lambda told=told: told)
    assert first_token.probabilities == (0.7, 0.2)


def test_what_turns_out_to_be_reasoning_does_not_count() -> None:
    first_token = FirstToken(YES_NO)
    first_token.take("think", lambda: (0.5, 0.5))
    first_token.reset()
    assert first_token.probabilities is None
    first_token.take("No", lambda: (0.1, 0.8))
    assert first_token.probabilities == (0.1, 0.8)


def test_nobody_looks_where_there_is_nothing_to_choose() -> None:
    FirstToken(()).take("Yes", lambda: pytest.fail("somebody looked"))


def test_half_a_character_is_the_first_token() -> None:
    first_token = FirstToken(YES_NO)
    first_token.take("\ufffd", lambda: (0.0, 0.1))
    first_token.take("yes", lambda: (1.0, 0.0))
    assert first_token.probabilities == (0.0, 0.1)


# What the result says.


def test_the_probability_is_the_first_choices_share_of_what_all_had() -> None:
    found = certainty(ASKED, TELLS, (0.6, 0.2))
    assert (found.probability, found.mass, found.note) == (pytest.approx(0.75), pytest.approx(0.8), "")


@pytest.mark.parametrize(
    ("asked", "engine", "told", "words"),
    [
        (ASKED, Description("deaf", "m"), None, "engine 'deaf' tells none"),
        (AskRequest("?", choices=YES_NO, response_schema={}), TELLS, None, "JSON"),
        (ASKED, TELLS, None, "logprobs"),
        (ASKED, TELLS, (0.0, 0.0), "none of the choices"),
    ],
)
def test_what_is_not_known_is_said_so(
    asked: AskRequest, engine: Description, told: tuple[float, ...] | None, words: str
) -> None:
    found = certainty(asked, engine, told)
    assert found.probability is None
    assert words in found.note


def test_a_question_without_choices_has_neither_probability_nor_note() -> None:
    found = certainty(AskRequest("What?"), TELLS, None)
    assert (found.probability, found.mass, found.note) == (None, None, "")


def test_an_engine_is_asked_only_for_what_it_can_tell() -> None:
    assert wanted_choices(ASKED, TELLS) == YES_NO
    assert wanted_choices(ASKED, Description("deaf", "m")) == ()
    assert wanted_choices(AskRequest("?", choices=YES_NO, response_schema={}), TELLS) == ()
