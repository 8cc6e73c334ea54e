"""The worker process that runs an engine: receives requests, sends chunks and a heartbeat.

:class:`qwen3vl_ros.engines.process.EngineProcess` starts it as a new process (never forked), so that a native crash, a
hang or an out-of-memory kill ends only the running answers. Messages are small and sent over one socket; requests with
their images arrive in anonymous shared memory whose file descriptor follows the message, so nothing is left in /dev/shm
whichever process dies first.

To the worker: ``("generate", id, sizes)`` + a descriptor, ``("cancel", id)``, ``("close",)``.
From the worker: ``("alive", rss_bytes)``, ``("loading", sentence)``, ``("ready", description, load_seconds)``,
``("failed", error)``, ``("chunk", id, fields)``, ``("error", id, error)``. A chunk is sent as a tuple of its fields in
their order, the stage as its number: pickling and unpickling a class takes several times as long.
"""

from __future__ import annotations

import logging
import mmap
import operator
import os
import pickle
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing import reduction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qwen3vl_ros.engines import registry
from qwen3vl_ros.engines.base import Cancel, Chunk, Engine, EngineError, EngineNotReady, ModelNotFound, Request
from qwen3vl_ros.engines.model_files import ModelFiles

HEARTBEAT_PERIOD = 1.0
"""Seconds between two ``alive`` messages."""

_chunk_fields = operator.attrgetter(*Chunk.__slots__)

_log = logging.getLogger(__name__)


def pack(request: object) -> tuple[int, list[int]]:
    """Put a request into anonymous shared memory.

    Returns:
        The file descriptor, which the caller closes, and the sizes in bytes of the parts: the pickle, then one buffer
        for each image (pickle protocol 5 out-of-band buffers: pixels are copied once, never pickled).
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(request, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    sizes = [part.nbytes for part in parts]
    descriptor = os.memfd_create("qwen3vl_ros")
    try:
        os.ftruncate(descriptor, sum(sizes))
        with mmap.mmap(descriptor, sum(sizes)) as memory:
            offset = 0
            for part, size in zip(parts, sizes, strict=True):
                memory[offset : offset + size] = part
                offset += size
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, sizes


def unpack(descriptor: int, sizes: list[int]) -> Any:
    """Read the request that :func:`pack` wrote, and close ``descriptor``.

    Returns:
        The request; its images are read-only views of the shared memory.
    """
    try:
        memory = memoryview(mmap.mmap(descriptor, sum(sizes), access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
    parts = []
    offset = 0
    for size in sizes:
        parts.append(memory[offset : offset + size])
        offset += size
    return pickle.loads(parts[0], buffers=parts[1:])


class _Worker:
    """The worker's side of the socket."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self._cancels: dict[int, Cancel] = {}
        self._answering: list[threading.Thread] = []
        self._slots = threading.Semaphore(1)
        self.files = ModelFiles(())

    def send(self, *message: Any) -> None:
        with self._send_lock:
            try:
                self._connection.send_bytes(pickle.dumps(message))
            except OSError:  # the node is gone, and this process with it
                os._exit(0)

    def _send_chunk(self, identifier: int, chunk: Chunk) -> None:
        stage, *others = _chunk_fields(chunk)
        self.send("chunk", identifier, (int(stage), *others))

    def beat(self) -> None:
        """Send a heartbeat with the resident memory every second, and check the model's files, for ever."""
        while True:
            self.send("alive", resident_memory())
            self.check_files()
            time.sleep(HEARTBEAT_PERIOD)

    def check_files(self) -> None:
        """End this process, to be started again, if a file of the model was changed: no answer can be trusted now."""
        changed = self.files.changed()
        if changed is not None:
            self.send("failed", EngineNotReady(f"The model's file '{changed}' was changed while the engine used it"))
            os._exit(0)

    def answer(self, engine: Engine, identifier: int, request: Request, cancel: Cancel) -> None:
        with self._slots:
            self._answer(engine, identifier, request, cancel)

    def _answer(self, engine: Engine, identifier: int, request: Request, cancel: Cancel) -> None:
        try:
            last: Chunk | None = None
            self.check_files()
            for chunk in engine.generate(request, cancel):
                if chunk.finish_reason is None:
                    self._send_chunk(identifier, chunk)
                else:
                    last = chunk
            self.check_files()
            # Send the last chunk only now that the engine is free: the node then sends the next request at once.
            del self._cancels[identifier]
            if last is None:
                raise EngineError("the engine ended an answer without a finish reason; it breaks its contract")
            self._send_chunk(identifier, last)
        except EngineError as error:
            self._cancels.pop(identifier, None)
            self.send("error", identifier, as_contract(error))
        except Exception as error:  # noqa: BLE001 a defect of an engine ends one answer, not the process
            _log.exception("engine failed while answering")
            self._cancels.pop(identifier, None)
            self.send("error", identifier, EngineError(f"the engine failed with {type(error).__name__}: {error}"))

    def serve(self, engine: Engine) -> None:
        """Answer requests until told to close or the node is gone, at most the engine's ``concurrency`` at once."""
        self._slots = threading.Semaphore(engine.describe().concurrency)
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)  # without closing the engine: the node died
            if message[0] == "generate":
                _, identifier, sizes = message
                request = unpack(reduction.recv_handle(self._connection), sizes)
                cancel = self._cancels[identifier] = Cancel()
                thread = threading.Thread(target=self.answer, args=(engine, identifier, request, cancel), daemon=True)
                self._answering = [*(other for other in self._answering if other.is_alive()), thread]
                thread.start()
            elif message[0] == "cancel":
                running = self._cancels.get(message[1])
                if running is not None:
                    running.set()
            else:
                break
        for cancel in list(self._cancels.values()):
            cancel.set()
        for thread in self._answering:
            thread.join()  # a model in use cannot be freed; the node kills this process if that takes long


