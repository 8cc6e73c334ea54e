"""What is text, and what becomes of the rest."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engines.plain_text import NulError, input_json, input_text, output_text

ANY = st.text(st.characters())  # surrogates too
PLAIN = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


@given(PLAIN)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert input_text("prompt", text) == output_text(text) == text


@given(ANY)
def test_whatever_a_model_writes_can_be_sent(text: str) -> None:
    sent = output_text(text)
    sent.encode()
    assert "\0" not in sent
    assert len(sent) <= len(text)
    assert output_text(sent) == sent


@given(PLAIN, PLAIN)
def test_halves_that_belong_together_are_joined_and_others_replaced(before: str, after: str) -> None:
    assert output_text(f"{before}\ud83d\ude00{after}") == f"{before}😀{after}"
    assert output_text(f"{before}\ud83d") == f"{before}\ufffd"
    assert output_text(f"\ude00{after}") == f"\ufffd{after}"


@given(PLAIN, PLAIN)
def test_a_nul_of_a_caller_is_refused_by_the_name_of_its_field(before: str, after: str) -> None:
    with pytest.raises(ValueError, match=rf"^prompt: .*index {len(before)}\b"):
        input_text("prompt", f"{before}\0{after}")
    assert output_text(f"{before}\0{after}") == f"{before}\ufffd{after}"


@given(st.recursive(st.none() | st.integers() | ANY, lambda v: st.lists(v) | st.dictionaries(ANY, v), max_leaves=6))
def test_json_is_refused_for_a_nul_anywhere_and_can_be_sent_otherwise(value: Any) -> None:
    if "\\u0000" in json.dumps(value).replace("\\\\", ""):
        with pytest.raises(NulError, match=r"^(a name in )?slots\b.*: it holds a NUL") as refused:
            input_json("slots", value)
        assert str(refused.value).startswith(f"{refused.value.path}: ")
    else:
        json.dumps(input_json("slots", value), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("\0", "slots"),
        ({"a": ["b", {"c": "\0"}]}, "slots.a.1.c"),
        ([{"\0": 1}], "a name in slots.0"),
        ({"\ud83d": "\0"}, "slots.\ufffd"),
        ({"a" * 300: {"b": "\0"}}, f"slots.{'a' * 194}..."),
    ],
)
def test_a_nul_in_json_is_refused_by_its_path_which_can_be_sent(value: Any, path: str) -> None:
    with pytest.raises(NulError) as refused:
        input_json("slots", value)
    assert refused.value.path == path
