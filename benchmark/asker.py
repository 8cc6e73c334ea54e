"""A program that asks the node through the package's client and shows the answer as it comes, as a user's does."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from processes import PATIENCE, read_line, running


@contextlib.contextmanager
def asker(namespace: str) -> Iterator[tuple[int, Callable[..., list[tuple[int, str]]]]]:
    """The program's pid, and ``ask(prompt, max_tokens, image=None)``, which asks the node in ``namespace``.

    It returns the pieces of the answer, each with the time.monotonic_ns() when the program had it. ``image``: a file.
    """
    with running([__file__, namespace]) as process:
        read_line(process)

        def ask(prompt: str, max_tokens: int, image: Path | None = None) -> list[tuple[int, str]]:
            assert process.stdin is not None
            images = [] if image is None else [str(image)]
            process.stdin.write(json.dumps([prompt, max_tokens, images]) + "\n")
            process.stdin.flush()
            return [(when, text) for when, text in json.loads(read_line(process))]

        yield process.pid, ask


def main() -> int:
    """The program: a line in, a line out."""
    from qwen3vl_ros.client import VlmClient

    with contextlib.suppress(KeyboardInterrupt), VlmClient(namespace=sys.argv[1]) as client:
        client.wait_for_server(PATIENCE)
        print("ready", flush=True)
        for line in sys.stdin:
            prompt, max_tokens, images = json.loads(line)
            stream = client.stream(
                prompt,
                images=images or None,
                text_only=not images,
                temperature=0.0,
                max_tokens=max_tokens,
                timeout=PATIENCE,
            )
            print(json.dumps([(time.monotonic_ns(), text) for text in stream]), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
