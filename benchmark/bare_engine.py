"""The bare ``llama`` engine in a process without ROS, worker or node: what the action is compared with."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from processes import read_line, running

Ask = Callable[[str, int], float]


@contextlib.contextmanager
def bare_engine(model: Path, threads: int) -> Iterator[Ask]:
    """Load ``model``; gives a function from prompt and max_tokens to tokens per second after the first."""
    with running([__file__, str(model), str(threads)]) as process:
        read_line(process)

        def ask(prompt: str, max_tokens: int) -> float:
            assert process.stdin is not None
            process.stdin.write(json.dumps([prompt, max_tokens]) + "\n")
            process.stdin.flush()
            return float(read_line(process))

        yield ask


def main() -> int:
    """The process: a line in, a line out."""
    from qwen3vl_ros.engines.base import Cancel, Message, Options, Request
    from qwen3vl_ros.engines.llama.engine import LlamaEngine

    engine = LlamaEngine(sys.argv[1], n_threads=int(sys.argv[2]))
    print("ready", flush=True)
    try:
        for line in sys.stdin:
            prompt, max_tokens = json.loads(line)
            request = Request((Message("user", (prompt,)),), Options(temperature=0.0, max_tokens=max_tokens))
            first, tokens = 0.0, 0
            for chunk in engine.generate(request, Cancel()):
                tokens = chunk.completion_tokens
                if tokens and not first:
                    first = time.monotonic()
            print((tokens - 1) / (time.monotonic() - first), flush=True)
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
