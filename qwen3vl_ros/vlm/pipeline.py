"""The path of one question: collect images, prompt the engine, stream its chunks as feedback, parse the answer."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, cast

from qwen3vl_ros.engines.base import (
    BadRequest,
    Chunk,
    Description,
    EngineError,
    EngineNotReady,
    PromptTooLong,
    Request,
    Stage,
    Usage,
)
from qwen3vl_ros.engines.chain import EngineChain
from qwen3vl_ros.engines.plain_text import output_text
from qwen3vl_ros.engines.process import CANNOT_ANSWER, Call, State
from qwen3vl_ros.engines.text_buffer import TextBuffer
from qwen3vl_ros.engines.token_probabilities import Token
from qwen3vl_ros.msg import Moment
from qwen3vl_ros.prompts.clip import LAST_FRAME_PROMPT, asks_times
from qwen3vl_ros.prompts.probability import Certainty, certainty, wanted_choices
from qwen3vl_ros.prompts.request import AskRequest, card_notes, check_supported, conversation
from qwen3vl_ros.prompts.sandbox import Killed, Sandbox
from qwen3vl_ros.prompts.schema import again_prompt, naming_prompt, naming_schema, schema_prompt, validate_answer
from qwen3vl_ros.prompts.scores import label_notes, score_notes, scores_wanted
from qwen3vl_ros.prompts.thinking import check_asked_thinking, options_with_room, supported_thinking
from qwen3vl_ros.vision.camera_model import CalibrationError
from qwen3vl_ros.vision.coordinates import Scale
from qwen3vl_ros.vision.grounding import GroundingError
from qwen3vl_ros.vision.region import Region
from qwen3vl_ros.vlm.cameras import Camera
from qwen3vl_ros.vlm.frames import settle_frames
from qwen3vl_ros.vlm.history_recorder import HistoryRecorder
from qwen3vl_ros.vlm.image_cost import ImageCost
from qwen3vl_ros.vlm.images import InputImages, collect_images
from qwen3vl_ros.vlm.job import Code, GoalError, GoalResult, Job, Progress, Wake
from qwen3vl_ros.vlm.moments import moments_of
from qwen3vl_ros.vlm.parameters import Settings, wanted_engines
from qwen3vl_ros.vlm.regions import camera_view, mentions_regions, regions_of, sure_enough
from qwen3vl_ros.vlm.session_question import SessionQuestion
from qwen3vl_ros.vlm.sessions import Sessions
from qwen3vl_ros.vlm.transforms import Transforms
from qwen3vl_ros.vlm.visualization import Display, NoDisplay

RESULT_GRACE = 0.25
"""Seconds that an ended question waits for the engine's last chunk; then its result is sent without that."""

STOP_GRACE = 2.0
"""Seconds after which an engine that ignores a cancel is killed."""

VALIDATION_TIME = 3.0
"""Time limit of validating an answer against its schema, seconds; without a malicious schema it takes 1 ms."""


class BadAnswer(Exception):
    """The answer does not satisfy the request; the text says why."""

    code_name = "BAD_RESPONSE"  # as in engines/base.py


