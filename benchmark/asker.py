"""A program that asks the node through the package's client and shows the answer as it comes, as a user's does."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator

from processes import PATIENCE, read_line, running


@contextlib.contextmanager
def asker(namespace: str) -> Iterator[tuple[int, Callable[[str, int], str]]]:
    """The program's pid, and a function from prompt and max_tokens to the whole answer of the node in ``namespace``."""
    with running([__file__, namespace]) as process:
        read_line(process)

        def ask(prompt: str, max_tokens: int) -> str:
            assert process.stdin is not None
            process.stdin.write(json.dumps([prompt, max_tokens]) + "\n")
            process.stdin.flush()
            return str(json.loads(read_line(process)))

        yield process.pid, ask


def main() -> int:
    """The program: a line in, a line out."""
    from qwen3vl_ros.client import VlmClient

    with contextlib.suppress(KeyboardInterrupt), VlmClient(namespace=sys.argv[1]) as client:
        client.wait_for_server(PATIENCE)
        print("ready", flush=True)
        for line in sys.stdin:
            prompt, max_tokens = json.loads(line)
            stream = client.stream(prompt, text_only=True, temperature=0.0, max_tokens=max_tokens, timeout=PATIENCE)
            for _ in stream:
                pass
            print(json.dumps(stream.answer.text), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
