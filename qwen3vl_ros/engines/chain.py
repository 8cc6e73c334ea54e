"""Sends requests to the first usable one of several engines in order of preference.

One thread re-evaluates the engines whenever something changes and does what :class:`EngineChain` promises. An engine
that cannot be used now is *out*: after a while it is probed again, and started if the probe finds it usable.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from qwen3vl_ros.engines.base import BadRequest, Chunk, Description, EngineError, EngineNotReady, Request
from qwen3vl_ros.engines.probing import Probe
from qwen3vl_ros.engines.process import Call, Deliver, EngineProcess, EngineSpec, Health, State

_NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Policy:
    """When to fail over to the next engine. Times in seconds.

    ``failures``: failed answers in a row. ``after``: how long an engine may load or restart. ``retry``: time until an
    engine that is out is probed; doubles each time in a row that it is out, up to ``longest_retry``.
    """

    failures: int = 3
    after: float = 10.0
    retry: float = 5.0
    longest_retry: float = 300.0


class EngineCandidate:
    """One engine of the chain.

    ``failures``, ``calls`` and ``retry`` change under the chain's lock, the rest on its thread. ``out``: why it is not
    used, "" while it is used or was not tried. ``retry_at``: time.monotonic() of the next probe. ``idle_since``: since
    when its process is not ready.
    """

    def __init__(self, spec: EngineSpec, retry: float) -> None:
        self.spec = spec
        self.process: EngineProcess | None = None
        self.idle_since = 0.0
        self.was_ready = False
        self.failures = 0
        self.calls = 0
        self.out = ""
        self.retry = retry
        self.retry_at = 0.0

    @property
    def ready(self) -> bool:
        """Whether its process can answer."""
        return self.process is not None and self.process.health.state is State.READY


class EngineChain:
    """Sends requests to the first usable engine of ``specs``, fails over to the next, and returns when it recovers.

    A chain of one starts its engine and reports that engine's states unchanged. A longer one probes its engines in
    order and starts the first usable one. When that fails as often, or loads as long, as ``policy`` says, it starts the
    next one. New requests go to the most preferred engine that is ready; an engine that is no longer needed ends after
    its last answer.

    ``on_change`` is called with the :class:`Health` of the engine in use whenever a field of it other than ``memory``
    changes; like every ``deliver`` callback it may run on any thread and must return quickly. ``report`` takes
    sentences for the log.
    """

    def __init__(
        self,
        specs: Sequence[EngineSpec],
        on_change: Callable[[Health], None],
        report: Callable[[str], None] = lambda _: None,
        policy: Policy | None = None,
    ) -> None:
        self._policy = policy or Policy()
        self._candidates = [EngineCandidate(spec, self._policy.retry) for spec in specs]
        self._on_change = on_change
        self._report = report
        self._lock = threading.Lock()
        self._asked: EngineCandidate | None = None
        self._without = Health(State.LOADING, "looking for an engine that works")
        self._passed_over: dict[str, str] = {}
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._probe = Probe(())
        self._thread = threading.Thread(target=self._watch, name="engine-chain", daemon=True)
        if len(self._candidates) == 1:
            self._asked = self._candidates[0]
            self._start(self._asked)
        else:
            self._thread.start()

    @property
    def health(self) -> Health:
        """The health of the engine in use."""
        asked = self._asked
        process = None if asked is None else asked.process
        health = self._without if process is None else process.health
        return replace(health, passed_over=self._why_not_preferred(asked))

    def submit(self, request: Request, description: Description, deliver: Deliver) -> Call:
        """Submit ``request`` as :meth:`EngineProcess.submit` does.

        Args:
            request: Made for the engine with this ``description``.
            description: Of the engine in use when the request was made.
            deliver: Called with each chunk and with an error.

        Raises:
            EngineNotReady: That engine is not ready, or another one is in use by now.
        """
        candidate = self._asked
        process = None if candidate is None else candidate.process
        if candidate is None or process is None or process.health.description != description:
            raise EngineNotReady(f"engine {description.engine!r} was left for another one")

        def count(item: Chunk | EngineError) -> None:
            if isinstance(item, EngineError) or item.finish_reason is not None:
                with self._lock:
                    candidate.calls -= 1
                    if isinstance(item, EngineError):
                        # Failures of an engine that is being ended do not count.
                        candidate.failures += candidate.process is process and not isinstance(item, BadRequest)
                        if (
                            candidate.failures >= self._policy.failures
                            and len(self._candidates) > 1
                            and candidate is self._asked
                        ):
                            self._asked = None  # at once: a retry of this request must reach the next engine
                    elif item.finish_reason != "cancelled":
                        candidate.failures, candidate.retry = 0, self._policy.retry
                self._wake()
            deliver(item)

        with self._lock:
            candidate.calls += 1
        try:
            return process.submit(request, count)
        except BaseException:
            with self._lock:
                candidate.calls -= 1
            raise

    def close(self) -> None:
        """End all processes; ``on_change`` is not called any more. Idempotent."""
        self._closing.set()
        self._wake()
        self._probe.close()
        with self._lock:
            processes = [candidate.process for candidate in self._candidates if candidate.process is not None]
        # Concurrently: each may take a while.
        closers = [threading.Thread(target=process.close) for process in processes]
        for closer in closers:
            closer.start()
        for closer in closers:
            closer.join()
        if self._thread.is_alive():
            self._thread.join()

    def _wake(self) -> None:
        if len(self._candidates) > 1:
            self._wakes.put(None)

    # --- on the chain's thread, but for the only start of a chain of one ---------------------------------------------

    def _watch(self) -> None:
        while not self._closing.is_set():
            try:
                wait = self._update()
            except Exception as error:  # noqa: BLE001 such as no memory for a process: keep watching
                self._report(f"looking for an engine failed, which is tried again ({type(error).__name__}: {error})")
                wait = self._policy.retry
            with suppress(queue.Empty):
                self._wakes.get(timeout=None if wait == _NEVER else max(0.0, wait))
                while True:  # one update for all wake-ups in the queue
                    self._wakes.get_nowait()

    def _update(self) -> float:
        """Do what is due; return the seconds until the next update if nothing changes before."""
        now = time.monotonic()
        for candidate in self._candidates:
            if candidate.was_ready and not candidate.ready:
                candidate.idle_since = now
            candidate.was_ready = candidate.ready
            if candidate.process is not None and candidate.process.health.state in (State.OUT, State.FAILED):
                self._put_out(candidate, candidate.process.health.message)
            elif candidate.failures >= self._policy.failures:
                self._put_out(candidate, f"{candidate.failures} answers in a row failed")
        patience = self._find_one_that_works()
        asked = next((candidate for candidate in self._candidates if candidate.ready), None)
        if asked is not None:
            asked.out = ""
            self._ask(asked)
            for candidate in self._candidates[self._candidates.index(asked) + 1 :]:
                if candidate.process is not None and not candidate.calls:
                    self._end(candidate)
        elif not any(candidate.process for candidate in self._candidates):
            self._say_that_none_works()
        passed_over = self._why_not_preferred(self._asked)
        if passed_over != self._passed_over and self._asked is not None:
            self._passed_over = passed_over
            self._tell()
        preferred = self._preferred(self._asked)
        retries = [candidate.retry_at for candidate in preferred if candidate.process is None and candidate.out]
        return min([patience, *(at - time.monotonic() for at in retries)])

    def _preferred(self, asked: EngineCandidate | None) -> list[EngineCandidate]:
        """Return the candidates preferred to ``asked``, the one in use; all of them while that is not ready."""
        return self._candidates[: None if asked is None or not asked.ready else self._candidates.index(asked)]

    def _find_one_that_works(self) -> float:
        """Start an engine unless one is ready or loading; return the seconds until a loading one times out."""
        now = time.monotonic()
        due, loading = [], None
        for candidate in self._preferred(self._asked):
            if candidate.process is None:
                due += [candidate] if now >= candidate.retry_at else []
            elif candidate.ready:
                break
            elif now < candidate.idle_since + self._policy.after:
                loading = candidate
                break
            else:
                candidate.out = candidate.process.health.message or "it takes long to load"
        loading = self._start_one_of(due) or loading
        if loading is None:
            return _NEVER
        if self._asked is None:
            self._ask(loading)
        return loading.idle_since + self._policy.after - time.monotonic()

    def _start_one_of(self, candidates: list[EngineCandidate]) -> EngineCandidate | None:
        """Start the first of ``candidates`` that a probe finds usable; put those before it out."""
        if not candidates:
            return None
        self._probe = Probe([candidate.spec for candidate in candidates])
        if self._closing.is_set():  # close() may have come before there was a probe to end
            return None
        try:
            for candidate, finding in zip(candidates, self._probe, strict=False):
                if self._closing.is_set():
                    return None
                if finding.usable:
                    self._report(f"engine {candidate.spec.name!r} can be used: {finding.sentence}")
                    self._start(candidate)
                    return candidate
                if candidate.out != finding.sentence:
                    self._report(f"engine {candidate.spec.name!r} cannot be used: {finding.sentence}")
                self._put_out(candidate, finding.sentence, for_ever=finding.usable is False)
        finally:
            self._probe.close()
        return None

    def _start(self, candidate: EngineCandidate) -> None:
        def changed(_: Health) -> None:
            self._wake()
            if candidate is self._asked:
                self._tell()

        candidate.idle_since, candidate.failures, candidate.out = time.monotonic(), 0, ""
        process = EngineProcess(candidate.spec, changed)
        with self._lock:
            candidate.process = process
        if self._closing.is_set():  # close() may have come before there was a process to end
            process.close()

    def _put_out(self, candidate: EngineCandidate, reason: str, *, for_ever: bool = False) -> None:
        """End an engine and schedule its next probe, or none with ``for_ever``."""
        if candidate.process is not None:
            self._report(f"engine {candidate.spec.name!r} is out: {reason}")
        with self._lock:
            candidate.out, candidate.failures = reason, 0
            candidate.retry_at = _NEVER if for_ever else time.monotonic() + candidate.retry
            candidate.retry = min(2 * candidate.retry, self._policy.longest_retry)
        if candidate is self._asked:
            self._asked = None
        self._end(candidate)

    def _end(self, candidate: EngineCandidate) -> None:
        with self._lock:
            process, candidate.process = candidate.process, None
        if process is not None:
            process.close()

    def _ask(self, candidate: EngineCandidate) -> None:
        if candidate is not self._asked:
            if self._asked is not None:
                self._report(f"engine {candidate.spec.name!r} answers now, no longer {self._asked.spec.name!r}")
            self._asked = candidate
            self._tell()

    def _why_not_preferred(self, asked: EngineCandidate | None) -> dict[str, str]:
        return {
            candidate.spec.name: f"{candidate.spec.name} is not used: {candidate.out}"
            for candidate in self._preferred(asked)
            if candidate.out
        }

    def _say_that_none_works(self) -> None:
        # The last one first: simulations, and machines without an accelerator or server, use it.
        reasons = []
        for candidate in reversed(self._candidates):
            again = "" if candidate.retry_at == _NEVER else f" (asked again within {candidate.retry:g} s)"
            reasons.append(f"{candidate.spec.name}: {candidate.out}{again}")
        hopeless = [candidate.retry_at == _NEVER for candidate in self._candidates]
        # Questions wait for engines that come by themselves, but not where one of them needs a person: a typo, say.
        state = State.FAILED if all(hopeless) else State.OUT if any(hopeless) else State.RESTARTING
        without = Health(state, f"no engine can be used. {'; '.join(reasons)}")
        if without != self._without:
            self._without = without
            self._tell()

    def _tell(self) -> None:
        if not self._closing.is_set():
            self._on_change(self.health)