@dataclass(slots=True)
class PartialAnswer:
    """The state of an answer while it is generated."""

    text: TextBuffer = field(default_factory=TextBuffer)
    reasoning: TextBuffer = field(default_factory=TextBuffer)
    finish_reason: str = ""
    json: str = ""
    inputs: InputImages = field(default_factory=InputImages)
    regions: tuple[Region, ...] = ()
    moments: tuple[Moment, ...] = ()
    usage: Usage = field(default_factory=Usage)
    probabilities: tuple[float, ...] | None = None
    tokens: tuple[Token, ...] = ()
    certainty: Certainty = field(default_factory=Certainty)
    notes: list[str] = field(default_factory=list)
    begun: bool = False
    withheld: bool = False
    images_read: bool = False
    loading: str = ""
    completion_tokens: int = 0
    queue_time: float | None = None
    image_time: float | None = None
    engine: str = ""
    model: str = ""
    session: SessionQuestion | None = None

    def result(self, job: Job, error: GoalError | None = None) -> GoalResult:
        """Return the job's result. Its own error, such as a cancel, takes precedence over ``error``."""
        error = job.error or error
        if error is not None and error.code == Code.TIMEOUT and self.loading:
            error = GoalError(Code.ENGINE_NOT_READY, f"{error.message}, because no model was ready: {self.loading}")
        finish_reason = self.finish_reason
        if error is not None and self.completion_tokens and not finish_reason:
            finish_reason = "cancelled"
        usage = self.usage
        if not usage.completion_tokens:
            usage = Usage(completion_tokens=self.completion_tokens)
        return GoalResult(
            error=error,
            text=str(self.text),
            reasoning=str(self.reasoning),
            finish_reason=finish_reason,
            json=self.json,
            headers=tuple(image.header for image in self.inputs.images),
            pixel_stamps=tuple(image.pixel_stamp for image in self.inputs.images),
            image_change=self.inputs.change,
            regions=self.regions,
            moments=self.moments,
            certainty=self.certainty,
            notes=tuple(dict.fromkeys(self.notes)),
            usage=usage,
            budget=self.inputs.budget,
            queue_time=self.queue_time,
            image_time=self.image_time,
            engine=self.engine,
            model=self.model,
        )


class ActiveEngine:
    """The current engine, and the jobs that each engine is answering. Usable from any thread."""

    def __init__(self, chain: EngineChain) -> None:
        self.chain = chain
        self._asked: dict[Job, EngineChain] = {}
        self._lock = threading.Lock()

    @contextmanager
    def asked_by(self, job: Job) -> Iterator[EngineChain]:
        """Yield the current engine, and register ``job`` as answered by it within the block."""
        with self._lock:
            chain = self._asked[job] = self.chain
        try:
            yield chain
        finally:
            with self._lock:
                del self._asked[job]

    def replace(self, chain: EngineChain) -> list[Job]:
        """Make ``chain`` the current engine; return the jobs that others are still answering."""
        with self._lock:
            self.chain = chain
            return [job for job, asked in self._asked.items() if asked is not chain]


