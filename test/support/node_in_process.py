"""Nodes of the tests' own process, with what their command line sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rclpy
from rclpy.context import Context
from rclpy.node import Node

Start = Callable[..., Node]


@contextmanager
def nodes() -> Iterator[Start]:
    """A function that makes a node; each ``NAME:=VALUE`` sets a parameter. The nodes are gone at the end."""
    context = Context()
    rclpy.init(context=context)
    made: list[Node] = []

    def start(*settings: str, name: str = "node", arguments: tuple[str, ...] = ()) -> Node:
        cli = ["--ros-args", *arguments, *(part for setting in settings for part in ("-p", setting))]
        made.append(rclpy.create_node(name, context=context, cli_args=cli))
        return made[-1]

    try:
        yield start
    finally:
        for node in made:
            node.destroy_node()
        rclpy.try_shutdown(context=context)
