"""The MCP server in front of the tools, for the SDK's transports."""

from __future__ import annotations

import inspect
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    Tool,
    ToolAnnotations,
)
from pydantic import ValidationError

import qwen3vl_ros
from qwen3vl_ros.gateway.mcp.arguments import READ_ONLY, TOOLS, schema_of
from qwen3vl_ros.gateway.mcp.tools import RobotTools, failure
from qwen3vl_ros.gateway.request_errors import of_validation

_INSTRUCTIONS = (
    "You look through the cameras of a robot. You do not get images, you ask about them: look answers questions, find "
    "tells where a thing is, watch waits for something to happen. Stamps are seconds of the robot's clock."
)


def create_server(tools: RobotTools) -> Server[Any]:
    """Return a server of the tools."""

    async def list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(
                    name=name,
                    description=inspect.getdoc(arguments),
                    input_schema=schema_of(arguments),
                    annotations=ToolAnnotations(read_only_hint=name in READ_ONLY),
                )
                for name, arguments in TOOLS.items()
            ]
        )

    async def call_tool(context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        kind = TOOLS.get(params.name)
        if kind is None:
            return failure(f"there is no tool {params.name[:60]!r}; there are {', '.join(TOOLS)}.")
        given = params.arguments or {}
        try:
            arguments = kind.model_validate(given)
        except ValidationError as error:
            return failure(str(of_validation(error, given, {})))
        request: Any = context.request  # Starlette's; None on stdio
        client = request.client.host if request is not None and request.client else ""
        return await tools.call(arguments, client)

    return Server(
        "qwen3vl_ros",
        version=qwen3vl_ros.__version__,
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
