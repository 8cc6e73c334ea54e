"""The fields of a chat request that are about tools, and their way into a goal: as text, for which it has a place.

A goal has no field for tools. What Qwen's chat template makes of them is text of the system message and of turns, so
that text goes into the goal (:mod:`qwen3vl_ros.gateway.tool_calls`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from qwen3vl_ros.engines.tool_template import HERMES
from qwen3vl_ros.gateway.backend import NodeStatus
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.tool_calls import ToolCallText, calls_text, results_text, tools_text

if TYPE_CHECKING:
    from qwen3vl_ros.gateway.chat_request import ChatRequest, ChatTurn

MOST_TOOLS: Final = 128


class Function(BaseModel):
    """What a tool is called, does and takes; ``parameters`` is a JSON Schema."""

    model_config = ConfigDict(extra="ignore")

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = Field(None, description="Without effect: arguments are not held to the schema.")


class Tool(BaseModel):
    """A function that the model may call; the client runs it."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["function"]
    function: Function

    def as_template_has_it(self) -> dict[str, Any]:
        """Return what the chat template writes of it."""
        return {"type": "function", "function": self.function.model_dump(exclude_none=True, exclude={"strict"})}


class CalledFunction(BaseModel):
    """Name and arguments of a call; the latter a JSON object as text."""

    model_config = ConfigDict(extra="ignore")

    name: str
    arguments: str = "{}"

    @field_validator("arguments")
    @classmethod
    def _is_object(cls, arguments: str) -> str:
        try:
            if isinstance(json.loads(arguments or "{}"), dict):
                return arguments or "{}"
        except (ValueError, RecursionError):
            pass
        raise ValueError("it has to be a JSON object as text")


class EarlierCall(BaseModel):
    """A call that the model has made."""

    model_config = ConfigDict(extra="ignore")

    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


def check_tools(request: ChatRequest, status: NodeStatus) -> None:
    """Check that the model that answers knows tools, where a request needs that.

    Raises:
        ApiError: 400 where it does not, or the request asks for what does not go together; 503 where that is not
            known yet.
    """
    needs = [name for name, needed in (("tools", request.offers_tools), ("messages", request.has_calls)) if needed]
    if not needs:
        return
    for name, given in (("task", request.task), ("response_format", request.response_schema)):
        if given and request.offers_tools:
            raise ApiError(
                400,
                "unsupported_parameter",
                f"{name}: it decides what the answer looks like, and so do tools: choose one of them",
                param=name,
            )
    if not status.answers or status.tools == HERMES:
        return  # without a node that answers, its own error says more
    if status.tools is None:
        raise ApiError(503, "node_not_ready", "the node has not told yet what its model knows", retry_after=1)
    raise ApiError(
        400,
        "unsupported_parameter",
        f"{needs[0]}: the chat template of the model {status.model} has no tools, as far as the engine {status.engine} "
        "knows: leave them out, or have a model answer that has, such as Qwen3-VL",
        param=needs[0],
    )


def tool_notes(request: ChatRequest) -> tuple[str, ...]:
    """Return notes on fields of tools that have no effect."""
    if request.offers_tools and any(tool.function.strict for tool in request.tools):
        return ("tools[].function.strict: without effect; check the arguments of a call against their schema",)
    return ()


def system_text(request: ChatRequest, instructions: str) -> str:
    """Return the system prompt with what it says of the tools."""
    if not request.offers_tools:
        return instructions
    text = tools_text([tool.as_template_has_it() for tool in request.tools])
    return f"{instructions}\n\n{text}" if instructions else text


def calls_of(request: ChatRequest) -> ToolCallText | None:
    """Return what finds the calls in the answer to a request; None where the model has no tools to call."""
    if not request.offers_tools:
        return None
    return ToolCallText([tool.function.name for tool in request.tools], parallel=request.parallel_tool_calls)


def without_calls(turns: Sequence[ChatTurn]) -> list[ChatTurn]:
    """Return the turns with calls and results as text of the model's and the user's turns.

    Raises:
        ApiError: 400 for a result that is not text.
    """
    plain: list[ChatTurn] = []
    results: list[str] = []
    for turn in turns:
        if turn.role == "tool":
            results.append(turn.text)
            continue
        _flush(results, plain, turn)
        calls = [(call.function.name, call.function.arguments) for call in turn.tool_calls]
        plain.append(turn.saying(calls_text(turn.text, calls)) if calls else turn)
    if results:
        _flush(results, plain, turns[-1])
    return plain


def _flush(results: list[str], plain: list[ChatTurn], like: ChatTurn) -> None:
    if results:
        plain.append(like.saying(results_text(results), "user"))
        results.clear()
