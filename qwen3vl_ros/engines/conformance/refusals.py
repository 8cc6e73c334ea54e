"""The conformance tests of requests that an engine must refuse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qwen3vl_ros.engines.base import (
    BadImage,
    BadRequest,
    Chunk,
    Engine,
    Image,
    Message,
    PromptTooLong,
    Request,
    Unsupported,
)
from qwen3vl_ros.engines.conformance.fields import SCHEMA
from qwen3vl_ros.engines.conformance.harness import EngineHarness, noise_image, sentence, with_options
from qwen3vl_ros.engines.conformance.stream import text_of

_OPTIONS: Mapping[str, Any] = {
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "seed": 7,
    "max_tokens": 5,
    "stop": ("zzz",),
}
_CHOICES = (("yes", "是"), ("no", "否"))


class Refusals(EngineHarness):
    """Tests of refusals."""

    def test_what_it_does_not_support_is_refused_by_name(self, engine: Engine, whole: list[Chunk]) -> None:
        """A field that ``supports`` does not name is never ignored: Unsupported is raised and begins with its name."""
        asked = self.request(engine)
        told = (Message("system", ("Be brief.",)), *asked.messages)
        requests = {name: with_options(asked, **{name: value}) for name, value in _OPTIONS.items()} | {
            "json_schema": Request(asked.messages, asked.options, SCHEMA),
            "system_prompt": Request(told, asked.options),
            "probabilities": replace(asked, choices=_CHOICES),
        }
        for ability in requests.keys() - engine.describe().supports:
            field = {"json_schema": "response_schema", "probabilities": "choices"}.get(ability, ability)
            text = self.assert_refused(engine, requests[ability], Unsupported)
            assert re.match(rf"(options\.)?{field}\b", text), f"the sentence begins with the field, {field}: {text}"
        self.assert_still_answers(engine, whole)

    def test_missing_image_is_refused_where_one_is_needed(self, engine: Engine) -> None:
        """An engine without ``text_only`` refuses a question without an image in place of inventing one."""
        if "text_only" in engine.describe().supports:
            pytest.skip("the engine answers without an image")
        self.assert_refused(engine, self.request(engine, images=()), BadRequest)

    def test_more_images_than_it_takes_are_refused(self, engine: Engine, whole: list[Chunk]) -> None:
        """More than ``max_images`` images are refused; none is dropped silently."""
        description = engine.describe()
        if description.max_images is None:
            pytest.skip("the engine does not limit the number of images")
        largest = noise_image(description, 4096)
        self.assert_refused(engine, self.request(engine, images=(largest,) * (description.max_images + 1)), BadRequest)
        self.assert_still_answers(engine, whole)

    def test_prompt_that_does_not_fit_is_refused_with_both_numbers(self, engine: Engine, whole: list[Chunk]) -> None:
        """The refusal comes before any work, and names the prompt's size and the limit."""
        description = engine.describe()
        limits = {n for n in (description.context_length, description.prompt_limit) if n is not None}
        if not limits:
            pytest.skip("the engine knows no limit")
        words = " ".join(map(str, range(4 * max(limits))))
        text = self.assert_refused(engine, self.request(engine, words), PromptTooLong)
        numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)}
        assert numbers & limits, f"the sentence is to have the limit, {sorted(limits)}: {text}"
        assert max(numbers) > min(limits), f"the sentence is to have the length of the prompt too: {text}"
        self.assert_still_answers(engine, whole)

    @pytest.mark.parametrize("defect", ["float32", "uint16", "grey", "RGBA", "no rows", "no columns", "flat"])
    def test_array_that_is_no_image_is_refused(self, engine: Engine, whole: list[Chunk], defect: str) -> None:
        """An image is uint8 [height, width, 3] with pixels; everything else is BadImage, never a crash."""
        good = self._image(engine)
        bad: Mapping[str, Any] = {
            "float32": good.astype(np.float32),
            "uint16": good.astype(np.uint16),
            "grey": good[..., 0].copy(),
            "RGBA": np.concatenate([good, good[..., :1]], axis=2),
            "no rows": good[:0],
            "no columns": good[:, :0].copy(),
            "flat": good.reshape(-1),
        }
        self.assert_refused(engine, self.request(engine, images=(bad[defect],)), BadImage)
        self.assert_still_answers(engine, whole)

    def test_scattered_image_is_refused_or_read_in_order(self, engine: Engine, whole: list[Chunk]) -> None:
        """An array that is not C-contiguous, such as a mirrored view, is not read as if it were."""
        good = self._image(engine)
        request = self.long_request(engine)

        def about(image: Image) -> Request:
            text = next(part for part in request.messages[-1].content if isinstance(part, str))
            return Request((Message("user", (image, text)),), request.options, request.response_schema)

        try:
            mirrored = text_of(self.ask(engine, about(good[:, ::-1])))
        except BadImage as error:
            sentence(error)
        else:
            copy = np.ascontiguousarray(good[:, ::-1])
            assert not self.repeatable or mirrored == text_of(self.ask(engine, about(copy)))
        self.assert_still_answers(engine, whole)

    def test_image_of_another_size_is_refused_or_answered(self, engine: Engine, whole: list[Chunk]) -> None:
        """An image that the caller did not fit does not crash the engine."""
        self._image(engine)
        for shape in ((1, 1, 3), (47, 33, 3), (7, 501, 3)):
            try:
                self.ask(engine, self.request(engine, images=(np.full(shape, 99, np.uint8),)))
            except BadImage as error:
                sentence(error)
        self.assert_still_answers(engine, whole)

    def test_conversation_without_messages_is_refused(self, engine: Engine) -> None:
        """A conversation without messages has nothing to answer and is refused."""
        self.assert_refused(engine, Request(()), BadRequest)

    def _image(self, engine: Engine) -> Image:
        description = engine.describe()
        if description.max_images == 0:
            pytest.skip("the engine takes no images")
        return noise_image(description)
