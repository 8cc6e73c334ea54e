"""The prefixes that the ``llama`` engine keeps from one process to the next."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny_qwen3vl
from qwen3vl_ros.engines.base import Message, Usage
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from tiny_model_tests import GREEDY, ask, noise_image, stream, user
from tiny_qwen3vl import TinyModel

pytest_plugins = ["tiny_model_fixtures"]

IMAGE = noise_image(128, 96)
FIRST = user(IMAGE, "What is this?")


@pytest.fixture
def run(tiny: TinyModel, tmp_path: Path) -> Iterator[Callable[..., LlamaEngine]]:
    """Starts an engine, closing the one before: the next process of a node."""
    engines: list[LlamaEngine] = []

    def new(**config: Any) -> LlamaEngine:
        for engine in engines:
            engine.close()
        config = {"model": str(tiny.model), "mmproj": str(tiny.mmproj), "state_directory": str(tmp_path / "s")} | config
        engines.append(LlamaEngine(n_threads=1, **config))
        return engines[-1]

    yield new
    for engine in engines:
        engine.close()


def usage(engine: LlamaEngine, *messages: Message) -> Usage:
    found = stream(engine, *messages, options=GREEDY)[-1].usage
    assert found is not None
    return found


def conversation(engine: LlamaEngine) -> tuple[Message, ...]:
    return (FIRST, Message("assistant", (ask(engine, FIRST),)), user("And now?"))


def test_after_a_restart_a_conversation_goes_on_without_reading_it_again(run: Callable[..., LlamaEngine]) -> None:
    turns = conversation(run())
    expected = ask(run(state_directory=""), *turns)
    conversation(run())
    engine = run()
    found = usage(engine, *turns)
    assert found.encode_time == 0
    assert found.cached_tokens > found.image_tokens
    assert ask(engine, *turns) == expected


def test_what_every_slot_has_is_back(run: Callable[..., LlamaEngine]) -> None:
    engine = run()
    questions = [user("One " * 20), user("Two " * 20)]
    for question in questions:
        ask(engine, question)
    engine = run()
    assert all(usage(engine, question).cached_tokens > 20 for question in questions)


def test_state_of_another_model_is_not_used(run: Callable[..., LlamaEngine], tiny: TinyModel, tmp_path: Path) -> None:
    conversation(run())
    altered = tiny_qwen3vl.with_metadata(tiny.model, tmp_path / "altered.gguf", {"general.name": "Another"})
    assert usage(run(model=str(altered)), FIRST).cached_tokens == 0


def test_state_that_does_not_fit_the_context_is_not_used(run: Callable[..., LlamaEngine]) -> None:
    question = user("One " * 200)
    ask(run(n_ctx=1024), question)
    engine = run(n_ctx=256)
    assert ask(engine, user("One?")) == ask(run(state_directory=""), user("One?"))


@pytest.mark.parametrize("damage", [b"", b"[", b"{}"])
def test_a_damaged_index_is_a_sentence_in_the_log(
    run: Callable[..., LlamaEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    turns = conversation(run())
    expected = ask(run(state_directory=""), *turns)
    (tmp_path / "s" / "index.json").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        engine = run()
    assert "Every prompt is read anew" in caplog.text
    assert ask(engine, *turns) == expected


def test_a_file_that_was_cut_off_is_a_sentence_in_the_log(
    run: Callable[..., LlamaEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    turns = conversation(run())
    expected = ask(run(state_directory=""), *turns)
    for file in (tmp_path / "s").glob("*.state"):
        file.write_bytes(file.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING):
        engine = run()
    assert "is gone or damaged" in caplog.text
    assert ask(engine, *turns) == expected


def test_disk_space_is_bounded_and_the_last_used_is_kept(run: Callable[..., LlamaEngine], tmp_path: Path) -> None:
    engine = run(state_mb=1, n_ctx=4096)
    long, short = user("word " * 600), user("The last.")
    for question in (long, short):
        ask(engine, question)
    engine = run()
    assert sum(file.stat().st_size for file in (tmp_path / "s").iterdir()) < 1_000_000
    assert usage(engine, short).cached_tokens > 0
    assert usage(engine, long).cached_tokens < 50


def test_nobody_else_may_read_the_files_and_old_ones_are_deleted(
    run: Callable[..., LlamaEngine], tmp_path: Path
) -> None:
    for _ in range(3):
        conversation(run())
    run(state_directory="")
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert len(list((tmp_path / "s").glob("*.state"))) <= 2


def test_a_directory_that_cannot_be_written_is_a_sentence_and_no_failure(
    run: Callable[..., LlamaEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    engine = run(state_directory=str(tmp_path / "file" / "s"))
    ask(engine, FIRST)
    with caplog.at_level(logging.WARNING):
        engine.close()
    assert "were not saved" in caplog.text
