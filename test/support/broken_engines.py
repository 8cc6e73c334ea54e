"""Engines that each break one promise, and the tests of the conformance suite that have to notice.

Not collected with the other tests: test_engine_conformance.py runs it, and every test it runs has to fail.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qwen3vl_ros.engines.base import Cancel, Chunk, Clip, Description, Options, Request, Stage
from qwen3vl_ros.engines.conformance import EngineConformance

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples" / "engine_package"))
from mean_colour import MeanColourEngine


class Broken(MeanColourEngine):
    """Does as the example does, but for what ``change`` makes of the chunks."""

    caught_by: tuple[str, ...] = ()

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        return self.change(super().generate(request, cancel), cancel)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        return chunks


class TextInTheWrongStage(Broken):
    caught_by = ("test_stages_come_in_order_and_text_in_the_last",)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        return (replace(chunk, stage=Stage.PREFILL) for chunk in chunks)


class TextInOneLump(Broken):
    caught_by = ("test_answer_comes_in_pieces",)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        whole = list(chunks)
        yield replace(whole[-1], text="".join(chunk.text for chunk in whole))


class UsageTooEarly(Broken):
    caught_by = ("test_only_the_last_chunk_has_finish_reason_and_usage",)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        whole = list(chunks)
        yield from (replace(chunk, usage=whole[-1].usage) for chunk in whole)


class NeverSaysHowItEnded(Broken):
    caught_by = ("test_answer_comes_in_pieces",)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        return (chunk for chunk in chunks if chunk.finish_reason is None)


class CountsBackwards(Broken):
    caught_by = ("test_tokens_only_become_more",)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        return (replace(chunk, completion_tokens=100 - chunk.completion_tokens) for chunk in chunks)


class UsageThatDoesNotAddUp(Broken):
    caught_by = ("test_usage_adds_up",)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        for chunk in chunks:
            yield chunk if chunk.usage is None else replace(chunk, usage=replace(chunk.usage, prompt_tokens=0))


class HalfCharacters(Broken):
    caught_by = ("test_characters_are_whole",)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        return (replace(chunk, text=chunk.text.replace("°", "\ufffd\ufffd\u00e9")) for chunk in chunks)


class Moody(Broken):
    caught_by = ("test_same_question_has_the_same_answer",)
    answers = itertools.count()

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        return (replace(chunk, text=f"{chunk.text}{next(self.answers)} ") for chunk in chunks)


class DeafToCancel(Broken):
    caught_by = (
        "test_cancel_before_the_start_costs_nothing",
        "test_cancel_before_the_first_text_ends_the_answer",
        "test_cancel_in_the_middle_ends_the_answer[1]",
        "test_cancel_while_the_engine_works_ends_the_answer[0]",
    )

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        return super().generate(request, Cancel())


class CancelsAfterTheWork(Broken):
    caught_by = (
        "test_cancel_before_the_start_costs_nothing",
        "test_cancel_before_the_first_text_ends_the_answer",
        "test_cancel_in_the_middle_ends_the_answer[2]",
    )

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        for chunk in super().generate(request, Cancel()):
            yield replace(chunk, finish_reason="cancelled") if chunk.usage and cancel.is_set() else chunk


class HangsWhenCancelled(Broken):
    caught_by = ("test_cancel_in_the_middle_ends_the_answer[1]",)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        for chunk in chunks:
            yield chunk
            if cancel.is_set():
                threading.Event().wait()


class StaleTokens(Broken):
    """What was left of an answer that was cancelled or closed comes with the next."""

    caught_by = (
        "test_cancel_in_the_middle_ends_the_answer[1]",
        "test_stream_closed_early_leaves_the_engine_usable[2]",
    )
    left = ""

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        stale, self.left = self.left, "stale "
        for chunk in chunks:
            if chunk.finish_reason not in (None, "cancelled"):
                self.left = ""
            yield replace(chunk, text=stale + chunk.text if chunk.completion_tokens == 1 else chunk.text)


class BusyForEver(Broken):
    caught_by = ("test_stream_closed_early_leaves_the_engine_usable[1]", "test_cancel_after_the_end_harms_nobody")

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self._busy = threading.Lock()

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        self._busy.acquire()
        yield from chunks
        if not cancel.is_set():
            return
        self._busy.release()


class DeafToOptions(Broken):
    caught_by = (
        "test_max_tokens_ends_the_answer",
        "test_stop_string_ends_the_answer_and_is_not_in_it",
        "test_what_it_does_not_support_is_refused_by_name",
    )

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        return super().generate(replace(request, options=Options(), response_schema=None), cancel)


class DeafToThinking(Broken):
    caught_by = (
        "test_what_it_cannot_do_about_reasoning_is_refused_by_name[thinking-thinking-True]",
        "test_what_it_cannot_do_about_reasoning_is_refused_by_name[thinking_off-thinking-False]",
        "test_what_it_cannot_do_about_reasoning_is_refused_by_name[reasoning_budget-max_reasoning_tokens-5]",
    )

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        return super().generate(replace(request, thinking=None, max_reasoning_tokens=None), cancel)


class Muses(DeafToThinking, Broken):
    """Says that it can think, be quick and keep a limit, and thinks for as long as it likes."""

    caught_by = (
        "test_no_reasoning_where_none_is_wanted",
        "test_reasoning_ends_at_its_limit_and_the_answer_follows",
    )

    def describe(self) -> Description:
        able = {"thinking", "thinking_off", "reasoning_budget"}
        return replace(super().describe(), supports=super().describe().supports | able)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        begin = next(chunks)
        yield begin
        for count in range(1, 201):
            yield Chunk(Stage.DECODE, reasoning="hm ", completion_tokens=count)
        yield from (replace(chunk, completion_tokens=200 + chunk.completion_tokens) for chunk in chunks)


class SaysItThinks(DeafToThinking, Broken):
    caught_by = ("test_reasoning_comes_first_where_it_is_wanted",)

    def describe(self) -> Description:
        return replace(super().describe(), supports=super().describe().supports | {"thinking"})


class NamesTheWrongField(Broken):
    caught_by = ("test_what_it_does_not_support_is_refused_by_name",)

    def generate(self, request: Request, cancel: Cancel) -> Iterator[Chunk]:
        if request.options.temperature is not None:
            request = replace(request, options=replace(request.options, temperature=None, top_p=0.5))
        return super().generate(request, cancel)


class Credulous(Broken):
    """Believes that every request is as it should be."""

    caught_by = (
        "test_array_that_is_no_image_is_refused[float32]",
        "test_array_that_is_no_image_is_refused[no rows]",
        "test_conversation_without_messages_is_refused",
        "test_missing_image_is_refused_where_one_is_needed",
        "test_prompt_that_does_not_fit_is_refused_with_both_numbers",
        "test_more_images_than_it_takes_are_refused",
        "test_a_clip_is_read_or_refused_by_name",
    )

    def describe(self) -> Description:
        return replace(super().describe(), prompt_limit=100, max_images=2)

    def _images(self, request: Request) -> list[Any]:
        return [part for message in request.messages for part in message.content if not isinstance(part, str)]


class LooksAtOneFrame(Broken):
    """Takes a clip for its first frame, without the ability ``video``."""

    caught_by = ("test_a_clip_is_read_or_refused_by_name",)

    def _images(self, request: Request) -> list[Any]:
        def still(part: Any) -> Any:
            return part.frames[0] if isinstance(part, Clip) else part

        messages = tuple(replace(m, content=tuple(map(still, m.content))) for m in request.messages)
        return super()._images(replace(request, messages=messages))


class PaintsOverImages(Broken):
    caught_by = ("test_answer_comes_in_pieces",)

    def _images(self, request: Request) -> list[Any]:
        images = super()._images(request)
        for image in images:
            image[0] = 0
        return images


class ReadsMemoryInOrder(Broken):
    caught_by = ("test_scattered_image_is_refused_or_read_in_order",)

    def _images(self, request: Request) -> list[Any]:
        images = super()._images(request)
        return [
            image if image.flags.c_contiguous else np.zeros_like(image) + np.uint8([[[200, 30, 30]]])
            for image in images
        ]


class DescribesItselfAnew(Broken):
    caught_by = ("test_description_is_constant_and_makes_sense",)
    calls = itertools.count()

    def describe(self) -> Description:
        return replace(super().describe(), details={"call": str(next(self.calls))})


class InventsAbilities(Broken):
    caught_by = ("test_description_is_constant_and_makes_sense",)

    def describe(self) -> Description:
        return replace(super().describe(), supports=frozenset({"telepathy"}))


class ProbeReturnsNothing(Broken):
    caught_by = ("test_probe_says_what_it_finds",)

    @staticmethod
    def probe(**_: Any) -> None:
        return None


class NeedsProgress(Broken):
    caught_by = ("test_description_is_constant_and_makes_sense",)

    def __init__(self, progress: Any) -> None:
        super().__init__(progress=progress)


class ReportsNumbers(Broken):
    caught_by = ("test_loading_reports_in_sentences",)

    def __init__(self, progress: Any = lambda _: None) -> None:
        progress(50)
        super().__init__(progress=progress)


class ClosesOnce(Broken):
    caught_by = ("test_closed_engine_can_be_closed_again_and_another_one_opened",)
    closed = False

    def close(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class LeavesAThread(Broken):
    caught_by = ("test_closed_engine_leaves_nothing_behind",)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class LeavesAFile(Broken):
    caught_by = ("test_closed_engine_leaves_nothing_behind",)

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        os.open(__file__, os.O_RDONLY)


class MixesAnswers(Broken):
    """Answers two at once with what belongs to both."""

    caught_by = ("test_answers_together_are_those_alone",)
    running = 0

    def describe(self) -> Description:
        return replace(super().describe(), concurrency=2)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        self.running += 1
        for chunk in chunks:
            yield replace(chunk, text=chunk.text * self.running)
        self.running -= 1


class ClosesOneForAll(Broken):
    """Ends both of two answers when one is cancelled or closed."""

    caught_by = (
        "test_end_of_one_answer_leaves_the_others[0-cancel]",
        "test_end_of_one_answer_leaves_the_others[1-close]",
    )
    ends = 0

    def describe(self) -> Description:
        return replace(super().describe(), concurrency=2)

    def change(self, chunks: Iterator[Chunk], cancel: Cancel) -> Iterator[Chunk]:
        before = self.ends
        try:
            for chunk in chunks:
                yield replace(chunk, finish_reason="cancelled") if chunk.usage and self.ends > before else chunk
                self.ends += cancel.is_set()
        except GeneratorExit:
            self.ends += 1
            raise


class _Conformance(EngineConformance):
    patience = 1.0  # what waits here waits for ever

    def non_ascii_request(self, engine: Any) -> Request:
        return self.request(engine)


for kind in Broken.__subclasses__():
    name = f"Test{kind.__name__}"
    globals()[name] = type(name, (_Conformance,), {"engine_class": kind})

MUST_FAIL = [f"Test{kind.__name__}::{test}" for kind in Broken.__subclasses__() for test in kind.caught_by]
