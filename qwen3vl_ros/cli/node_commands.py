"""The commands about a running node, and their arguments. Imports nothing heavy, so that --help is instant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.cli import arguments, index_commands, watch_arguments

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection

_TRANSITIONS = ("configure", "activate", "deactivate", "cleanup", "shutdown")

_CHAT = """each line is a question; those that begin with a slash are not:
  /task NAME TEXT   a ready-made task about TEXT; /task alone lists them
  /image FILE       ask about this image from now on; /image alone: the camera again
  /new              forget the conversation
  /help, /quit      this list; the end (also Ctrl-D)
Ctrl-C cancels the answer; pressed again, or while nothing is being answered, it ends the chat.
"""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands.

    Args:
        command: Makes the parser of one, from its name, function, help and what else ArgumentParser takes.
    """
    chat = command("chat", _chat, "Ask question after question; each may refer to those before.", epilog=_CHAT)
    chat.add_argument("--image", metavar="FILE", help="ask about this image, not a camera")
    chat.add_argument("--camera", metavar="NAME", default="", help="look through this camera (default: the first one)")
    chat.add_argument("--text-only", action="store_true", help="ask without any image")
    chat.add_argument("--system", metavar="TEXT", default="", help="instruction that precedes the conversation")
    chat.add_argument("--timeout", metavar="S", type=arguments.seconds, default=120.0, help="seconds for each answer")
    arguments.add_node(chat)

    batch = command(
        "batch",
        _connected(_batch),
        "Ask one question about many images: a line of JSON for each. The same command again goes on where it stopped.",
    )
    batch.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="images, folders of images, patterns in quotation marks ('in/**/*.jpg'), PDF documents (each page)",
    )
    batch.add_argument("--task", metavar="NAME", default="", help="a ready-made task, as for ask")
    batch.add_argument("--prompt", metavar="TEXT", default="", help="the question, or what the task is about")
    batch.add_argument("--slots", metavar="JSON", type=arguments.slots, help="other slots of the task")
    batch.add_argument("--json", metavar="SCHEMA", type=arguments.schema, help="JSON Schema that answers satisfy")
    batch.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help="where the lines go, such as results.jsonl"
    )
    batch.add_argument(
        "--concurrency", metavar="N", type=_concurrency, default=2, help="images asked about at a time (default 2)"
    )
    batch.add_argument("--retry", action="store_true", help="ask again about images that failed in an earlier run")
    batch.add_argument("--timeout", metavar="S", type=arguments.seconds, default=120.0, help="seconds for each answer")
    arguments.add_node(batch)

    index_commands.add(command, _connected)

    status = command("status", _connected(_status), "Say how the node is: state, model, cameras, queue, last error.")
    status.add_argument("--json", action="store_true", help="as JSON, for scripts")
    status.add_argument(
        "--watch", action="store_true", help="until Ctrl-C; with --json, a line of JSON for each change"
    )
    arguments.add_node(status)

    watch_arguments.add(command, _connected(_watch))

    engine = command("engine", _connected(_engine), "Say which engine answers, or load another one beside it.")
    name: Any = engine.add_argument("name", metavar="NAME", nargs="?", default="", help="engine to change to, or auto")
    name.completer = _complete_engine
    engine.add_argument("--model", metavar="MODEL", default="", help="model file, directory or served name")
    engine.add_argument("--mmproj", metavar="GGUF", default="", help="projector of a GGUF model")
    engine.add_argument(
        "--grace",
        metavar="S",
        type=arguments.seconds,
        help="seconds that the old engine's questions get (default: all)",
    )
    arguments.add_node(engine)

    session = command("session", None, "Forget conversations that the node keeps; `ask --session` continues one.")
    actions = session.add_subparsers(metavar="ACTION", title="actions", required=True)
    text = "Forget a conversation, or all of them."
    reset = actions.add_parser("reset", help=text, description=text, allow_abbrev=False)
    which = reset.add_mutually_exclusive_group(required=True)
    which.add_argument("name", metavar="NAME", nargs="?", default="", help="of the session")
    which.add_argument("--all", action="store_true", help="all conversations of the node")
    reset.set_defaults(run=_connected(_reset_session))
    arguments.add_node(reset)

    param = command("param", None, "Read and set the parameters of the node while it runs.")
    actions = param.add_subparsers(metavar="ACTION", title="actions", required=True)
    for action, run, text in (
        ("get", _get_parameter, "Print the value of a parameter."),
        ("set", _set_parameter, "Set a parameter; the node says why where it refuses."),
        ("list", _list_parameters, "List the parameters with their values and what they do."),
    ):
        made = actions.add_parser(action, help=text, description=text, allow_abbrev=False)
        made.set_defaults(run=_connected(run))
        if action == "list":
            made.add_argument("prefix", metavar="PREFIX", nargs="?", default="", help="only those that begin so")
        else:
            name = made.add_argument("name", metavar="NAME", help="such as busy_policy or llama.threads")
            name.completer = _complete_parameter
        if action == "set":
            made.add_argument(
                "value", metavar="VALUE", help="as in a parameter file (YAML): true, 3, 0.5, text, [a, b]"
            )
        arguments.add_node(made)

    lifecycle = command("lifecycle", _connected(_lifecycle), "Print the node's lifecycle state, or change it.")
    lifecycle.add_argument("transition", nargs="?", choices=_TRANSITIONS, help="what to do (default: print the state)")
    arguments.add_node(lifecycle)

    move = command("move", _connected(_move), "Move an object of the simulated camera's world, without physics.")
    move.add_argument("object", metavar="OBJECT", help="its name in the world file, such as red_box")
    move.add_argument("x", metavar="X", type=float, help="metres in the world frame, away from the camera")
    move.add_argument("y", metavar="Y", type=float, help="metres, to the camera's left")
    move.add_argument("yaw", metavar="YAW", type=float, nargs="?", default=0.0, help="radians about z")
    move.add_argument("--z", metavar="Z", type=float, help="metres, upwards (default: its height in the world file)")
    arguments.add_node(move, "/camera")


