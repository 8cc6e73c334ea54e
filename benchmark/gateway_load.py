"""The HTTP gateway under load: does every client get its own answer, are limits told, does memory stay flat?"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from bench import Bench
from figures import Figure, percentile
from gateway_visitor import Visits, visitor
from processes import HERE, PATIENCE, read_line, resident_bytes, running
from ros_graph import other_graph

CLIENTS = 50
REQUESTS = 1000
CONCURRENCY, QUEUE = 4, 8
"""Of the node: together fewer than the clients, so that some are refused and have to come again."""

_WORDS = 12
_RETRY = 0.25  # seconds; Retry-After counts whole ones, for people's models


@dataclass
class Seen:
    """What the clients saw. Times in seconds."""

    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    first_text: list[float] = field(default_factory=list)
    memory: list[tuple[int, int]] = field(default_factory=list)


def gateway_load(bench: Bench) -> list[Figure]:
    """50 clients that stream 1,000 answers of the engine ``echo`` through gateway and node.

    How long page and status take meanwhile is what a process of its own sees (:mod:`gateway_visitor`).
    """
    requests = bench.times(REQUESTS)
    node = ["-m", "qwen3vl_ros.vlm.node", "--ros-args", "-p", "engine:=echo", "-p", f"echo.concurrency:={CONCURRENCY}"]
    node += ["-p", "echo.pause:=0.0", "-p", f"queue_size:={QUEUE}"]
    web = ["-m", "qwen3vl_ros.gateway.node", "--ros-args", "-p", "port:=0", "-p", "rate_limit:=0"]
    web += ["-p", f"concurrency:={2 * CLIENTS}", "-p", "log_directory:="]
    seen, graph = Seen(), other_graph()
    with TemporaryDirectory() as logs, running(node, {"PYTHONPATH": str(HERE / "engine"), **graph}) as vlm:
        web[-1] += logs
        with running(web, {"RCUTILS_LOGGING_USE_STDOUT": "1", **graph}) as gateway:
            line = read_line(gateway)
            url = line[line.index("http://") :].split()[0]
            asyncio.run(_ready(url))
            with visitor(url) as end_of_visit:
                begin = time.monotonic()
                asyncio.run(_load(url, requests, seen, (gateway.pid, vlm.pid), bench))
                took = time.monotonic() - begin
                visits = end_of_visit()
            served = len(Path(logs, "access.log").read_text().splitlines())
    seen.statuses.update(status for status, _ in visits)
    return _figures(seen, visits, requests, f"{requests / took:.0f}/s; {served} lines in the access log")


def _figures(seen: Seen, visits: Visits, requests: int, speed: str) -> list[Figure]:
    page = [seconds for _, seconds in visits]
    (web_before, vlm_before), (web_after, vlm_after) = seen.memory[0], seen.memory[-1]
    others = sum(count for number, count in seen.statuses.items() if number not in (200, 503))
    asked = f"{requests} requests of {CLIENTS} clients, {speed}"
    return [
        Figure("gateway, answers / questions", seen.answered / requests, limit=1.0, at_least=True, detail=asked),
        Figure("gateway, answers to another's question", len(seen.wrong), limit=0.0, detail="; ".join(seen.wrong[:3])),
        Figure("gateway, statuses other than 200 and 503", others, limit=0.0, detail=str(dict(seen.statuses))),
        Figure("gateway, memory at the end / after a fifth", web_after / web_before, limit=1.1, detail=_mb(web_after)),
        Figure("node, memory at the end / after a fifth", vlm_after / vlm_before, limit=1.1, detail=_mb(vlm_after)),
        Figure(
            "gateway, page and status meanwhile, p95",
            percentile(page, 0.95),
            "s",
            limit=2.0,
            detail=f"median {statistics.median(page):.3f} s; {len(page)} fetches, as by a browser",
        ),
        Figure("gateway, page and status meanwhile, worst", max(page), "s", limit=5.0),
        Figure(
            "gateway, first text, median",
            statistics.median(seen.first_text),
            "s",
            detail=f"p99 {percentile(seen.first_text, 0.99):.2f} s, refusals and waiting included",
        ),
    ]


async def _ready(url: str) -> None:
    """Wait until a question would be answered."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        while (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(_RETRY)


async def _load(url: str, requests: int, seen: Seen, pids: tuple[int, int], bench: Bench) -> None:
    numbers = iter(range(requests))
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False, limits=limits) as client:
        clients = [_client(client, numbers, seen, pids, requests, bench) for _ in range(CLIENTS)]
        await asyncio.gather(*clients)
    seen.memory.append((resident_bytes(pids[0]), resident_bytes(pids[1])))


async def _client(
    client: httpx.AsyncClient,
    numbers: object,
    seen: Seen,
    pids: tuple[int, int],
    requests: int,
    bench: Bench,
) -> None:
    for number in numbers:  # type: ignore[attr-defined]  # all clients take from the same
        question = " ".join(f"word{number}.{index}" for index in range(_WORDS))
        text, first = await _answer(client, question, seen)
        seen.first_text.append(first)
        if text.split() == question.split():
            seen.answered += 1
        else:
            seen.wrong.append(f"request {number}: {text[:80]!r}")
        if seen.answered == requests // 5:
            seen.memory.append((resident_bytes(pids[0]), resident_bytes(pids[1])))
        if seen.answered % 100 == 0:
            bench.say(f"{seen.answered} of {requests} answered")


async def _answer(client: httpx.AsyncClient, question: str, seen: Seen) -> tuple[str, float]:
    """The streamed text, and the seconds until its first piece; asks again while it is told to."""
    body = {"messages": [{"role": "user", "content": question}], "stream": True}
    begin, first = time.monotonic(), 0.0
    while True:
        text = ""
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            seen.statuses[response.status_code] += 1
            again = response.status_code == 503
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line[6:])
                    # A queue that is full after all: the stream had begun.
                    again = again or chunk.get("error", {}).get("code") == "busy"
                    for choice in chunk.get("choices", ()):
                        text += choice["delta"].get("content") or ""
                        first = first or (time.monotonic() - begin if text else 0.0)
        if not again:
            return text, first
        await asyncio.sleep(_RETRY)


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
