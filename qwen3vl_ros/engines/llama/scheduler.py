"""Runs several answers through one model: the one thread that decodes.

Each step decodes the next token of every running answer in one batch, and with them a part of one prompt. Images are
encoded meanwhile, on the encoder's own thread. Everything an answer needs from its caller it has before it comes here.
"""

from __future__ import annotations

import itertools
import logging
import math
import queue
import threading
import time
from collections.abc import Iterator

from llama_cpp import llama_cpp as lib

from qwen3vl_ros.engines.base import Chunk, EngineError, FinishReason, Stage
from qwen3vl_ros.engines.llama.answer import Answer
from qwen3vl_ros.engines.llama.batch import Batch
from qwen3vl_ros.engines.llama.context import CacheFullError, CancelledError, ImageSpan, LlamaContext
from qwen3vl_ros.engines.llama.encoder import Encoding, ImageEncoder
from qwen3vl_ros.engines.llama.slots import Slot, Slots
from qwen3vl_ros.engines.llama.vision import VisionTower

_AHEAD = 4
"""Chunks that an answer is ahead of its reader at most: one that nobody reads is not computed to its end."""

_PAUSE, _LONGEST = 0.2, 0.5
"""Seconds that reading a part of a prompt takes, about: while other answers wait for their next token, and otherwise.

For so long a new or cancelled answer may wait for the thread; the node kills an engine that ignores a cancel for 2 s.
"""

_LEAST_PART = 16
"""Tokens of a prompt read at once even if they take longer; fewer take hardly less time."""

_log = logging.getLogger(__name__)


