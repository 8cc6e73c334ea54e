"""A browser with the gateway's page open: fetches page and status until it is told to end, and says how long each took.

A process of its own, as a browser is: among the clients that put the gateway under load it would wait for them, too.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator

import httpx

from processes import PATIENCE, read_line, running

_LOOK = 0.2  # seconds between two looks

Visits = list[tuple[int, float]]
"""HTTP status and seconds of each fetch."""


@contextlib.contextmanager
def visitor(url: str) -> Iterator[Callable[[], Visits]]:
    """Start looking at ``url``; gives a function that ends it and returns what was seen."""
    with running([__file__, url]) as process:

        def end() -> Visits:
            assert process.stdin is not None
            process.stdin.write("end\n")
            process.stdin.flush()
            return [(status, seconds) for status, seconds in json.loads(read_line(process))]

        yield end


def main() -> int:
    """The process: a line in ends it, a line out says what was seen."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever started it ends it so: without a traceback
    visits: Visits = []
    with httpx.Client(base_url=sys.argv[1], timeout=PATIENCE, trust_env=False) as client:
        while not select.select([sys.stdin], [], [], _LOOK)[0]:
            for path in ("/", "/api/status"):
                begin = time.monotonic()
                status = client.get(path).status_code
                visits.append((status, time.monotonic() - begin))
    print(json.dumps(visits), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
