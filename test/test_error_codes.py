"""A new error code is known everywhere, or one of these tests says where it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from qwen3vl_ros.action import AskImage
from qwen3vl_ros.srv import Ask

from qwen3vl_ros.client.exceptions import InternalError, VlmError, error_of_code
from qwen3vl_ros.engines.base import EngineError
from qwen3vl_ros.vlm.frame_source import NoFrame

DOCS = Path(__file__).resolve().parents[1] / "docs"


def codes(message: type) -> dict[str, int]:
    """The constants of a result, but for NONE."""
    names = [name for name in dir(message) if name.isupper() and isinstance(getattr(message, name), int)]
    return {name: getattr(message, name) for name in names if getattr(message, name)}


def below(error: type[Exception]) -> Iterator[type[Exception]]:
    yield error
    for special in error.__subclasses__():
        yield from below(special)


CODES = codes(AskImage.Result)


def test_action_and_service_have_the_same_codes() -> None:
    assert CODES
    assert codes(Ask.Response) in ({}, CODES)


@pytest.mark.parametrize("name", CODES)
def test_each_code_is_an_exception_of_the_client_with_a_status_for_http_and_for_a_command(name: str) -> None:
    error = error_of_code(CODES[name])
    assert (error.name, error.code) == (name, CODES[name])
    assert 400 <= error.http_status < 600
    assert 0 < error.exit_status < 256
    assert (error.retry_after is not None) == (error.http_status == 503)
    assert name == "UNKNOWN" or error is not InternalError


@pytest.mark.parametrize("error", sorted({*below(EngineError), NoFrame}, key=str), ids=lambda error: error.__name__)
def test_whatever_ends_a_question_in_the_node_has_a_code(error: type[EngineError]) -> None:
    assert error.code_name in CODES


@pytest.mark.parametrize(
    "error", [e for e in below(VlmError) if "code" in vars(e) or e.code < 0], ids=lambda e: e.__name__
)
def test_the_pages_tell_every_status(error: type[VlmError]) -> None:
    gateway, cli = (DOCS / name for name in ("gateway.md", "cli.md"))
    assert re.search(rf"^\| {error.http_status} \|", gateway.read_text(encoding="utf-8"), re.MULTILINE)
    assert re.search(rf"\b{error.exit_status}\b", cli.read_text(encoding="utf-8"))