class Scheduler:
    """Has answers computed, at most as many at a time as ``context`` has sequences."""

    def __init__(self, context: LlamaContext, vision: VisionTower | None, image_cache_bytes: int) -> None:
        """Start the thread, and the encoder's if there is a vision part; from now on they alone use both."""
        self._context = context
        self.slots = Slots(context)
        self._batch = Batch(context.n_batch)
        self._answers: list[Answer] = []
        self._token_seconds = math.inf
        self._inbox: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._closing = False
        self._encoder = None if vision is None else ImageEncoder(vision, image_cache_bytes, self.wake)
        self._thread = threading.Thread(target=self._run, name="llama-scheduler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the threads. Idempotent; no answer may run."""
        self._closing = True
        self.wake()
        self._thread.join()
        if self._encoder is not None:
            self._encoder.close()

    def wake(self) -> None:
        """Have the thread look again whether an answer was cancelled, can go on, or is new."""
        self._inbox.put(None)

    def stream(self, answer: Answer) -> Iterator[Chunk]:
        """Have ``answer`` computed and yield its chunks; raise what ended it.

        When this is closed early, the slot is free before the thread takes the next answer.
        """
        with answer.cancel.calling(self.wake):
            self._inbox.put(answer)
            try:
                while True:
                    item = answer.chunks.get()
                    if answer.chunks.qsize() == _AHEAD - 1:  # it may have waited for this
                        self.wake()
                    if isinstance(item, Exception):
                        raise item
                    yield item
                    if item.finish_reason is not None:
                        return
            finally:
                answer.end("cancelled")
                self.wake()

    # The thread.

    def _run(self) -> None:
        while self._receive():
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 ends the answers, not the thread that all others need
                _log.debug("a step failed", exc_info=True)
                for answer in list(self._answers):
                    self._end(answer, error)

    def _receive(self) -> bool:
        """Take new answers and end cancelled ones; block while there is nothing to do. Return False to end."""
        arrived = []
        if not any(self._can_go_on(answer) for answer in self._answers):
            arrived.append(self._inbox.get())
        while not self._inbox.empty():
            arrived.append(self._inbox.get())
        for answer in list(self._answers):  # before new ones come, which may need their slots
            if answer.cancelled():
                self._end(answer, "cancelled")
        for new in arrived:
            if new is not None:
                self._answers.append(new)
                try:
                    self._admit(new)
                except Exception as error:  # noqa: BLE001 as in _run
                    self._end(new, error)
        return not self._closing

    @staticmethod
    def _can_go_on(answer: Answer) -> bool:
        return answer.encoded and (answer.unread or answer.chunks.qsize() < _AHEAD)

    def _admit(self, answer: Answer) -> None:
        if answer.cancelled():
            self._end(answer, "cancelled")
            return
        answer.slot = self.slots.take(answer.prompt.pieces)
        if self._encoder is not None:
            missing = {}
            for piece in answer.prompt.pieces[len(answer.slot.pieces) :]:
                if isinstance(piece, ImageSpan) and piece not in answer.embeddings:
                    embedding = self._encoder.cached(piece)
                    if embedding is None:
                        missing[piece] = answer.prompt.images[piece]
                    else:
                        answer.embeddings[piece] = embedding
            if missing:
                answer.enter(Stage.ENCODE)
                answer.encoding = Encoding(missing, answer.cancelled)
                self._encoder.submit(answer.encoding)
                return
        answer.enter(Stage.PREFILL)

    def _step(self) -> None:
        """Decode the next tokens of all running answers, and a part of the first prompt that is not read."""
        for answer in list(self._answers):
            if answer.encoding is not None and answer.encoding.done:
                self._take_encoded(answer, answer.encoding)
        running = [a for a in self._answers if not a.unread and a.chunks.qsize() < _AHEAD]
        reader = next((a for a in self._answers if a.unread and a.encoded), None)
        if reader is not None:
            if not reader.begun:  # only now: what other answers have read meanwhile is shared
                self.slots.fill(_slot(reader), reader.prompt.pieces)
                reader.begin()
            piece = reader.prompt.pieces[len(_slot(reader).pieces)]
            if isinstance(piece, ImageSpan):
                self._read_image(reader, piece)
                reader = None
        if running or reader is not None:
            self._decode_tokens(running, reader)

    def _take_encoded(self, answer: Answer, encoding: Encoding) -> None:
        if encoding.error is not None:
            self._end(answer, "cancelled" if isinstance(encoding.error, CancelledError) else encoding.error)
        else:
            answer.embeddings |= encoding.embeddings
            answer.encode_time += encoding.seconds
            answer.encoding = None
            answer.enter(Stage.PREFILL)

    def _part(self) -> int:
        """Return how many tokens of a prompt to read at once."""
        seconds = _LONGEST if all(answer.unread for answer in self._answers) else _PAUSE
        return max(_LEAST_PART, min(int(seconds / self._token_seconds), self._batch.size))

    def _read_image(self, reader: Answer, span: ImageSpan) -> None:
        slot, embedding = _slot(reader), reader.embeddings[span]
        rows = embedding[reader.rows : reader.rows + self._part()]
        batch = self._batch.rows(slot.seq, slot.position, rows, reader.rows, span.columns)
        # The rows of an image have one position, so that they can only be removed together: nobody else interrupts it.
        if self._decode(batch, [reader], [reader], len(rows)):
            reader.rows += len(rows)
            if reader.rows == span.n_tokens:
                slot.append(span)
                reader.rows = 0

    def _decode_tokens(self, running: list[Answer], reader: Answer | None) -> None:
        batch = self._batch
        batch.clear()
        decoded: list[tuple[Answer, list[int], int | None]] = []  # with the index of the output, if there is one
        for answer in running:
            assert answer.next_token is not None
            slot, tokens = _slot(answer), [answer.next_token]
            decoded.append((answer, tokens, batch.add(slot.seq, slot.position, tokens, output=True)))
        n_prompt = 0
        if reader is not None:
            slot, pieces = _slot(reader), reader.prompt.pieces
            begin = len(slot.pieces)
            part = itertools.islice(pieces, begin, begin + min(self._part(), batch.size - batch.n))
            tokens = [p for p in itertools.takewhile(lambda p: isinstance(p, int), part) if isinstance(p, int)]
            n_prompt = len(tokens)
            last = begin + n_prompt == len(pieces)
            index = batch.add(slot.seq, slot.position, tokens, output=last)
            decoded.append((reader, tokens, index if last else None))
        if not self._decode(batch.tokens(), [answer for answer, _, _ in decoded], self._answers, n_prompt):
            return
        for answer, tokens, _ in decoded:
            for token in tokens:
                _slot(answer).append(token)
        for answer, _, output in decoded:
            if output is not None:
                self._sample(answer, output)

    def _decode(self, batch: lib.llama_batch, answers: list[Answer], interrupting: list[Answer], n_prompt: int) -> bool:
        """Decode ``batch``, which has parts of ``answers`` and in it ``n_prompt`` tokens of a prompt.

        Return False if a cancel of one that is ``interrupting`` ended it: then nothing of it is left.
        """

        def cancelled() -> bool:
            return any(answer.cancelled() for answer in interrupting)

        begin = time.monotonic()
        while True:
            try:
                self._context.decode(batch, cancelled, prompt=n_prompt > 0)
            except CacheFullError:
                if not self.slots.forget_longest_idle():
                    raise EngineError("The KV cache is full: raise n_ctx, or lower slots.") from None
            except CancelledError:
                for answer in answers:
                    self.slots.cut(_slot(answer), len(_slot(answer).pieces))
                return False
            else:
                break
        if n_prompt >= _LEAST_PART:
            self._token_seconds = (time.monotonic() - begin) / n_prompt
        return True

    def _sample(self, answer: Answer, output: int) -> None:
        try:
            finish = answer.sample(output)
        except Exception as error:  # noqa: BLE001 such as a limit of the grammar: no matter of other answers
            self._end(answer, error)
            return
        if finish is not None:
            self._end(answer, finish)

    def _end(self, answer: Answer, reason: FinishReason | Exception) -> None:
        """Free the slot of ``answer`` and then end it, if it has not ended yet."""
        self._answers.remove(answer)
        if answer.encoding is not None:
            answer.encode_time += answer.encoding.seconds
        if answer.slot is not None:
            self.slots.free(answer.slot)
            answer.slot = None
        answer.close()
        answer.end(reason)


def _slot(answer: Answer) -> Slot:
    assert answer.slot is not None
    return answer.slot
