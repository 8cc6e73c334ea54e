"""A program that asks the bare ``llama`` engine about one image and prints the seconds until the first token.

python benchmark/bare_restart.py MODEL THREADS STATE_DIRECTORY
"""

from __future__ import annotations

import signal
import sys

import numpy as np

from qwen3vl_ros.engines.base import Cancel, Message, Options, Request
from qwen3vl_ros.engines.llama.engine import LlamaEngine


def main() -> None:
    """Ask once; closing the engine saves what it read."""
    model, threads, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    engine = LlamaEngine(model, n_threads=threads, n_ctx=2048, state_directory=folder)
    request = Request((Message("user", (image, "What is on the table?")),), Options(temperature=0.0, max_tokens=4))
    *_, last = engine.generate(request, Cancel())
    engine.close()
    assert last.usage is not None
    print(last.usage.first_token_time)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever started it ends it so: without a traceback
    main()
