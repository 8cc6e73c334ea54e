"""`ros2 vlm VERB`: the commands of `qwen3vl-ros` about a running node, where ROS 2's own command line is installed."""

from __future__ import annotations

import argparse

from ros2cli.command import CommandExtension

from qwen3vl_ros.cli.main import add_commands

VERBS = ("ask", "watch", "status", "tasks", "engine", "find")
"""Commands of `qwen3vl-ros` that are verbs of `ros2 vlm`."""


class VlmCommand(CommandExtension):  # type: ignore[misc] # ros2cli is not typed
    """Ask a robot's cameras questions with Qwen3-VL."""

    def add_arguments(self, parser: argparse.ArgumentParser, cli_name: str) -> None:  # noqa: ARG002 ros2cli's signature
        """Add the verbs to ``parser``, the one of `ros2 vlm`."""
        self._parser = parser
        commands = argparse.ArgumentParser(add_help=False, prog="qwen3vl-ros").add_subparsers()
        add_commands(commands)
        verbs = parser.add_subparsers(title="verbs", metavar="VERB")
        for name in VERBS:
            command = commands.choices[name]
            verb = verbs.add_parser(
                name, parents=[command], add_help=False, help=command.description, description=command.description,
                epilog=command.epilog, formatter_class=command.formatter_class, allow_abbrev=False,
            )  # fmt: skip
            verb.set_defaults(error=verb.error)

    def main(self, *, parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:  # noqa: ARG002
        """Run the verb; return the exit status, as of `qwen3vl-ros`."""
        if "run" not in args:
            self._parser.print_help()
            return 2
        try:
            status: int = args.run(args)
        except KeyboardInterrupt:
            return 130
        return status
