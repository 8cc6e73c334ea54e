"""The process that owns OpenVINO GenAI's pipeline: takes prompts from a socket, sends their tokens back.

:class:`~qwen3vl_ros.engines.openvino.pipeline_process.PipelineProcess` starts it. It is a process of its own because
``add_request``, which encodes the images, and ``step`` of ContinuousBatchingPipeline keep Python's lock
(py_continuous_batching_pipeline.cpp): in the worker process no heartbeat and no cancel would get through for seconds.

To it: ``("generate", id, sizes)`` + the descriptor of a packed :class:`Job`, ``("cancel", id)``; the end of the socket
ends it. From it: ``("ready",)`` or ``("failed", reason)``; then ``("encoded", id, seconds)``, ``("tokens", id, list)``
and last for an answer ``("end", id, ("stop" or "length", prompt tokens))`` or ``("error", id, EngineError)``; nothing
comes for one that was cancelled.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino_genai import (
    ContinuousBatchingPipeline,
    GenerationConfig,
    GenerationFinishReason,
    GenerationStatus,
    SchedulerConfig,
    StreamerBase,
    StreamingStatus,
    VideoMetadata,
    VLMPipeline,
)

from qwen3vl_ros.engines.base import EngineError, Image, Options
from qwen3vl_ros.engines.clips import FramePair
from qwen3vl_ros.engines.openvino.encoder_cache import with_cache
from qwen3vl_ros.engines.openvino.prompt import reason
from qwen3vl_ros.engines.openvino.sampling import configure, constraint, schema_error
from qwen3vl_ros.engines.worker import unpack

_log = logging.getLogger(__name__)

_NO_TIME = 1e9
"""Frames per second with which the library writes 0.0 seconds."""

_SCHEMAS = 64
"""JSON Schemas that are remembered as ones which the library can follow."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a pipeline is asked: a rendered prompt, its images and pairs of frames, and how to sample.

    ``reasoning``: the prompt has opened ``<think>``; ``schema`` holds for what follows its end.
    """

    text: str
    images: tuple[Image | FramePair, ...]
    options: Options
    max_tokens: int
    schema: Mapping[str, Any] | None
    reasoning: bool

    def configure(self, config: GenerationConfig) -> GenerationConfig:
        """Set this job's options in ``config``, the model's own; raises :class:`BadRequest`."""
        configure(config, self.options, self.max_tokens)
        if self.schema is not None:
            config.structured_output_config = constraint(self.schema, self.reasoning)
        return config

    def visuals(self) -> dict[str, Any]:
        """Return images and pairs of frames as arguments of the library's calls.

        A pair is a video of its own: the times of a longer one are those of a fixed rate. ``fps`` is so that the mean
        time of its two frames, 0 and 1 / fps, is the pair's as it is written, with one digit.
        """
        images = [image for image in self.images if not isinstance(image, FramePair)]
        pairs = [image for image in self.images if isinstance(image, FramePair)]
        videos: dict[str, Any] = {"videos": [], "videos_metadata": []}
        for pair in pairs:
            metadata, time = VideoMetadata(), round(pair.time, 1)
            metadata.fps, metadata.frames_indices = 1 / (2 * time) if time else _NO_TIME, [0, 1]
            videos["videos_metadata"].append(metadata)
            videos["videos"].append(openvino.Tensor(np.stack((pair.first, pair.second))))
        tensors = [openvino.Tensor(np.ascontiguousarray(image)[np.newaxis]) for image in images]
        return {"images": tensors, **(videos if pairs else {})}


def batches(device: str) -> bool:
    """Return whether ``device`` can run continuous batching, for which it needs PagedAttention: a CPU or one GPU."""
    return device.partition(".")[0] in ("CPU", "GPU")


class _Socket:
    """The jobs that wait, and those that were cancelled."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.waiting: deque[tuple[int, Job]] = deque()
        self.send = connection.send

    def read(self, *, wait: bool = False) -> list[int]:
        """Take what has come in, with ``wait`` at least one message; return the ids that are to be cancelled."""
        cancelled = []
        while self._connection.poll(None if wait else 0):
            wait = False
            kind, identifier, *rest = self._connection.recv()
            if kind == "generate":
                descriptor = reduction.recv_handle(self._connection)
                self.waiting.append((identifier, unpack(descriptor, rest[0])))
            else:
                cancelled.append(identifier)
                self.waiting = deque(job for job in self.waiting if job[0] != identifier)
        return cancelled

    def send_error(self, identifier: int, error: Exception) -> None:
        """Report that an answer failed."""
        if not isinstance(error, EngineError):
            error = schema_error(error) or EngineError(f"OpenVINO failed: {reason(error)}")
        self.send(("error", identifier, error))


