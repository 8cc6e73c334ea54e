"""The sequences of the KV cache, one for each answer that runs, and the prefixes that they keep and share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from qwen3vl_ros.engines.llama.context import LlamaContext, Piece, n_cells, n_positions


class Slot:
    """One sequence of the KV cache.

    ``pieces`` lists its contents in order, and only those that were decoded completely. ``position`` is that of the
    next token. ``busy``: an answer runs in it. ``used``: grows from one use of any slot to the next.
    """

    def __init__(self, seq: int) -> None:
        """Describe sequence ``seq``, which is empty."""
        self.seq = seq
        self.pieces: list[Piece] = []
        self.position = 0
        self.busy = False
        self.used = 0

    def append(self, piece: Piece) -> None:
        """Record that ``piece`` was decoded at :attr:`position`."""
        self.pieces.append(piece)
        self.position += 1 if isinstance(piece, int) else piece.n_pos

    def shared_prefix(self, prompt: Sequence[Piece]) -> int:
        """Return how many leading pieces of ``prompt`` are here, without the last, whose logits must be computed."""
        limit = min(len(prompt) - 1, len(self.pieces))
        return next((i for i in range(limit) if prompt[i] != self.pieces[i]), limit)


class Slots:
    """All slots of a context."""

    def __init__(self, context: LlamaContext) -> None:
        """Describe the empty KV cache of ``context``."""
        self._context = context
        self._slots = [Slot(seq) for seq in range(context.n_sequences)]
        self._uses = itertools.count(1)

    def __iter__(self) -> Iterator[Slot]:
        """Iterate over all slots."""
        return iter(self._slots)

    def take(self, prompt: Sequence[Piece]) -> Slot:
        """Give a free slot, of which there must be one, to ``prompt``; it has what any slot has of the prompt's prefix.

        That is the slot with the prefix, if most of it goes on serving; otherwise the one not used for the longest
        time, so that others keep what they have.
        """
        best = self._richest(prompt)
        shared = n_cells(best.pieces[: best.shared_prefix(prompt)])
        if best.busy or 2 * shared < n_cells(best.pieces):
            best = min((slot for slot in self._slots if not slot.busy), key=lambda slot: slot.used)
        best.busy = True
        self.fill(best, prompt)
        return best

    def fill(self, slot: Slot, prompt: Sequence[Piece]) -> None:
        """Keep in ``slot`` the prefix of ``prompt`` that it has; share that of another slot, busy or not, if longer."""
        source = self._richest(prompt)
        n = source.shared_prefix(prompt)
        if n == slot.shared_prefix(prompt):
            self.cut(slot, n)
            return
        self.cut(slot, 0)
        position = n_positions(source.pieces[:n])
        self._context.share(source.seq, slot.seq, position)
        slot.pieces, slot.position = source.pieces[:n], position

    def free(self, slot: Slot) -> None:
        """Take ``slot`` back; it keeps what was decoded completely."""
        self.cut(slot, len(slot.pieces))
        slot.busy = False
        slot.used = next(self._uses)

    def cut(self, slot: Slot, n: int) -> None:
        """Remove everything after the first ``n`` pieces, including the leftovers of an unfinished call.

        Where llama.cpp cannot remove a part, all of it.
        """
        position = n_positions(slot.pieces[:n])
        if not self._context.trim(slot.seq, position):
            n = position = 0
        del slot.pieces[n:]
        slot.position = position

    def forget_longest_idle(self) -> bool:
        """Empty the free slot that was not used for the longest time; return False if there is none with contents."""
        idle = [slot for slot in self._slots if not slot.busy and slot.pieces]
        if idle:
            self.cut(min(idle, key=lambda slot: slot.used), 0)
        return bool(idle)

    def _richest(self, prompt: Sequence[Piece]) -> Slot:
        return max(self._slots, key=lambda slot: (slot.shared_prefix(prompt), not slot.busy))
