"""The conversations that the node keeps, by the names that goals give them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from qwen3vl_ros.engines.base import Description
from qwen3vl_ros.vlm import storage_parameters
from qwen3vl_ros.vlm.deadlines import Deadline, Deadlines
from qwen3vl_ros.vlm.kept_turns import EarlierTurns
from qwen3vl_ros.vlm.session_question import SessionQuestion

_REMEMBERED = 256
"""Names of forgotten conversations that are kept, so that the next question can be told."""


@dataclass(slots=True, eq=False)
class _Session:
    """A conversation. ``used``: when its last question began or ended, time.monotonic() seconds."""

    used: float
    turns: EarlierTurns = field(default_factory=EarlierTurns)


class Sessions:
    """Keeps conversations within the limits of the parameters ``session.*``. Usable from any thread.

    Questions of one session are asked one after the other, in the order of :meth:`enter`, so that each gets the answer
    of the one before.

    Args:
        limits: The parameters.
        deadlines: Calls :meth:`expire` when a conversation is old enough.
        on_change: Called when conversations were forgotten because of their age.
    """

    def __init__(
        self, limits: storage_parameters.Session, deadlines: Deadlines, on_change: Callable[[], None] = lambda: None
    ) -> None:
        self._limits = limits
        self._deadlines = deadlines
        self._on_change = on_change
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, _Session] = OrderedDict()  # the longest unused one is the first
        self._lines: dict[str, deque[object]] = {}
        self._forgotten: OrderedDict[str, str] = OrderedDict()
        self._due: Deadline | None = None

    def __len__(self) -> int:
        with self._lock:
            return sum(bool(session.turns.turns) for session in self._sessions.values())

    # --- the order of questions --------------------------------------------------------------------------------------

    def enter(self, name: str, question: object) -> None:
        """Put ``question`` at the end of the session's line; :meth:`leave` has to follow."""
        with self._lock:
            self._lines.setdefault(name, deque()).append(question)

    def is_next(self, name: str, question: object) -> bool:
        """Return whether ``question`` is the first in the session's line."""
        with self._lock:
            line = self._lines.get(name)
            return line is None or line[0] is question

    def leave(self, name: str, question: object) -> None:
        """Take ``question`` out of the line. No effect if it is not in it."""
        with self._lock:
            line = self._lines.get(name, deque())
            if question in line:
                line.remove(question)
            if line or name not in self._lines:
                return
            del self._lines[name]
            if name in self._sessions and not self._sessions[name].turns.turns:  # its first question failed
                del self._sessions[name]

    # --- the conversations -------------------------------------------------------------------------------------------

    def begin(self, name: str, engine: Description) -> SessionQuestion:
        """Return what a question, the next of its session, gets of the conversation, for the engine that answers.

        Turns that exceed the limits are left out of its prompt; they are forgotten with the next :meth:`keep`.
        """
        self.expire()
        limits = self._limits
        tokens = limits.max_tokens or (None if engine.context_length is None else engine.context_length // 2)
        with self._lock:
            session = self._sessions.setdefault(name, _Session(time.monotonic()))
            session.used = time.monotonic()
            self._sessions.move_to_end(name)
            why = self._forgotten.get(name, "")
            earlier = session.turns
        clips = "video" in engine.supports
        kept = earlier.within(limits.max_turns, tokens, engine.max_images, clips=clips)
        notes = (f"this question began the conversation {name!r} anew: {why}",) if why else ()
        return SessionQuestion(
            kept.fitted_for(engine.image_input), engine, notes, lambda turns: self._keep(name, session, turns)
        )

    def _keep(self, name: str, session: _Session, turns: EarlierTurns) -> None:
        """Make ``turns`` the conversation, unless it was forgotten meanwhile."""
        limits = self._limits
        with self._lock:
            if self._sessions.get(name) is not session:
                return
            session.turns = turns.within(limits.max_turns, None, None)
            self._forgotten.pop(name, None)
            session.used = time.monotonic()
            self._sessions.move_to_end(name)
            while sum(bool(other.turns.turns) for other in self._sessions.values()) > limits.max_sessions:
                self._forget_oldest(f"session.max_sessions keeps {limits.max_sessions} conversations")
            while sum(other.turns.size for other in self._sessions.values()) > limits.megabytes * 1e6:
                reason = f"session.megabytes keeps {limits.megabytes:g} MB of images"
                if next(iter(self._sessions)) != name:
                    self._forget_oldest(reason)
                else:
                    session.turns = session.turns.without_oldest(reason)
            self._schedule()

    def _forget_oldest(self, why: str) -> None:
        self._forget(next(iter(self._sessions)), f"it had been forgotten, because {why}")

    def _forget(self, name: str, why: str) -> None:
        if self._sessions.pop(name).turns.turns:
            self._forgotten[name] = why
            while len(self._forgotten) > _REMEMBERED:
                self._forgotten.popitem(last=False)

    def reset(self, name: str) -> tuple[bool, str]:
        """Forget a conversation, or all of them; a question that is being answered ends as usual, and is not kept.

        Args:
            name: Of the session; "" = all.

        Returns:
            Whether there was one, or all were asked for; and a sentence about it.
        """
        with self._lock:
            if not name:
                count = sum(bool(session.turns.turns) for session in self._sessions.values())
                self._sessions.clear()
                return True, f"{count} conversation{'' if count == 1 else 's'} forgotten"
            session = self._sessions.pop(name, None)
            names = [repr(other) for other, one in self._sessions.items() if one.turns.turns]
        if session is None:
            there_is = f"there is {', '.join(names[-10:])}" if names else "there is none at all"
            return False, f"no conversation {name!r} is kept: {there_is}"
        count = len(session.turns.turns)
        return True, f"the conversation {name!r} is forgotten, {count} question{'' if count == 1 else 's'}"

    def close(self) -> None:
        """Forget everything."""
        with self._lock:
            self._sessions.clear()
            if self._due is not None:
                self._due.forget()
                self._due = None

    # --- age ---------------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Forget the conversations that are older than ``session.max_age``, and call on the next that will be."""
        with self._lock:
            limit = self._limits.max_age
            old = [
                name
                for name, session in self._sessions.items()
                if name not in self._lines and time.monotonic() - session.used >= limit
            ]
            for name in old:
                self._forget(name, f"it had been forgotten {limit:g} s after its last question (session.max_age)")
            if self._due is not None and self._due.when <= time.monotonic():
                self._due = None
            self._schedule()
        if old:
            self._on_change()

    def _schedule(self) -> None:
        if self._due is None and self._sessions:
            oldest = next(iter(self._sessions.values()))
            when = max(oldest.used + self._limits.max_age, time.monotonic() + 0.5)
            self._due = self._deadlines.add(when, self.expire)