class _Batches:
    """Answers several jobs at once. All of it runs on one thread, so an image's encoding holds the others up."""

    def __init__(self, socket: _Socket, pipeline: ContinuousBatchingPipeline) -> None:
        self._socket = socket
        self._pipeline = pipeline
        self._handles: dict[int, Any] = {}
        self._schemas: deque[Mapping[str, Any]] = deque(maxlen=_SCHEMAS)

    def serve(self) -> None:
        """Answer until the socket ends, which raises EOFError."""
        while True:
            idle = not self._pipeline.has_non_finished_requests()
            for identifier in self._socket.read(wait=idle and not self._socket.waiting):
                handle = self._handles.pop(identifier, None)
                if handle is not None:
                    handle.cancel()
            if self._socket.waiting and (idle or self._can_follow(self._socket.waiting[0][1].schema)):
                self._add(*self._socket.waiting.popleft())  # one, then the others' turn
            if self._pipeline.has_non_finished_requests():
                self._step()

    def _can_follow(self, schema: Mapping[str, Any] | None) -> bool:
        return schema is None or schema in self._schemas

    def _add(self, identifier: int, job: Job) -> None:
        try:
            if not self._can_follow(job.schema):
                self._check(job)
            config = job.configure(self._pipeline.get_config())
            begin = time.monotonic()
            handle = self._pipeline.add_request(identifier, job.text, generation_config=config, **job.visuals())
        except (EngineError, RuntimeError) as error:
            self._socket.send_error(identifier, error)
            return
        self._handles[identifier] = handle
        if job.images:
            self._socket.send(("encoded", identifier, time.monotonic() - begin))

    def _check(self, job: Job) -> None:
        """Have the grammar of a schema compiled: a failure in ``step`` would end every answer, ``generate`` recovers.

        ``generate`` needs the pipeline to itself.
        """
        config = job.configure(self._pipeline.get_config())
        config.max_new_tokens = 1
        self._pipeline.generate("a", config)
        assert job.schema is not None
        self._schemas.append(job.schema)

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except RuntimeError as error:
            # The scheduler's books are wrong now: this process ends, and the next one starts.
            for identifier in self._handles:
                self._socket.send_error(identifier, error)
            raise
        for identifier, handle in list(self._handles.items()):
            self._read(identifier, handle)

    def _read(self, identifier: int, handle: Any) -> None:
        finish = GenerationFinishReason.NONE
        while handle.can_read():
            for output in handle.read().values():
                finish = output.finish_reason
                if output.generated_ids:
                    self._socket.send(("tokens", identifier, output.generated_ids))
        if handle.get_status() == GenerationStatus.RUNNING:
            return
        del self._handles[identifier]
        if handle.get_status() == GenerationStatus.IGNORED:
            self._socket.send_error(
                identifier,
                EngineError(
                    "There is no memory left for this answer's context: ask less at once, or lower concurrency."
                ),
            )
        else:
            self._socket.send(("end", identifier, _end(finish, handle.get_perf_metrics())))


