"""The service SetEngine: another engine loads beside the one that answers, and takes over when it is ready."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

from qwen3vl_ros.engines.chain import EngineChain, Policy
from qwen3vl_ros.engines.probing import Probe
from qwen3vl_ros.engines.process import EngineSpec, Health, State
from qwen3vl_ros.vlm.job import Code, Job

LOAD_TIMEOUT = 600.0
"""Seconds after which an engine that still loads counts as failed."""


class PendingEngine:
    """An engine, or a chain of them, that loads while another answers. ``chain`` is set once it starts."""

    def __init__(self, specs: Sequence[EngineSpec], report: Callable[[str], None], policy: Policy) -> None:
        self.chain: EngineChain | None = None
        self._specs = specs
        self._report = report
        self._policy = policy
        self._probe = Probe(specs)
        self._states: queue.SimpleQueue[Health] = queue.SimpleQueue()
        self._listener: Callable[[Health], None] = self._states.put
        self._closed = threading.Event()

    def __str__(self) -> str:
        names = " or ".join(spec.name for spec in self._specs)
        return f"engine {names} loads, and takes over when it is ready"

    def load(self) -> str:
        """Load; returns why that failed, "" when an engine is ready. Blocks; what failed is closed."""
        if len(self._specs) == 1:  # a longer chain probes by itself
            finding = next(iter(self._probe), None)
            self._probe.close()
            if finding is None or not finding.usable:
                return "the node was cleaned up meanwhile" if finding is None else finding.sentence
        self.chain = EngineChain(self._specs, lambda health: self._listener(health), self._report, self._policy)
        problem = self._wait()
        if problem:
            self.close()
        return problem

    def _wait(self) -> str:
        assert self.chain is not None
        give_up = time.monotonic() + LOAD_TIMEOUT
        health = self.chain.health
        while health.state is State.LOADING and not self._closed.is_set():
            try:
                health = self._states.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                return f"it did not load within {LOAD_TIMEOUT:g} s"
        if self._closed.is_set():
            return "the node was cleaned up meanwhile"
        return "" if health.state is State.READY else health.message

    def listen(self, listener: Callable[[Health], None]) -> None:
        """Report changes to ``listener`` from now on."""
        self._listener = listener

    def close(self) -> None:
        """Stop loading and end its processes. May be called from any thread."""
        self._closed.set()
        self._probe.close()
        if self.chain is not None:
            self._states.put(self.chain.health)
            self.chain.close()


def drain(chain: EngineChain, jobs: Sequence[Job], grace: float, reason: str) -> None:
    """Let an engine finish ``jobs``, then close it.

    Args:
        chain: The engine.
        jobs: Those that it is answering.
        grace: Seconds after which those that are left end with PREEMPTED.
        reason: The sentence that they end with.
    """
    give_up = time.monotonic() + grace
    for job in jobs:
        if not job.done.wait(max(0.0, min(give_up - time.monotonic(), threading.TIMEOUT_MAX))):
            job.end(Code.PREEMPTED, reason)
    for job in jobs:
        job.done.wait()
    chain.close()
