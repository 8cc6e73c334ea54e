"""Scores and variances of an answer's items, from the probabilities of its tokens."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.engines.base import ImageInput
from qwen3vl_ros.engines.token_probabilities import Token
from qwen3vl_ros.vision.confidence import Confidence
from qwen3vl_ros.vision.fit import plan_fit
from qwen3vl_ros.vision.grounding import parse_regions

WHOLE = plan_fit(1000, 1000, ImageInput(size=(500, 500), fit="fill"))


def confidence(*tokens: Token) -> tuple[Confidence, str]:
    text = b"".join(token.text for token in tokens).decode()
    return Confidence(text, tokens), text


def sure(text: str, probability: float = 1.0, **others: float) -> Token:
    return Token(text.encode(), probability, tuple((other.encode(), p) for other, p in others.items()))


def scores(*tokens: Token) -> list[float | None]:
    told, text = confidence(*tokens)
    return [told.score(region.at) for region in parse_regions(text, [WHOLE]).regions]


ITEM = '{"bbox_2d": [1, 2, 30, 40], "label": "cup"'


def test_the_score_is_the_share_of_the_item_against_the_end_of_the_list() -> None:
    begin = sure("[{", 0.6, **{"[]": 0.2, "```json": 0.15, "": 0.05})
    assert scores(begin, sure(ITEM[1:] + "}]")) == [pytest.approx(0.75)]


def test_a_later_item_is_weighed_against_the_end_after_the_one_before_it() -> None:
    comma = sure('"}, ', 0.3, **{'"}]': 0.5, '"},\n': 0.1, " holder": 0.1})
    first, second = scores(sure("["), sure(ITEM[:-1]), comma, sure(ITEM.replace("30", "50")), sure("}]"))
    assert first == pytest.approx(0.9)  # not a cup holder
    assert second == pytest.approx(0.4 / 0.9)


def test_the_label_counts_up_to_its_closing_quote() -> None:
    begin = sure('[{"bbox_2d": [1, 2, 30, 40], "label": "')
    red = sure("red", 0.8, green=0.1, re=0.05)
    cup = sure(' cup"', 0.5, **{' cup"}': 0.25, " cup holder": 0.2})
    assert scores(begin, red, cup, sure("}]")) == [pytest.approx(0.8 * 0.75)]


def test_a_bracket_alone_means_the_end_where_no_token_is_an_empty_list() -> None:
    rest = sure(ITEM[1:] + "}]")
    assert scores(sure("[{", 0.9, **{"[": 0.1}), rest) == [pytest.approx(0.9)]
    assert scores(sure("[{", 0.9, **{"[": 0.07, "[]": 0.03}), rest) == [pytest.approx(0.97)]
    assert scores(sure("[", 0.9), sure("{", 0.5, **{"]": 0.5}), rest) == [pytest.approx(0.5)]


@pytest.mark.parametrize(
    "text",
    [
        '<ref>cup</ref><box>(1,2),(30,40)</box>',
        '{"bbox_2d": [1, 2, 30, 40]} and {"bbox_2d": [100, 200, 300, 400]}',
    ],
)  # fmt: skip
def test_what_is_no_item_of_a_list_has_no_score(text: str) -> None:
    assert scores(sure(text))[-1] is None


def test_tokens_of_another_text_tell_nothing() -> None:
    told = Confidence(f"[{ITEM}}}]", [sure("something else")])
    assert told.score(13) is None
    assert told.numbers(13, 100) == ([], [])


def test_a_text_after_reasoning_and_before_a_stop_string_is_found() -> None:
    tokens = [sure("\n\n"), sure("[{", 0.5, **{"[]": 0.5}), sure(ITEM[1:]), sure("}]STOP")]
    text = f"[{ITEM}}}]"
    assert Confidence(text, tokens).score(text.index("[1")) == pytest.approx(0.5)


def test_text_that_is_not_ascii_is_aligned_by_its_bytes() -> None:
    text = '图中：[{"bbox_2d": [1, 2, 30, 40], "label": "杯子"}]'
    data = text.encode()
    cut = data.index("杯".encode()) + 1  # inside a character
    tokens = [Token(data[:cut], 1.0), Token(data[cut:], 0.25, ((b"\xb9", 0.5),))]
    assert Confidence(text, tokens).score(text.index("[1")) == pytest.approx(0.25)


# Answers, tokenizers and probabilities of every kind: the score is what the probabilities of the answers say.

LABELS = ("red cup", "red crate", "cup", "杯子")


PIECES = [
    *(label.encode() for label in LABELS),
    b'[{"bbox_2d": [',
    b'], "label": "',
    b'"}, {"bbox_2d": [',
    b'"}]',
    b"[]",
]
"""What tokens are parts of: tokenizers of language models never join a word of a label with what is around it."""


def written(labels: Iterable[str]) -> bytes:
    return json.dumps([{"bbox_2d": [1, 20, 300, 400], "label": label} for label in labels], ensure_ascii=False).encode()


ANSWERS = [written(labels) for n in range(3) for labels in product(LABELS, repeat=n)]


def tokenized(text: bytes, vocabulary: Sequence[bytes]) -> list[bytes]:
    """Greedy: the longest token that fits, or a byte."""
    tokens, at = [], 0
    while at < len(text):
        token = next((token for token in vocabulary if text.startswith(token, at)), text[at : at + 1])
        tokens.append(token)
        at += len(token)
    return tokens


def told(answers: Mapping[bytes, float], chosen: bytes, vocabulary: Sequence[bytes]) -> list[Token]:
    """The tokens of an answer with their probabilities, as a model with this distribution of answers has them."""
    cut = {answer: tokenized(answer, vocabulary) for answer in answers}
    tokens: list[Token] = []
    for n, text in enumerate(cut[chosen]):
        following: dict[bytes, float] = {}
        for answer, probability in answers.items():
            if cut[answer][:n] == cut[chosen][:n]:
                other = cut[answer][n] if n < len(cut[answer]) else b""
                following[other] = following.get(other, 0.0) + probability
        closed = {other + b"]" for other in following if other.endswith((b"[", b"}"))} & set(vocabulary)
        following = dict.fromkeys(closed, 0.0) | following
        total = sum(following.values())
        others = tuple((other, p / total) for other, p in following.items() if other != text)
        tokens.append(Token(text, following[text] / total, others))
    return tokens


def share(answers: Mapping[bytes, float], before: bytes, after: bytes) -> float:
    """Of the answers that begin with ``before``, those that go on with ``after``."""
    given_ = sum(p for answer, p in answers.items() if answer.startswith(before))
    return sum(p for answer, p in answers.items() if answer.startswith(before + after)) / given_


@examples(300)
@given(
    st.lists(st.tuples(st.sampled_from(PIECES), st.integers(0, 16), st.integers(1, 20)), max_size=25),
    st.lists(st.floats(0.01, 1.0), min_size=len(ANSWERS), max_size=len(ANSWERS)),
    st.sampled_from([answer for answer in ANSWERS if answer != b"[]"]),
)
def test_the_score_is_the_models_probability_whatever_the_tokenizer(
    pieces: list[tuple[bytes, int, int]], weights: list[float], chosen: bytes
) -> None:
    vocabulary = sorted({piece[at : at + n] for piece, at, n in pieces} - {b""}, key=len, reverse=True)
    answers = dict(zip(ANSWERS, weights, strict=True))
    tokens = told(answers, chosen, vocabulary)
    aligned, text = Confidence(chosen.decode(), tokens), chosen.decode()
    end = 0
    for region in parse_regions(text, [WHOLE]).regions:
        label = text.encode().index(b'"label": "', len(text[: region.at].encode())) + len(b'"label": "')
        quote = text.encode().index(b'"', label) + 1
        begins = share(answers, chosen[:end], chosen[end : end + 1] + (b"{" if end == 0 else b""))
        exact = begins * share(answers, chosen[:label], chosen[label:quote])
        assert aligned.score(region.at) == pytest.approx(exact, rel=1e-6)
        end = quote + 1


# Numbers.


def digits(*places: Mapping[str, float], end: str = "]") -> tuple[list[int], list[float]]:
    tokens = [sure("[")]
    for place in places:
        (first, probability), *others = place.items()
        tokens.append(sure(first, probability, **dict(others)))
    told_, _ = confidence(*tokens, sure(end))
    return told_.numbers(0, 100)


def test_the_variance_is_that_of_the_last_digit_where_the_others_are_sure() -> None:
    (number,), (variance,) = digits({"3": 1.0}, {"5": 1.0}, {"2": 0.5, "1": 0.25, "3": 0.25})
    assert (number, variance) == (352, pytest.approx(0.5 + 1 / 12))


def test_an_earlier_digit_stands_for_the_nearest_number_that_begins_with_it() -> None:
    (number,), (variance,) = digits({"4": 0.5, "3": 0.5}, {"0": 1.0}, {"2": 1.0})
    assert (number, variance) == (402, pytest.approx(0.5 * 3**2 + 1 / 12))  # 399
    (number,), (variance,) = digits({"1": 0.8, "9": 0.2}, {"0": 1.0}, {"2": 0.9, "1": 0.1})
    assert (number, variance) == (102, pytest.approx(0.2 * 3**2 + 0.8 * 0.1 * 1 + 1 / 12))  # 99


def test_numbers_of_one_token_have_the_variance_of_their_distribution() -> None:
    (number,), (variance,) = digits({"380": 0.5, "378": 0.3, "384": 0.2})
    assert (number, variance) == (380, pytest.approx(0.3 * 4 + 0.2 * 16 + 1 / 12))


def test_what_is_far_away_is_another_thing_and_counts_not() -> None:
    (_,), (variance,) = digits({"3": 0.8, "7": 0.2}, {"5": 1.0}, {"2": 1.0})
    assert variance == pytest.approx(1 / 12)
    (_,), (variance,) = digits({"3": 1.0}, {"5": 1.0}, {"]": 0.9, "2": 0.1}, end="")
    assert variance == pytest.approx(1 / 12)  # 35 or 352


@examples(200)
@given(st.integers(100, 900), st.floats(0.7, 12.0))
def test_the_variance_of_digits_is_near_that_of_a_bell_curve(middle: int, deviation: float) -> None:
    """Read from three digits, of a number that is distributed about ``middle``; never more than three times off."""
    curve = {n: math.exp(-((n - middle) ** 2) / (2 * deviation**2)) for n in range(1000)}
    text = str(middle)
    places = []
    for n in range(3):
        within = {k: p for k, p in curve.items() if f"{k:03}".startswith(text[:n])}
        place = {text[n]: 0.0}
        for k, p in within.items():
            digit = f"{k:03}"[n]
            place[digit] = place.get(digit, 0.0) + p / sum(within.values())
        places.append(place)
    (_,), (variance,) = digits(*places)
    assert deviation / 3 <= math.sqrt(variance) <= 1.5 * deviation
