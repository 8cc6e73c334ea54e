"""What a model, a server or a caller wrote takes time in proportion to its length, whatever it is.

Each function is given families of texts that grow. The processor time for a text is compared with that for one four
times as long, in the same run: about 4 where it is linear, 16 where it is quadratic, 64 where it is cubic.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from examples import examples
from qwen3vl_ros.client.answer_future import AnswerFuture
from qwen3vl_ros.engines.answer_text import AnswerText
from qwen3vl_ros.engines.base import BadRequest, ImageInput, Message
from qwen3vl_ros.engines.conversation import Conversation
from qwen3vl_ros.engines.maix_http.answer import error_message
from qwen3vl_ros.engines.maix_http.tokens import likely_tokens, most_tokens
from qwen3vl_ros.engines.openai.errors import complaint_in, one_line, retry_after
from qwen3vl_ros.engines.openai.stream import content_of
from qwen3vl_ros.engines.plain_text import output_text
from qwen3vl_ros.engines.streaming import event_data
from qwen3vl_ros.gateway.chat_response import JsonText
from qwen3vl_ros.prompts import schema as schemas
from qwen3vl_ros.prompts.tasks import nearest, parse_slots, short
from qwen3vl_ros.vision.annotate import annotate
from qwen3vl_ros.vision.fit import plan_fit
from qwen3vl_ros.vision.grounding import GroundingError, parse_regions
from qwen3vl_ros.vision.lenient_json import NUMBER
from qwen3vl_ros.vision.moments import parse_moments
from qwen3vl_ros.vision.tiles import merged, tiles
from qwen3vl_ros.vlm.regions import mentions_regions

MEASURABLE = 0.004
"""Seconds of processor time that the shorter text takes at least, so that noise does not decide."""

LONGEST = 1 << 20
"""Of the shorter texts. What takes less than MEASURABLE for this many letters is fast enough."""

MOST = 8.0
"""Greatest ratio of the two times: between 4 and 16."""


def seconds(function: Callable[[Any], object], text: Any) -> float:
    begin = time.thread_time()
    function(text)
    return time.thread_time() - begin


def growth(function: Callable[[Any], object], family: Callable[[int], Any]) -> float:
    """How many times longer a text takes that is four times as long: the least of a few tries."""
    size = 128
    while size < LONGEST and seconds(function, family(size)) < MEASURABLE:
        size *= 2
    one, four = family(size), family(4 * size)
    gc.collect()
    gc.disable()
    try:
        times: list[tuple[float, float]] = []
        for _ in range(5):
            times.append((seconds(function, one), seconds(function, four)))
            ratio = min(t for _, t in times) / max(min(t for t, _ in times), MEASURABLE / 10)
            if ratio < MOST:
                break
    finally:
        gc.enable()
    return ratio


# The functions, as they are called: what they raise about a text is an answer, too.

FIT = plan_fit(640, 480, ImageInput())
TILES = [plan_fit(3201, 333, ImageInput(), 0, tile) for tile in tiles(3201, 333, 2, 1)]
IMAGE = np.zeros((32, 640, 3), np.uint8)


def quiet(function: Callable[[Any], object], *errors: type[Exception]) -> Callable[[Any], object]:
    def call(text: Any) -> object:
        try:
            return function(text)
        except errors:
            return None

    return call


async def pieces_of(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def read_events(pieces: Iterable[bytes]) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [data async for data in event_data(pieces_of(pieces))]

    return asyncio.run(collect())


class Response:
    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        return pieces_of(self._pieces)


def read_body(pieces: Iterable[bytes]) -> bytes:
    response: Any = Response(pieces)
    return asyncio.run(content_of(response, 16_000_000))


def stream(pieces: Iterable[str], stop: Iterable[str] = (), reasoning: bool = False) -> None:
    text = AnswerText(list(stop), reasoning)
    for piece in pieces:
        text.feed(piece.encode())
    text.finish()


class Nowhere:
    """Carries a question nowhere."""

    def explain_stopped(self) -> None:
        return None


class Token:
    stage, queue_position, text = 4, 0, ""
    max_image_tokens, expected_first_token_time = 0, -1.0

    def __init__(self, sequence: int, delta: str, reasoning: str) -> None:
        self.sequence, self.completion_tokens = sequence, sequence + 1
        self.delta, self.reasoning_delta = delta, reasoning


def follow(tokens: Iterable[tuple[str, str]]) -> None:
    """As the gateway streams an answer."""
    tracker: Any = Nowhere()
    question = AnswerFuture(tracker, "?", 60.0, 60.0, 60.0)
    n_text = n_reasoning = 0
    for number, token in enumerate(tokens):
        question.add_feedback(Token(number, *token))
        n_text += len(question.text_since(n_text))
        n_reasoning += len(question.reasoning_since(n_reasoning))


def stream_json(deltas: Iterable[str]) -> None:
    text = JsonText()
    for delta in deltas:
        text.streamable(delta)


FUNCTIONS: dict[str, Callable[[Any], object]] = {
    "validate_answer": quiet(lambda text: schemas.validate_answer(text, {}), ValueError),
    "NUMBER": NUMBER.fullmatch,
    "parse_regions": quiet(lambda text: parse_regions(text, [FIT]), GroundingError),
    "merged": lambda text: merged(parse_regions(text, TILES).regions, TILES),
    "mentions_regions": mentions_regions,
    "parse_moments": lambda text: parse_moments(text, 60.0),
    "annotate": lambda text: annotate(IMAGE, text, text),
    "parse_slots": quiet(parse_slots, BadRequest),
    "short": short,
    "nearest": lambda text: nearest(text, ("locate", "count")),
    "output_text": output_text,
    "Conversation": lambda parts: Conversation([Message("user", tuple(parts))], str),
    "event_data": quiet(read_events, ValueError),
    "content_of": read_body,
    "complaint_in": lambda text: complaint_in(text, ""),
    "one_line": one_line,
    "retry_after": lambda text: retry_after({"retry-after": text, "date": text}),  # type: ignore[arg-type]
    "error_message": lambda text: error_message(text.encode()),
    "most_tokens": most_tokens,
    "likely_tokens": likely_tokens,
    "stream": stream,
    "stream with stops": lambda stops_and_pieces: stream(stops_and_pieces[1], stops_and_pieces[0]),
    "stream of reasoning": lambda pieces: stream(pieces, reasoning=True),
    "follow": follow,
    "stream_json": stream_json,
}


def repeated(unit: str, before: str = "", after: str = "") -> Callable[[int], str]:
    """``unit`` again and again, of about as many letters as are asked for."""
    return lambda n: before + unit * (n // len(unit) + 1) + after


BOX = '{"bbox_2d": [1, 2, 30, 40], "label": "a"}'

FAMILIES: list[tuple[str, Any]] = [
    # Code fences. The first one took 27 s for 2,000 line breaks.
    ("validate_answer", repeated("\n", "```json", "x")),
    ("validate_answer", repeated("\n ", "```json", "x")),
    ("validate_answer", repeated(" ", "```", "\n```x")),
    ("validate_answer", repeated("\n", "```json\n{}", "x```")),
    ("validate_answer", repeated("\n", "", "```json\n{}\n```")),
    ("validate_answer", repeated("\n", "```json\n{}\n```", "x")),
    ("validate_answer", repeated("`", "```\n")),
    ("validate_answer", repeated("```\n")),
    ("validate_answer", repeated("[")),
    ("validate_answer", repeated("1")),
    ("validate_answer", repeated("1", "0.")),
    # Numbers. The first one took seconds for 8,000 digits.
    ("NUMBER", repeated("1", "", "x")),
    ("NUMBER", repeated("1", "1.", "x")),
    ("NUMBER", repeated("1", ".", "x")),
    ("NUMBER", repeated("1", "1e", "x")),
    ("parse_regions", repeated("1", "[", "x]")),
    ("parse_regions", repeated("1", "<box>", "x</box>")),
    ("parse_regions", repeated("1", '<points x1="', 'x"/>')),
    ("parse_regions", repeated("1", "<points x", "/>")),
    ("parse_regions", repeated("1", '{"x": "', 'x"}')),
    ("parse_regions", repeated("1", '[{"bbox_2d": "', 'x"}]')),
    # JSON as models write it.
    ("parse_regions", repeated("[")),
    ("parse_regions", repeated("{")),
    ("parse_regions", repeated("[]")),
    ("parse_regions", repeated('{"a":')),
    ("parse_regions", repeated('{"bbox_2d":')),
    ("parse_regions", repeated('"label":', "{")),
    ("parse_regions", repeated(")", "[[{")),
    ("parse_regions", repeated('"', "[")),
    ("parse_regions", repeated("' ", "[")),
    ("parse_regions", repeated('",', "[")),
    ("parse_regions", repeated('", a', "[")),
    ("parse_regions", repeated(" ", '["', '"x')),
    ("parse_regions", repeated('"        a', "[")),
    ("parse_regions", repeated("\\", '["')),
    ("parse_regions", repeated("\\u00", '["', '"]')),
    ("parse_regions", repeated("\\u0041", '["', '"]')),
    ("parse_regions", repeated("// ", "[")),
    ("parse_regions", repeated("/* ", "[")),
    ("parse_regions", repeated("/**/", "[")),
    ("parse_regions", repeated("# ", "[")),
    ("parse_regions", repeated("[```")),
    ("parse_regions", repeated(BOX + ",", "[")),
    ("parse_regions", repeated("_", '[{"bbox_2d": [1, 2, 3, 4], "image": "image', '"}]')),
    # Tags.
    ("parse_regions", repeated("<ref>")),
    ("parse_regions", repeated("<ref>a")),
    ("parse_regions", repeated("<box>(")),
    ("parse_regions", repeated("<points ")),
    ("parse_regions", repeated("<points x1='1' y1='1' alt=\"")),
    ("parse_regions", repeated("x1='1' y1='1' ", "<points ")),
    ("parse_regions", repeated("x ", "<points ")),
    ("parse_regions", repeated("alt = ", "<points ")),
    ("parse_regions", repeated("alt='", "<points ")),
    # A long label, and many things that have it, or that are left out and named.
    ("parse_regions", lambda n: json.dumps([{"label": "a" * 400 * n, "points": [[1, 1]] * n}])),
    ("parse_regions", lambda n: json.dumps([{"label": "a" * 400 * n, "points": [[5000, 5000]] * n}])),
    ("parse_regions", lambda n: "<ref> " + "a" * 400 * n + "</ref>" + "<box>(1,1),(2,2)" * n),
    ("parse_regions", lambda n: "<ref> " + "a" * 400 * n + "</ref>" + "<box>(1,1),(9,5000)" * n),
    ("merged", lambda n: json.dumps([{"bbox_2d": [i % 999, 1, 999, 9], "image": 1 + i % 2} for i in range(n)])),
    ("mentions_regions", repeated("<point")),
    ("mentions_regions", repeated("bbox_")),
    ("mentions_regions", repeated("<|box_start")),
    # Times.
    ("parse_moments", repeated("1")),
    ("parse_moments", repeated("1 ")),
    ("parse_moments", repeated(" ", "1", "s")),
    ("parse_moments", repeated("1,")),
    ("parse_moments", repeated("at 1, ", "", "s")),
    ("parse_moments", repeated("1 and ", "", "s")),
    ("parse_moments", repeated("one and two ", "at ")),
    ("parse_moments", repeated("三")),
    ("parse_moments", repeated("0:01")),
    ("parse_moments", repeated("0:01 ")),
    ("parse_moments", repeated("0:01-")),
    ("parse_moments", repeated("from 1 to ")),
    ("parse_moments", repeated("1 minute and ")),
    ("parse_moments", repeated("at second ")),
    ("parse_moments", repeated("1s. ")),
    ("parse_moments", repeated("99:59 ")),
    ("parse_moments", repeated("at ", "", "1 s")),
    ("parse_moments", repeated("[")),
    ("parse_moments", repeated("[0:01 ")),
    ("parse_moments", repeated('{"time":')),
    ("parse_moments", repeated('{"a": "0:01", "b":')),
    ("parse_moments", repeated('{"time": 1},', "[")),
    ("parse_moments", repeated("[1, 2], ", '{"times": [', "]}")),
    ("parse_moments", repeated('"1:00": "a", ', "{", "}")),
    ("parse_moments", lambda n: json.dumps([{"label": "a" * n, "times": [1.5] * n}])),
    # Text to look at.
    ("annotate", repeated("a")),
    ("annotate", repeated("a ")),
    ("annotate", repeated("\u56fe")),
    ("annotate", repeated(" ", "a", "a")),
    # A caller's.
    ("parse_slots", lambda n: json.dumps({str(i): 1 for i in range(n // 8)})),
    ("parse_slots", repeated("[")),
    ("parse_slots", repeated(" ")),
    ("short", repeated("a")),
    ("nearest", repeated("locate")),
    ("nearest", repeated("l")),
    ("output_text", repeated("\0")),
    ("output_text", repeated("\ud800a")),
    ("Conversation", lambda n: ["a" * 100] * (n // 100 + 1)),
    ("most_tokens", repeated(" ")),
    ("most_tokens", repeated(" \n")),
    ("most_tokens", repeated("\n ", "", "a")),
    ("most_tokens", repeated("a")),
    ("most_tokens", repeated("1\u56fe ")),
    ("likely_tokens", repeated(" ", "\n", "a")),
    # A server's.
    ("event_data", lambda n: [b"data: x\n" * n]),
    ("event_data", lambda n: [b"data:\n"] * n),
    ("event_data", lambda n: [b"\n"] * n),
    ("event_data", lambda n: [b": x"] * n),
    ("event_data", lambda n: [b"data: ", *[b"x" * 50] * n, b"\n\n"]),
    ("event_data", lambda n: [b"data: ", *[b"\r"] * n]),
    ("content_of", lambda n: [b"x" * 50] * n),
    ("complaint_in", repeated("<title>")),
    ("complaint_in", repeated("</title>", "<")),
    ("complaint_in", repeated("<")),
    ("complaint_in", repeated(" ")),
    ("complaint_in", repeated("[")),
    ("complaint_in", repeated('{"error": ')),
    ("complaint_in", repeated("a", '{"error": "', '"}')),
    ("error_message", repeated("[")),
    ("error_message", repeated("a", '{"error": "', '"}')),
    ("one_line", repeated(" a")),
    ("retry_after", repeated("9")),
    ("retry_after", repeated("9 ")),
    ("retry_after", repeated(":", "Wed, 21 Oct 2015 07")),
    # A model's, as it comes.
    ("stream", lambda n: [" " * 50] * n),
    ("stream", lambda n: ["<", "think", ">", *["\n"] * n]),
    ("stream", lambda n: ["a"] * n),
    ("stream of reasoning", lambda n: ["a", *[" " * 50] * n, "b"]),
    ("stream of reasoning", lambda n: ["a", " " * n]),
    ("stream of reasoning", lambda n: ["</thin"] * n),
    ("stream of reasoning", lambda n: [" a"] * n),
    ("stream of reasoning", lambda n: ["a", "</think>", *["\n"] * n]),
    ("stream of reasoning", lambda n: ["a", "</think>" * n]),
    ("stream of reasoning", lambda n: ["a", *[" </think>"] * n]),
    ("stream with stops", lambda n: (["\n\n", "User:"], ["\n", "U"] * n)),
    ("follow", lambda n: [("a" * 100, "")] * n),
    ("follow", lambda n: [("", "a" * 100)] * n),
    ("stream_json", lambda n: [" " * 100] * n),
    ("stream_json", lambda n: ['"', *["a" * 100] * n]),
]


@pytest.mark.parametrize(
    ("name", "family"), [pytest.param(*case, id=f"{case[0]} {number}") for number, case in enumerate(FAMILIES)]
)
def test_four_times_the_text_takes_about_four_times_as_long(name: str, family: Callable[[int], Any]) -> None:
    assert growth(FUNCTIONS[name], family) < MOST


def test_a_quadratic_function_would_be_noticed() -> None:
    def quadratic(text: str) -> None:
        for start in range(len(text)):
            text[start:].isspace()

    assert growth(quadratic, repeated(" ")) > MOST


def test_a_label_that_thousands_of_points_share_is_not_told_whole_with_each() -> None:
    text = json.dumps([{"label": "a" * 100_000, "points": [[i % 999, i // 999] for i in range(5000)]}])
    regions = parse_regions(text, [FIT]).regions
    assert len(regions) > 4000
    assert sum(len(region.label) for region in regions) <= 1000 * len(regions)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"error": ' * 100_000])
def test_json_that_is_nested_too_deeply_is_told_like_any_other_that_is_none(text: str) -> None:
    assert complaint_in(text, "").message
    assert error_message(text.encode()) == ""
    with pytest.raises(ValueError, match="not JSON"):
        schemas.validate_answer(text, {})


# What the regular expressions were that took too long.

OLD_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)
OLD_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


_fenced = st.lists(st.sampled_from(["```", "`", "json", "\n", " ", "\u3000", "\x1f", "{}", "a"]), max_size=12)


@given(_fenced.map("".join))
@example("```\n```")
@example("```\n```\n```")
@example("````\n````")
@example(" ```json \n\n  {}\n \n``` ")
@examples(500)
def test_fences_are_taken_off_as_before(text: str) -> None:
    assert schemas.without_fence(text) == OLD_FENCE.sub(r"\1", text)


@given(st.text("0123456789+-.eE\u0661x", max_size=12))
@examples(500)
def test_numbers_are_those_from_before(text: str) -> None:
    number = NUMBER.fullmatch(text)
    assert (number is None) == (OLD_NUMBER.fullmatch(text) is None)
    assert number is None or not math.isnan(float(text))
