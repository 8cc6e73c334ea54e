"""`qwen3vl-ros batch`: asks one question about many images, some at a time, and can go on where it stopped."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from qwen3vl_ros.cli.batch_inputs import BatchImage, InputError, images_of
from qwen3vl_ros.cli.batch_results import Results, ResultsError, open_results
from qwen3vl_ros.client.exceptions import Busy, Cancelled, EngineNotReady, Shutdown, Unreachable, VlmError

if TYPE_CHECKING:
    from qwen3vl_ros.client import VlmClient
    from qwen3vl_ros.client.answer import Answer

_NODE_IS_GONE: Final = (Unreachable, Shutdown, Cancelled, EngineNotReady)
"""Errors that all other images would get, too: the batch stops, and they have no line."""
_GOES_ON: Final = "The same command goes on where this one stopped."


def run_batch(
    client: VlmClient,
    inputs: Sequence[str],
    out: Path,
    question: Mapping[str, Any],
    *,
    concurrency: int,
    retry: bool,
    timeout: float,
) -> int:
    """Ask about all images, write the results, and say on stderr how many there are; return the exit status.

    Args:
        client: Of the node.
        inputs: As of :func:`images_of`.
        out: File of the results.
        question: ``prompt``, ``task``, ``slots`` and ``response_schema`` of :meth:`VlmClient.ask`.
        concurrency: Most images that are asked about at a time.
        retry: Whether to ask again about images that failed in an earlier run.
        timeout: Seconds for each answer.
    """
    try:
        images = images_of(inputs)
        with open_results(out, question, retry=retry) as results:
            there = len(results.done)
            open_images = [image for image in images if image not in results.done]
            batch = _Batch(client, results, question, timeout)
            gone = batch.run(open_images, concurrency, len(images))
            told = f"{len(results.done) - there} images were asked about, {there} were there before"
            print(f"{out}: {told}; {results.failed} of all failed.", file=sys.stderr)
            if gone is None:
                return 1 if results.failed else 0
            print(f"{gone.name}: {gone} {_GOES_ON}", file=sys.stderr)
            return gone.exit_status
    except KeyboardInterrupt:
        print(f"Stopped. {_GOES_ON}", file=sys.stderr)
        return 130
    except (InputError, ResultsError) as error:
        print(error, file=sys.stderr)
        return 2


class _Batch:
    """Asks about images on threads, each of which waits for one answer."""

    def __init__(self, client: VlmClient, results: Results, question: Mapping[str, Any], timeout: float) -> None:
        self._client = client
        self._results = results
        self._question = question
        self._timeout = timeout
        self._stopped = threading.Event()

    def run(self, images: Sequence[BatchImage], concurrency: int, total: int) -> VlmError | None:
        """Ask about all of them; return the error with which the node went away, None where it did not.

        KeyboardInterrupt cancels the open questions, and is passed on.
        """
        left = iter(images)
        pool = ThreadPoolExecutor(concurrency, "batch")
        running: set[Future[None]] = set()
        try:
            with _progress(total, total - len(images)) as advance:
                while True:
                    while len(running) < concurrency and (image := next(left, None)) is not None:
                        running.add(pool.submit(self._ask, image))
                    if not running:
                        return None
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                        advance()
        except _NODE_IS_GONE as error:
            return error
        finally:
            self._stopped.set()
            if running:
                self._client.close()  # which cancels what is open
            pool.shutdown(cancel_futures=True)

    def _ask(self, image: BatchImage) -> None:
        begun = time.monotonic()
        try:
            result = _line_of(self._answer(image))
        except _NODE_IS_GONE:
            raise
        except VlmError as error:
            result = {"error": {"code": error.name, "message": str(error)}, "text": error.text}
        except InputError as error:
            result = {"error": {"code": "BAD_IMAGE", "message": str(error)}, "text": ""}
        self._results.add(image, result | {"seconds": round(time.monotonic() - begun, 3)})

    def _answer(self, image: BatchImage) -> Answer:
        """Ask, and again while the node's queue is full, for as long as an answer may take."""
        end = time.monotonic() + self._timeout
        pixels = image.load()
        while True:
            try:
                return self._client.ask(images=pixels, timeout=self._timeout, **self._question)
            except Busy as error:
                if time.monotonic() > end or self._stopped.wait(error.retry_after or 1):
                    raise


def _line_of(answer: Answer) -> dict[str, Any]:
    from qwen3vl_ros.gateway.chat_response import ChatResponse, usage_of

    said = ChatResponse(answer.model).extension_of(answer)
    parts = {name: said[name] for name in ("json", "regions", "probability", "notes", "engine")}
    return {"error": None, "text": answer.text, **parts, "model": answer.model, "usage": usage_of(answer.usage)}


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """Show a bar on a terminal; yields what is called for each further image."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True)
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.MofNCompleteColumn())
    with rich.progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("images", total=total, completed=done)
        yield lambda: bar.advance(task)
