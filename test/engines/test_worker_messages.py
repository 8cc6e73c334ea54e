"""Requests cross into the worker unchanged, through shared memory that leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qwen3vl_ros.engines.base import BadRequest, Message, Options, Request
from qwen3vl_ros.engines.worker import pack, resident_memory, unpack

IMAGES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(st.text(), st.lists(IMAGES, max_size=3), st.integers(0, 2**63 - 1))
def test_a_request_arrives_as_it_was_sent(prompt: str, images: list[np.ndarray], seed: int) -> None:
    sent = Request((Message("user", (*images, prompt)),), Options(seed=seed), {"type": "object"})
    received = unpack(*pack(sent))
    assert received.options == sent.options
    assert received.response_schema == sent.response_schema
    *arrived, text = received.messages[0].content
    assert text == prompt
    assert all(np.array_equal(a, b) for a, b in zip(arrived, images, strict=True))


def test_packing_leaves_no_descriptor_and_no_shared_memory_behind() -> None:
    request = Request((Message("user", (np.zeros((480, 640, 3), np.uint8), "?")),))

    def open_things() -> tuple[int, set[str]]:
        return len(list(Path("/proc/self/fd").iterdir())), {path.name for path in Path("/dev/shm").iterdir()}

    before = open_things()
    for _ in range(5):
        unpack(*pack(request))
    assert open_things() == before


def test_a_message_of_an_unknown_role_cannot_be_made() -> None:
    role: Any = "robot"
    with pytest.raises(BadRequest, match="no role 'robot'"):
        Message(role, ("?",))


def test_memory_of_processes_that_an_engine_started_counts() -> None:
    hold = "memory = b'1' * 200_000_000; print(flush=True); input()"
    before = resident_memory()
    child = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert resident_memory() - before > 150e6
        child.kill()
