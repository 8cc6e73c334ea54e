"""The command `qwen3vl-ros`. Sub-commands import heavy modules only when they run, so that --help is instant."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwen3vl_ros.cli import arguments, camera, clip_files, index_commands, model, node_commands, record

if TYPE_CHECKING:
    from qwen3vl_ros.cli.connection import Connection

_EXIT = """exit status:
  0 answered            4 no frame of the camera       7 the engine failed
  1 any other failure   5 the time ran out           130 cancelled (Ctrl-C)
  2 wrong usage         6 the node is busy
  3 no node answers
"""

_PASS_ON = ("node", "camera", "web", "engines")
"""Sub-commands whose arguments are passed unchanged to a ROS node."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in _PASS_ON and not {"-h", "--help"} & set(words):
        return _engines(words[1:]) if words[0] == "engines" else _node(words[0], words[1:])
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell wants the words that may come next
        with contextlib.suppress(ImportError):  # not installed: the shell completes nothing
            import argcomplete

            argcomplete.autocomplete(parser)
    parsed = parser.parse_args(words)
    if words[:1] == ["demo"] and not parsed.keep and (parsed.port or parsed.phone is not None):
        parser.error("--port and --phone are for demo --keep, which has a page")
    if words[:1] == ["ask"] and not parsed.prompt and not parsed.task:
        parser.error("ask needs a PROMPT, or --task NAME for a task that needs none")
    if words[:1] == ["ask"]:
        index_commands.check_ask_options(parser, parsed)
        if parsed.index is None:
            clip_files.check_options(parser, parsed)
    if "run" not in parsed:
        parser.print_help()
        return 2
    try:
        status: int = parsed.run(parsed)
    except KeyboardInterrupt:
        return 130
    return status