class Pipeline:
    """Runs a goal through cameras and engine on the calling thread.

    Args:
        engine: Answers; may change while a job waits for it.
        cameras: By name.
        display: Shows questions and answers.
        settings: Returns the current parameters.
        sandbox: Runs the validation of answers against their schemas.
        recorder: Keeps the histories of the cameras.
        sessions: The conversations that goals continue.
        transforms: What tf knows.
        log: Takes sentences about answers.
    """

    def __init__(
        self,
        engine: ActiveEngine,
        cameras: Mapping[str, Camera],
        display: Display | NoDisplay,
        settings: Callable[[], Settings],
        sandbox: Sandbox,
        recorder: HistoryRecorder,
        sessions: Sessions,
        transforms: Transforms,
        log: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._cameras = cameras
        self._display = display
        self._settings = settings
        self._sandbox = sandbox
        self._recorder = recorder
        self._sessions = sessions
        self._transforms = transforms
        self._log = log
        self._costs: defaultdict[tuple[str, str], ImageCost] = defaultdict(ImageCost)

    def run(self, job: Job, answer: PartialAnswer) -> None:
        """Fill ``answer`` until it is complete or the job ends.

        Raises:
            BadAnswer: It is complete and does not satisfy the request.
            NoFrame: No fresh frame arrived in time.
            EngineError: Raised by the engine, or by a check of the goal.
        """
        description = self._ready(job)
        if description is None:
            health = self._engine.chain.health
            if health.state is not State.READY:
                answer.loading = health.message or "it is still loading"
            return
        answer.engine, answer.model = description.engine, description.model
        answer.notes = [*card_notes(description), *self._passed_over(description)]
        request, session = job.request, None
        if request.session:
            session = answer.session = self._sessions.begin(request.session, description)
            request = session.continued(request)
        check_supported(request if session is None else session.supported(request), description)
        check_asked_thinking(request, description)
        begin = time.monotonic()
        cost = self._costs[description.engine, description.model]
        timeout = self._settings().frame_timeout
        inputs = None if session is None else session.earlier_images(request)
        if inputs is None:
            inputs = collect_images(
                job, request, self._cameras, timeout, description, self._sandbox, cost, self._recorder
            )
        if inputs is None:
            return
        if session is not None:
            inputs = session.joined(inputs, cost)
        answer.inputs, answer.image_time = inputs, time.monotonic() - begin
        answer.notes += inputs.notes
        if request.parser == "regions" and inputs.parts > 1 and request.response_schema is not None:
            request = replace(request, response_schema=naming_schema(request.response_schema, inputs.parts))
        constrained = request.response_schema is None or "json_schema" in description.supports
        answer.withheld = not constrained  # a second attempt may replace it, and streamed text cannot be taken back
        prompt = self._prompt(job, request, answer, constrained=constrained)
        problem: BadAnswer | None = None
        try:
            self._ask_until_valid(job, request, answer, description, prompt)
        except BadAnswer as error:
            problem = error
        if session is not None:
            answer.notes += [*session.notes, *filter(None, [session.earlier.note])]
        if answer.withheld and answer.text:
            self._show(job, answer, Chunk(Stage.DECODE, str(answer.text), "", answer.completion_tokens), True)
        self._display.answered(request.prompt, str(answer.text), inputs.images, answer.regions)
        if problem is not None:
            raise problem

    def _ready(self, job: Job) -> Description | None:
        """Wait until the engine is loaded and describe it; None when the job ends first."""
        while job.error is None:
            health = self._engine.chain.health
            if health.state is State.READY and health.description is not None:
                return health.description
            if health.state in CANNOT_ANSWER:
                raise EngineNotReady(health.message)
            job.inbox.get()  # engine_changed() or the job's own end
        return None

    def _passed_over(self, description: Description) -> list[str]:
        """Return a note if the user wants another engine than the one that answers."""
        wanted = wanted_engines(self._settings())
        reasons = [why for name, why in self._engine.chain.health.passed_over.items() if name in wanted]
        return [f"{description.engine} answers; {'; '.join(reasons)}"] if reasons else []

    @staticmethod
    def _prompt(job: Job, request: AskRequest, answer: PartialAnswer, *, constrained: bool) -> str:
        """Compose the prompt with the camera's field of view, and with the schema if the engine does not enforce it.

        The schema is left out for a task, whose prompt describes its answer.
        """
        prompt, own = request.prompt, answer.inputs.own
        if request.prompt_through is not None and own:
            try:
                view = camera_view(own[0], job.cancellation)
            except CalibrationError as error:
                answer.notes.append(f"the model was not told the camera's field of view: {error}")
            else:
                prompt = prompt if view is None else request.prompt_through(view)
        if request.parser == "regions" and answer.inputs.parts > 1:
            prompt = f"{prompt}\n{naming_prompt(answer.inputs.parts)}"
        if request.parser == "regions" and answer.inputs.clip_times and not asks_times(request.response_schema):
            prompt = f"{prompt}\n{LAST_FRAME_PROMPT}"
        if not constrained and request.response_schema is not None and not request.task:
            prompt = f"{prompt}\n\n{schema_prompt(request.response_schema)}"
        return prompt

    def _ask_until_valid(
        self, job: Job, request: AskRequest, answer: PartialAnswer, description: Description, prompt: str
    ) -> None:
        """Ask, and once more if the answer breaks a schema that the engine does not enforce.

        Raises:
            BadAnswer: The second answer is not valid either, or there is none.
        """
        notes = list(answer.notes)
        try:
            self._ask(job, request, answer, description, prompt)
        except BadAnswer as problem:
            if not answer.withheld or job.error is not None:
                raise
            first, answer.notes = replace(answer), notes
            answer.text, answer.reasoning, answer.finish_reason = TextBuffer(), TextBuffer(), ""
            again = f"{prompt}\n\n{again_prompt(str(first.text), str(problem))}"
            try:
                self._ask(job, request, answer, description, again)
            except EngineError as error:  # such as PromptTooLong: keep the first answer
                answer.text, answer.reasoning, answer.finish_reason = first.text, first.reasoning, first.finish_reason
                answer.notes = first.notes
                raise BadAnswer(f"{problem}; asking again failed: {error}") from error

    def _ask(self, job: Job, request: AskRequest, answer: PartialAnswer, description: Description, prompt: str) -> None:
        """Stream the engine's answer and parse it, unless the job ends before. Raises :class:`BadAnswer`."""
        session = answer.session
        earlier = () if session is None else session.earlier.messages
        engine_request = Request(
            conversation(request, answer.inputs.content, prompt, earlier),
            options_with_room(request, description),
            request.response_schema if "json_schema" in description.supports else None,
            wanted_choices(request, description),
            scores_wanted(request, description),
            **supported_thinking(request, description),
        )
        job.messages, job.inputs = engine_request.messages, answer.inputs
        try:
            if job.error is None:
                with self._engine.asked_by(job) as chain:
                    self._stream(job, answer, engine_request, description, chain)
                self._costs[description.engine, description.model].observe(answer.inputs.load, answer.usage)
        except PromptTooLong:
            if session is None or not session.shorten():
                raise
            self._ask(job, request, answer, description, prompt)
            return
        if job.error is not None:
            return
        if session is not None:
            asked = engine_request.messages[-1]
            session.answered(asked, answer.inputs, str(answer.text), answer.usage)
        if answer.finish_reason == "length" and answer.reasoning and not answer.text:
            answer.notes.append(
                "max_tokens ended the answer before the reasoning was over: ask with a higher max_tokens, or with "
                "max_reasoning_tokens"
            )
        answer.certainty = certainty(request, description, answer.probabilities)
        answer.notes += [answer.certainty.note] if answer.certainty.note else []
        self._read(job, request, answer, description)

    def _read(self, job: Job, request: AskRequest, answer: PartialAnswer, description: Description) -> None:
        """Parse the JSON, the regions and the times of a complete answer. Raises :class:`BadAnswer`."""

        def report(sentence: str) -> None:
            answer.notes.append(sentence)
            self._log(sentence)

        def read_regions() -> None:
            scale = cast("Scale", self._settings().coordinates)
            found = regions_of(text, answer.tokens, answer.inputs, scale, report, job.cancellation)
            answer.regions = sure_enough(found, request.score_threshold, report)
            answer.notes += score_notes(request, description, [region.score for region in found])
            answer.notes += label_notes(request.labels, [region.label for region in answer.regions])

        text = str(answer.text)
        answer.moments = moments_of(text, answer.inputs, answer.notes.append)
        try:
            if request.parser in ("regions", "regions_3d"):
                read_regions()
                with suppress(BadAnswer):  # regions are read even from JSON that is cut off
                    answer.json = self._validated(job, text, request.response_schema or {})
            elif request.response_schema is not None:
                answer.json = self._validated(job, text, request.response_schema)
            elif answer.inputs.images and mentions_regions(text):
                with suppress(GroundingError):  # regions were not requested
                    read_regions()
        except GroundingError as error:
            raise BadAnswer(str(error)) from error

    def _validated(self, job: Job, text: str, schema: Mapping[str, Any]) -> str:
        """Validate an answer and return its JSON, "" if the job ended before. Raises BadAnswer, BadRequest."""
        timeout = max(0.0, min(VALIDATION_TIME, job.deadline - time.monotonic()))
        try:
            return self._sandbox.run(validate_answer, text, schema, timeout=timeout, cancel=job.cancellation)
        except ValueError as error:
            raise BadAnswer(str(error)) from error
        except Killed as error:
            if job.error is not None or time.monotonic() >= job.deadline:
                return ""
            raise BadRequest(
                f"response_schema: the answer could not be held against it, {error}: simplify its patterns and "
                "references"
            ) from error

    def _stream(
        self, job: Job, answer: PartialAnswer, engine_request: Request, description: Description, chain: EngineChain
    ) -> None:
        """Send the request and publish its chunks until the answer is complete or the job ends."""
        last_full_text = -float("inf")

        def deliver(item: Chunk | EngineError) -> None:
            """Publish a chunk on the engine's thread; only the end of the answer is put into the job's inbox."""
            nonlocal last_full_text
            try:
                if isinstance(item, Chunk):
                    now = time.monotonic()
                    full = now - last_full_text >= self._settings().full_text_interval
                    last_full_text = now if full else last_full_text
                    if not answer.images_read and _has_read(item):
                        answer.images_read = True
                        answer.inputs.were_read(description)
                    self._take_chunk(job, answer, item, full)
                    self._display.writing(job.request.prompt, answer.text, answer.inputs.images)
                    if item.finish_reason is None:
                        return
                job.inbox.put(item)
            except Exception as error:  # noqa: BLE001 raised again by _wait_for_end
                job.inbox.put(error)

        call = chain.submit(engine_request, description, deliver)
        with job.cancellation.calling(call.cancel):
            for image in answer.inputs.images:  # while the engine works: a later depth image would be of another time
                image.fetch_depth(self._settings().depth_tolerance, job.cancellation)
            settle_frames(answer.inputs, job.request.target_frame, self._transforms, job.cancellation)
            self._wait_for_end(job, answer, call)

    def _wait_for_end(self, job: Job, answer: PartialAnswer, call: Call) -> None:
        """Wait for the last chunk; finish the job without it, and kill the engine, if that does not stop in time.

        Raises:
            EngineNotReady: The engine returned the question unanswered.
            Exception: Raised by the engine, or by the delivery of its chunks.
        """
        told_to_stop: float | None = None
        while True:
            if job.error is not None and told_to_stop is None:
                told_to_stop = time.monotonic()
            try:
                item = job.inbox.get(timeout=self._patience(told_to_stop))
            except queue.Empty:
                job.finish(answer.result(job))
                if told_to_stop is not None and time.monotonic() - told_to_stop >= STOP_GRACE:
                    call.kill(f"it did not stop within {STOP_GRACE:g} s of being told to")
                    return
                continue
            if isinstance(item, Exception):
                call.cancel()  # for a defect of this package: the engine may still be answering
                raise item
            if item is Wake.UP:
                continue
            if item.finish_reason == "cancelled" and job.error is None:
                raise EngineNotReady("the engine was given up before the answer was complete; ask again")
            return

    @staticmethod
    def _patience(told_to_stop: float | None) -> float | None:
        """Return the seconds to wait for the next chunk: None while the job runs, the rest of a grace period after."""
        if told_to_stop is None:
            return None
        since = time.monotonic() - told_to_stop
        return max(0.0, (RESULT_GRACE if since < RESULT_GRACE else STOP_GRACE) - since)

    def _take_chunk(self, job: Job, answer: PartialAnswer, chunk: Chunk, full_text: bool) -> None:
        text, reasoning = output_text(chunk.text), output_text(chunk.reasoning)
        if (text, reasoning) != (chunk.text, chunk.reasoning):
            chunk = replace(chunk, text=text, reasoning=reasoning)
        answer.begun = answer.begun or chunk.finish_reason != "cancelled"
        answer.text.append(chunk.text)
        answer.reasoning.append(chunk.reasoning)
        answer.completion_tokens = chunk.completion_tokens
        if chunk.finish_reason is not None:
            answer.finish_reason = chunk.finish_reason
            answer.probabilities, answer.tokens = chunk.probabilities, chunk.tokens
        if chunk.usage is not None:
            answer.usage = chunk.usage
        if answer.withheld:
            chunk = replace(chunk, text="", reasoning="")
        self._show(job, answer, chunk, full_text and not answer.withheld)

    @staticmethod
    def _show(job: Job, answer: PartialAnswer, chunk: Chunk, full_text: bool) -> None:
        """Publish ``chunk`` as feedback."""
        if job.error is None and (chunk.finish_reason is None or chunk.text or chunk.reasoning):
            job.reply.progress(
                Progress(
                    chunk.stage,
                    delta=chunk.text,
                    text=str(answer.text) if full_text else None,
                    reasoning_delta=chunk.reasoning,
                    completion_tokens=chunk.completion_tokens,
                    budget=answer.inputs.budget,
                )
            )


def _has_read(chunk: Chunk) -> bool:
    """Return whether the engine has read the whole prompt by then: an answer that was cancelled before may have not."""
    return chunk.finish_reason != "cancelled" and (chunk.stage is Stage.DECODE or chunk.finish_reason is not None)