def _connected(run: Callable[[Connection, argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Return a command that connects to the node ``--node``, and prints a failure as ``ask`` does."""

    def run_connected(parsed: argparse.Namespace) -> int:
        from qwen3vl_ros.cli.connection import Connection

        arguments.interrupt_on_signals()
        with Connection(parsed.node, parsed.wait) as connection:  # discovery begins; meanwhile the rest is imported
            from qwen3vl_ros.cli.terminal import nobody_reads
            from qwen3vl_ros.client.exceptions import VlmError

            try:
                status = run(connection, parsed)
                sys.stdout.flush()
            except VlmError as error:
                print(f"{error.name}: {error}", file=sys.stderr)
                return error.exit_status
            except BrokenPipeError:
                return nobody_reads()
            return status

    return run_connected


def _chat(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.connection import Connection

    arguments.exit_on_signals()
    with Connection(parsed.node, parsed.wait) as connection:
        from qwen3vl_ros.cli.chat import Chat

        chat = Chat(
            connection,
            image=parsed.image,
            camera=parsed.camera,
            text_only=parsed.text_only,
            system_prompt=parsed.system,
            timeout=parsed.timeout,
            help_text=_CHAT,
        )
        return chat.run()


def _batch(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.batch import run_batch

    if not parsed.task and not parsed.prompt:
        print("batch needs --task NAME or --prompt TEXT: what is to be asked about each image.", file=sys.stderr)
        return 2
    question = {"prompt": parsed.prompt, "task": parsed.task, "slots": parsed.slots, "response_schema": parsed.json}
    return run_batch(
        connection.vlm_client(),
        parsed.inputs,
        parsed.out,
        question,
        concurrency=parsed.concurrency,
        retry=parsed.retry,
        timeout=parsed.timeout,
    )


def _status(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli import status

    return status.run(connection, as_json=parsed.json, watch=parsed.watch)


def _watch(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli import watch

    if parsed.list:
        return watch.show(connection, as_json=parsed.json)
    parsed.watch = watch_arguments.fields_of(parsed)
    return watch.run(connection, parsed)


def _engine(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli import engine

    if parsed.name or parsed.model or parsed.mmproj:
        return engine.change(connection, parsed.name, parsed.model, parsed.mmproj, parsed.grace or 0.0)
    return engine.show(connection)


def _reset_session(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.srv import ResetSession

    request = ResetSession.Request(session=parsed.name)
    response = connection.call(ResetSession, "reset_session", request, patience=connection.wait)
    print(response.message, file=sys.stdout if response.success else sys.stderr)
    return 0 if response.success else 1


def _get_parameter(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.parameters import NodeParameters

    return NodeParameters(connection).show(parsed.name)


def _set_parameter(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.parameters import NodeParameters

    return NodeParameters(connection).change(parsed.name, parsed.value)


def _list_parameters(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.parameters import NodeParameters

    return NodeParameters(connection).list_all(parsed.prefix)


def _lifecycle(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli import lifecycle

    return lifecycle.change(connection, parsed.transition) if parsed.transition else lifecycle.show(connection)


def _move(connection: Connection, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli import move

    return move.move(connection, parsed.object, parsed.x, parsed.y, parsed.z, parsed.yaw)


def _concurrency(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError("a number from 1 to 64 is needed")
    return int(text)


def _complete_engine(**_: Any) -> list[str]:
    from qwen3vl_ros.engines.registry import available

    return ["auto", *available()]


def _complete_parameter(parsed_args: argparse.Namespace, **_: Any) -> list[str]:
    """Return the names in the parameter file of the node, which is not asked: a shell does not wait for one."""
    import yaml
    from ament_index_python.packages import get_package_share_path

    kind = parsed_args.node.rpartition("/")[2]
    file = get_package_share_path("qwen3vl_ros") / "config" / f"{kind}.yaml"
    if not file.exists():
        return []
    (content,) = yaml.safe_load(file.read_text(encoding="utf-8")).values()
    return list(_flat(content["ros__parameters"]))


def _flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key, value in tree.items():
        names += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return names
