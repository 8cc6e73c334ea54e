"""A program that answers with the bare ``llama`` engine and prints the milliseconds that a token takes.

python benchmark/bare_engine.py MODEL THREADS TOKENS
"""

from __future__ import annotations

import itertools
import signal
import statistics
import sys
import time

from qwen3vl_ros.engines.base import Cancel, Message, Options, Request
from qwen3vl_ros.engines.llama.engine import LlamaEngine

PROMPT = "Tell me everything."


def main() -> None:
    """The median of one answer, after a short one."""
    model, threads, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    engine = LlamaEngine(model, n_threads=threads, n_ctx=2048)
    for length in (2, tokens):
        request = Request((Message("user", (PROMPT,)),), Options(temperature=0.0, max_tokens=length))
        times = [time.monotonic() for chunk in engine.generate(request, Cancel()) if chunk.completion_tokens]
    engine.close()
    print(statistics.median(after - before for before, after in itertools.pairwise(times)) * 1e3)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever started it ends it so: without a traceback
    main()
