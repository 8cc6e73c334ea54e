"""The gateway's metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from qwen3vl_ros.client.answer import Answer
from qwen3vl_ros.gateway.backend import Backend

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
"""Histogram buckets, from the shipped model on a desktop (tenths of a second) to a large one on a board (minutes)."""


class Metrics:
    """The metrics of one gateway, in their own registry."""

    def __init__(self, backend: Backend) -> None:
        registry = self._registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"qwen3vl_{name}", what, labels, registry=registry)

        def seconds(name: str, what: str, *labels: str) -> Histogram:
            return Histogram(f"qwen3vl_{name}_seconds", what, labels, buckets=_SECONDS, registry=registry)

        def gauge(name: str, what: str, value: Callable[[], float]) -> None:
            Gauge(f"qwen3vl_{name}", what, registry=registry).set_function(value)

        self._gauge = gauge
        self._requests = counter("requests", "HTTP requests", "path", "status")
        self._errors = counter("errors", "Errors by OpenAI code", "code")
        self._tokens = counter("tokens", "Tokens of answered questions", "kind")
        self._duration = seconds("request_duration", "From the request to the end of its response", "path")
        self._first_token = seconds("first_token", "From the question to the engine until its first token")
        self._answer = seconds("answer", "From the acceptance of a question by the node to its answer")
        self._queued = seconds("queue_wait", "From the acceptance of a question by the node until it was its turn")
        gauge("node_up", "Whether the node takes questions", lambda: float(backend.status().answers))
        gauge("queue_length", "Questions waiting in the node", lambda: backend.status().queue_length)
        gauge("queue_capacity", "Size of the node's queue", lambda: backend.status().queue_capacity)

    def show_running(self, running: Callable[[], int]) -> None:
        """Export ``running``, which returns the number of running questions."""
        self._gauge("questions_running", "Questions that the gateway is having answered", running)

    def responded(self, path: str, status: int, duration: float) -> None:
        """Count a request. ``path``: its route's, so that clients cannot create labels without limit."""
        self._requests.labels(path, str(status)).inc()
        self._duration.labels(path).observe(duration)

    def answered(self, answer: Answer) -> None:
        """Count an answered question."""
        usage = answer.usage
        for kind, tokens in (
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_tokens),
            ("completion", usage.completion_tokens),
        ):
            self._tokens.labels(kind).inc(tokens)
        for histogram, value in (
            (self._first_token, usage.first_token_time),
            (self._answer, usage.total_time),
            (self._queued, usage.queue_time),
        ):
            if value is not None:
                histogram.observe(value)

    def failed(self, code: str) -> None:
        """Count a request that failed with this error."""
        self._errors.labels(code).inc()

    def text(self) -> bytes:
        """Return all metrics in the text format 0.0.4."""
        return generate_latest(self._registry)