class _OneByOne(StreamerBase):  # type: ignore[misc]
    """Answers one job at a time, on devices without continuous batching; a cancel is seen at the next token."""

    def __init__(self, socket: _Socket, pipeline: VLMPipeline) -> None:
        super().__init__()
        self._socket = socket
        self._pipeline = pipeline
        self._answering = 0
        self._cancelled = False

    def serve(self) -> None:
        """Answer until the socket ends, which raises EOFError."""
        while True:
            while not self._socket.waiting:
                self._socket.read(wait=True)
            self._answering, job = self._socket.waiting.popleft()
            self._cancelled = False
            try:
                result = self._generate(job)
            except (EngineError, RuntimeError) as error:
                self._socket.send_error(self._answering, error)
                continue
            if not self._cancelled:
                if job.images:
                    # The vision network runs in this step, not in the one named vision encoding.
                    durations = result.perf_metrics.vlm_raw_metrics.prepare_embeddings_durations
                    self._socket.send(("encoded", self._answering, sum(durations) / 1e6))  # from microseconds
                self._socket.send(("end", self._answering, _end(result.finish_reasons[0], result.perf_metrics)))

    def _generate(self, job: Job) -> Any:
        try:
            config = job.configure(self._pipeline.get_generation_config())
            return self._pipeline.generate(job.text, generation_config=config, streamer=self, **job.visuals())
        finally:
            # Even outside a chat the pipeline keeps the tokens of every prompt until this call, and after a failed
            # call the next one fails on them.
            self._pipeline.finish_chat()

    def write(self, token: Any) -> StreamingStatus:
        """Take one or several tokens from the pipeline, which swallows exceptions: nothing here may raise."""
        try:
            self._cancelled |= self._answering in self._socket.read()
        except (EOFError, OSError):
            os._exit(0)
        if self._cancelled:
            return StreamingStatus.CANCEL
        self._socket.send(("tokens", self._answering, token if isinstance(token, list) else [token]))
        return StreamingStatus.RUNNING

    def end(self) -> None:
        """Ignore the pipeline's end of tokens: the answer ends when the call of the pipeline returns."""


def _end(found: GenerationFinishReason, metrics: Any) -> tuple[str, int]:
    return "length" if found == GenerationFinishReason.LENGTH else "stop", metrics.get_num_input_tokens()


def main(descriptor: int, folder: str, device: str, scheduler: dict[str, int], properties: dict[str, Any]) -> None:
    """Load the model in ``folder`` and serve the socket ``descriptor`` until it closes.

    Args:
        descriptor: The socket.
        folder: The directory of the exported model.
        device: OpenVINO's device.
        scheduler: Fields of SchedulerConfig; unused on a device without continuous batching.
        properties: OpenVINO's properties of every network.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node
    socket = _Socket(Connection(descriptor))
    try:
        server = _load(socket, Path(folder), device, scheduler, properties)
    except RuntimeError as error:
        socket.send(("failed", reason(error)))
        return
    socket.send(("ready",))
    status = 0
    try:
        server.serve()
    except (EOFError, OSError):
        pass  # the engine is gone
    except Exception:  # noqa: BLE001 the engine starts the next process
        _log.exception("OpenVINO's process ends")
        status = 1
    os._exit(status)  # at once: native threads and a model to free would hold it up


def _load(
    socket: _Socket, folder: Path, device: str, scheduler: dict[str, int], properties: dict[str, Any]
) -> _Batches | _OneByOne:
    if not batches(device):
        return _OneByOne(socket, VLMPipeline(folder, device, **properties))
    config = SchedulerConfig()
    for name, value in scheduler.items():
        setattr(config, name, value)
    config.dynamic_split_fuse = True  # a long prompt is read in parts, between the tokens of others
    config.enable_prefix_caching = True
    if device != "CPU":
        return _Batches(socket, ContinuousBatchingPipeline(folder, config, device, properties, {}, properties))
    with with_cache(folder) as linked:
        return _Batches(socket, ContinuousBatchingPipeline(linked, config, device, properties, {}, properties))