def resident_memory() -> int:
    """Return the resident memory of this process and of those that an engine started, in bytes."""
    pages = 0
    for process in ("self", *_children()):
        with suppress(OSError):  # it has just ended
            pages += int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _children() -> list[str]:
    found = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has just ended
            found += (thread / "children").read_text(encoding="ascii").split()
    return found


def as_contract(error: EngineError) -> EngineError:
    """Convert ``error`` to the contract's class that it is or derives from: an engine's own may not unpickle."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == EngineError.__module__)
    return error if kind is type(error) else kind(str(error))


def main(descriptor: int, name: str, config: dict[str, Any]) -> None:
    """Load engine ``name`` with ``config`` and serve the socket ``descriptor`` until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node, which closes this process properly
    os.set_inheritable(descriptor, False)  # a process that an engine starts must not hold the socket open
    worker = _Worker(Connection(descriptor))
    threading.Thread(target=worker.beat, daemon=True).start()
    begin = time.monotonic()
    try:
        engine_class = registry.load(name)
        files_of = getattr(engine_class, "files", None)
        if files_of is not None:
            worker.files = ModelFiles(files_of(**config))
        engine = engine_class(**config, progress=lambda sentence: worker.send("loading", sentence))
    except EngineError as error:
        worker.send("failed", as_contract(error))
        return
    except (TypeError, ValueError) as error:
        _log.exception("engine %s does not take its parameters", name)
        sentence = f"engine {name!r} does not take its parameters ({type(error).__name__}: {error}): correct them"
        worker.send("failed", ModelNotFound(sentence))
        return
    except Exception as error:  # noqa: BLE001 reported to the node, which shows it
        _log.exception("engine %s failed to load", name)
        worker.send("failed", EngineError(f"engine {name!r} failed to load with {type(error).__name__}: {error}"))
        return
    worker.send("ready", engine.describe(), time.monotonic() - begin)
    worker.serve(engine)
    engine.close()
    sys.stdout.flush()
    os._exit(0)  # native threads of an engine must not hold up the node's shutdown
