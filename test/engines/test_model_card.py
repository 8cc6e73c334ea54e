"""A model says what it is for: in its own file, or by its family."""

import json

from hypothesis import given
from hypothesis import strategies as st

from qwen3vl_ros.engines.base import ModelCard
from qwen3vl_ros.engines.model_card import card_json, model_card

_TOY = ModelCard("It knows boxes only.", True, ("locate",), False, ("en", "zh"), "Apache-2.0", 144)
_VALUE = st.none() | st.booleans() | st.floats() | st.text()
_JSON = st.recursive(_VALUE, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def test_a_card_survives_its_own_file() -> None:
    assert model_card("any", card_json(_TOY)) == _TOY


def test_a_published_family_is_known_by_name() -> None:
    for name in ("Qwen3-VL-2B-Instruct-Q4_K_M", "qwen3_vl_4b", "Qwen/Qwen3-VL-8B-Thinking"):
        card = model_card(name)
        assert card.license == "Apache-2.0"
        assert card.conversation
        assert not card.demonstration
        assert not card.domain


def test_an_unknown_model_has_no_limits() -> None:
    assert model_card("my-own-model") == ModelCard()


def test_a_models_own_card_goes_before_its_familys() -> None:
    assert model_card("qwen3-vl-of-mine", card_json(_TOY)) == _TOY


@given(_JSON | st.dictionaries(st.sampled_from([*json.loads(card_json(_TOY)), "other"]), _JSON))
def test_a_broken_card_of_a_model_from_elsewhere_stops_nothing(value: object) -> None:
    card = model_card("any", json.dumps(value))
    assert isinstance(card.domain, str)
    assert isinstance(card.demonstration, bool)
    assert all(isinstance(task, str) for task in card.tasks)
    assert isinstance(card.grounding_image_tokens, int)


def test_text_that_is_no_json_is_no_card() -> None:
    assert model_card("any", "{nonsense") == ModelCard()