class _Version(argparse.Action):
    """Prints the version, which takes some milliseconds to find."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        import qwen3vl_ros

        print(f"qwen3vl-ros {qwen3vl_ros.__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qwen3vl-ros",
        description="Ask a robot's cameras questions with Qwen3-VL.",
        epilog=_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def command(name: str, run: Any, text: str, **more: Any) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=text, description=text, allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter, **more,
        )  # fmt: skip
        made.set_defaults(run=run)
        return made

    ask = command("ask", _ask, "Ask a question; the answer streams to stdout, its cost goes to stderr.", epilog=_EXIT)
    ask.add_argument(
        "prompt", metavar="PROMPT", nargs="?", default="", help="the question, or what the task is about; - reads stdin"
    )
    ask.add_argument(
        "--task",
        metavar="NAME",
        default="",
        help="a ready-made task: locate, count, ocr, ...; `qwen3vl-ros tasks` has all",
    )
    ask.add_argument(
        "--slots",
        metavar="JSON",
        type=arguments.slots,
        help='other slots of the task: \'{"labels": ["open", "shut"]}\'',
    )
    ask.add_argument(
        "--image", metavar="FILE", action="append", default=[], help="ask about this image (repeatable), not a camera"
    )
    ask.add_argument(
        "--camera", metavar="NAME", action="append", default=[], help="look through this camera (repeatable)"
    )
    ask.add_argument(
        "--text-only",
        action="store_true",
        help="ask without any image; with --session, about the images of the conversation",
    )
    ask.add_argument(
        "--session", metavar="NAME", default="", help="continue, or begin, a conversation that the node keeps"
    )
    clip_files.add_options(ask)
    index_commands.add_ask_options(ask)
    ask.add_argument(
        "--json", metavar="SCHEMA", type=arguments.schema, help="JSON Schema, a file or the text: answer as JSON"
    )
    ask.add_argument("--system", metavar="TEXT", default="", help="instruction that precedes the question")
    ask.add_argument(
        "--timeout", metavar="S", type=arguments.seconds, default=120.0, help="seconds for the answer (default 120)"
    )
    ask.add_argument(
        "--max-frame-age", metavar="S", type=arguments.seconds, help="use no frame older than this many seconds"
    )
    ask.add_argument(
        "--new-pixels", action="store_true", help="read this moment's image even if the camera stands still"
    )
    ask.add_argument(
        "--clip", metavar="S", type=arguments.seconds, help="ask about the camera's last S seconds, not about one frame"
    )
    ask.add_argument(
        "--clip-end",
        metavar="T",
        type=arguments.moment,
        help="with --clip, where it ends: seconds before now, such as -20, or a stamp (default: now)",
    )
    ask.add_argument(
        "--clip-frames",
        metavar="N",
        type=int,
        default=0,
        help="frames of it, or of --video or --bag, that the model sees (default: the node's; of a recording 8)",
    )
    ask.add_argument(
        "--clip-pick",
        choices=("even", "change"),
        default="",
        help="which: evenly spread, or where the image changed most (default: even)",
    )
    ask.add_argument(
        "--score-threshold",
        metavar="P",
        type=float,
        help="leave out regions of a lower score, 0 to 1 (default: the task's)",
    )
    ask.add_argument(
        "--target-frame",
        metavar="FRAME",
        default="",
        help="tf frame of positions, such as base_link (default: the node's, else the camera's optical frame)",
    )
    ask.add_argument("--max-tokens", metavar="N", type=int, help="tokens to generate at most")
    ask.add_argument(
        "--max-image-tokens",
        metavar="N|auto",
        type=arguments.image_tokens,
        default=0,
        help="tokens of an image at most; auto = as many as --timeout allows (default: the task's or the engine's)",
    )
    ask.add_argument(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        help="have the model think before it answers, or answer at once, where it can do either",
    )
    ask.add_argument(
        "--max-reasoning-tokens", metavar="N", type=int, default=0, help="tokens to think at most; then it answers"
    )
    ask.add_argument("--temperature", metavar="T", type=float, help="0 = always the likeliest token")
    ask.add_argument("--seed", metavar="N", type=int, help="same seed, question and image: same answer")
    ask.add_argument("--priority", metavar="N", type=int, default=0, help="0 to 255; higher is served first")
    arguments.add_node(ask)

    tasks = command("tasks", _tasks, "List the ready-made tasks that the running node knows, with what each takes.")
    tasks.add_argument(
        "names", metavar="NAME", nargs="*", help="only these (default: all, those of the node's task_files among them)"
    )
    arguments.add_node(tasks)
    node_commands.add(command)
    record.add(command)

    demo = command("demo", _demo, "Start node and simulated camera, ask about what it sees, leave demo.png.")
    demo.add_argument("--keep", action="store_true", help="leave node and camera running until Ctrl-C")
    demo.add_argument(
        "--camera",
        metavar="SOURCE",
        default="",
        help="a webcam's number, a video file, a stream's address or a folder of images, not the simulated camera",
    )
    demo.add_argument(
        "--phone",
        metavar="ADDRESS",
        nargs="?",
        const="",
        help="with --keep, let a phone open the page by a QR code, over https and with a token; ADDRESS: this "
        "machine's, where it has several",
    )
    demo.add_argument(
        "--port",
        metavar="N",
        type=arguments.port,
        help="port of the page, with --keep (default 8080, or a free one)",
    )
    demo.add_argument(
        "--model", metavar="GGUF", default="", help="use this model, not the one that ships with the package"
    )
    demo.add_argument("--mmproj", metavar="GGUF", default="", help="and this projector (default: the one beside it)")
    demo.add_argument("--output", metavar="PNG", type=Path, default=Path("demo.png"), help="where the image goes")

    model.add_commands(command("model", _doctor, "List the published models, get one, switch to it, remove it."))
    download = command("download", _download, "Download a GGUF model and its projector, or an OpenVINO model.")
    download.add_argument("repo", metavar="REPO", help="such as Qwen/Qwen3-VL-2B-Instruct-GGUF")
    download.add_argument(
        "--from", dest="hub", choices=("huggingface", "modelscope"), default="huggingface", help="where to download"
    )
    download.add_argument("--quant", metavar="Q", default="", help="quantisation of the model (default Q4_K_M)")
    download.add_argument(
        "--mmproj-quant", metavar="Q", default="", help="of the projector (default: what suits this CPU)"
    )
    download.add_argument(
        "--dir", metavar="DIR", type=Path, help="put the files into DIR/REPO, not into the Hugging Face cache"
    )
    download.add_argument("--revision", metavar="REV", default="", help="branch, tag or commit (default: the newest)")

    for name, text in (
        ("node", "Run the node vlm; arguments go to ROS: --ros-args -p llama.model:=FILE -r image:=/camera/image_raw"),
        ("web", "Run the HTTP gateway and the page; arguments go to ROS: --ros-args -p port:=8080"),
        (
            "engines",
            "List the engines: which can be used here, which one auto takes, and why not the others. Parameters go to "
            "ROS as those of the node do: --ros-args --params-file vlm.yaml",
        ),
    ):
        # argparse handles only their --help.
        command(name, _doctor, text).usage = f"qwen3vl-ros {name} [--ros-args ...]"
    camera.add_options(command("camera", _doctor, camera.TEXT, usage=camera.USAGE))
    command("doctor", _doctor, "Say what is there and what is missing to run the demo.")
    return parser


def _ask(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.connection import Connection

    arguments.interrupt_on_signals()
    with Connection(parsed.node, parsed.wait) as connection:  # discovery begins; meanwhile the rest is imported
        from qwen3vl_ros.cli.terminal import ask_on_terminal
        from qwen3vl_ros.client.exceptions import VlmError

        try:
            recorded, note = clip_files.images_of(parsed)
        except VlmError as error:
            print(f"{error.name}: {error}", file=sys.stderr)
            return error.exit_status
        if note:
            print(note, file=sys.stderr)
        prompt = sys.stdin.read() if parsed.prompt == "-" else parsed.prompt
        if parsed.index is not None:
            return _ask_index(connection, prompt, parsed)
        _, status = ask_on_terminal(
            connection.vlm_client(),
            prompt,
            **({"images": parsed.image or None, "clip_frames": parsed.clip_frames} | recorded),
            cameras=parsed.camera,
            text_only=parsed.text_only,
            session=parsed.session,
            task=parsed.task,
            slots=parsed.slots,
            system_prompt=parsed.system,
            response_schema=parsed.json,
            timeout=parsed.timeout,
            max_frame_age=parsed.max_frame_age,
            new_pixels=parsed.new_pixels,
            clip_duration=parsed.clip,
            clip_end=parsed.clip_end,
            clip_pick=parsed.clip_pick,
            max_tokens=parsed.max_tokens,
            max_image_tokens=parsed.max_image_tokens,
            score_threshold=parsed.score_threshold,
            target_frame=parsed.target_frame,
            thinking=parsed.thinking,
            max_reasoning_tokens=parsed.max_reasoning_tokens,
            temperature=parsed.temperature,
            seed=parsed.seed,
            priority=parsed.priority,
        )
        return status


def _ask_index(connection: Connection, prompt: str, parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.index_ask import DEFAULT_FRAMES, ask_index
    from qwen3vl_ros.cli.terminal import nobody_reads
    from qwen3vl_ros.client.exceptions import VlmError

    names = ("timeout", "max_tokens", "max_image_tokens", "thinking", "max_reasoning_tokens", "temperature", "seed")
    try:
        status = ask_index(
            connection,
            prompt,
            parsed.index,
            frames=parsed.clip_frames or DEFAULT_FRAMES,
            save_frames=parsed.save_frames,
            options={name: getattr(parsed, name) for name in (*names, "priority")},
        )
        sys.stdout.flush()
    except BrokenPipeError:
        return nobody_reads()
    except VlmError as error:
        print(f"{error.name}: {error}", file=sys.stderr)
        return error.exit_status
    return status


def _tasks(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.connection import Connection

    with Connection(parsed.node, parsed.wait) as connection:
        from qwen3vl_ros.cli.terminal import tasks_on_terminal

        return tasks_on_terminal(connection.vlm_client(), parsed.names)


def _demo(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.demo import run_demo

    arguments.interrupt_on_signals()
    return run_demo(
        parsed.output,
        keep=parsed.keep,
        model=parsed.model,
        mmproj=parsed.mmproj,
        source=parsed.camera,
        port=parsed.port,
        phone_address=parsed.phone,
    )


def _download(parsed: argparse.Namespace) -> int:
    from qwen3vl_ros.cli.download import download
    from qwen3vl_ros.cli.hubs import DownloadError
    from qwen3vl_ros.cli.model import OPENVINO_NEEDS

    try:
        files = download(
            parsed.repo,
            hub=parsed.hub,
            quant=parsed.quant,
            mmproj_quant=parsed.mmproj_quant,
            directory=parsed.dir,
            revision=parsed.revision,
            report=lambda sentence: print(sentence, file=sys.stderr),
        )
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again: it goes on where it stopped.", file=sys.stderr)
        return 130
    model, mmproj = files.model.absolute(), files.mmproj.absolute() if files.mmproj else None
    if files.engine == "openvino":
        node = f"qwen3vl-ros node --ros-args -p engine:=openvino -p openvino.model:={model}"
        launch = f"ros2 launch qwen3vl_ros vlm.launch.py engine:=openvino model:={model}"
    else:
        node = f"qwen3vl-ros node --ros-args -p llama.model:={model}"
        node += f" -p llama.mmproj:={mmproj}" if mmproj else ""
        launch = f"ros2 launch qwen3vl_ros vlm.launch.py model:={model}" + (f" mmproj:={mmproj}" if mmproj else "")
    print(f"{node}\n{launch}")
    print("Checked and complete. Start the node with either of the commands above.", file=sys.stderr)
    if files.engine == "openvino":
        print(OPENVINO_NEEDS, file=sys.stderr)
    elif mmproj is None:
        print(
            f"{parsed.repo} has no projector (mmproj), without which the node refuses images: this model answers text "
            "only. A projector comes with the model's official repository, such as Qwen/Qwen3-VL-2B-Instruct-GGUF for "
            "the 2B: download that, or put its mmproj file beside this model.",
            file=sys.stderr,
        )
    return 0


def _engines(words: list[str]) -> int:
    import rclpy
    from rclpy.node import Node

    from qwen3vl_ros.engines.probing import Probe
    from qwen3vl_ros.engines.registry import available
    from qwen3vl_ros.ros.parameters import ParameterError
    from qwen3vl_ros.vlm import parameters

    rclpy.init(args=["vlm", *words])
    node = Node("vlm", start_parameter_services=False)
    try:
        settings = parameters.declare(node)
        names = dict.fromkeys((*settings.engines, *sorted(available())))
        specs = [parameters.engine_spec(node, settings, name) for name in names]
    except ParameterError as error:
        print(f"engines: {error}", file=sys.stderr)
        return 1
    finally:
        node.destroy_node()
        rclpy.shutdown()
    chosen = ""
    for finding in Probe(specs):
        verdict = {True: "yes", False: "no", None: "not now"}[finding.usable]
        print(f"{finding.name:10} {verdict:8} {finding.sentence}", flush=True)
        if finding.usable and not chosen and finding.name in settings.engines:
            chosen = finding.name
    print(f"\nengine auto takes {chosen or 'none of them'}; order: {', '.join(settings.engines)}")
    return 0 if chosen else 1


def _doctor(_: argparse.Namespace) -> int:
    from qwen3vl_ros.cli import doctor

    return doctor.main()


def _node(name: str, words: list[str]) -> int:
    from qwen3vl_ros.ros.fast_dds import package_profile

    if name == "camera":
        words = camera.ros_arguments(words)
    os.environ.update(package_profile())
    if name == "node":
        from qwen3vl_ros.vlm import node as vlm

        return vlm.main(["vlm", *words])
    if name == "web":
        from qwen3vl_ros.gateway import node as web

        return web.main(["web", *words])
    from qwen3vl_ros.sim import camera_node

    return camera_node.main(["camera", *words])


if __name__ == "__main__":
    sys.exit(main())
