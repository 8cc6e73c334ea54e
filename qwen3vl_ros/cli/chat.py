"""`qwen3vl-ros chat`: asks one question after the other, each of which may refer to those before it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qwen3vl_ros.cli.connection import StatusReader
from qwen3vl_ros.cli.terminal import ask_on_terminal, print_dim, tasks_on_terminal
from qwen3vl_ros.client import ServerUnavailable
from qwen3vl_ros.msg import ChatMessage

if TYPE_CHECKING:
    from types import ModuleType

    from qwen3vl_ros.cli.connection import Connection
    from qwen3vl_ros.client.answer import Answer
    from qwen3vl_ros.client.goal import Arguments

_PROMPT = "> "
_KEPT_LINES = 1000


class Chat:
    """A conversation with the node at the other end of ``connection``.

    Args:
        connection: To the node.
        image: File to ask about; None = the camera.
        camera: Its name; "" = the node's first one.
        text_only: Ask without any image.
        system_prompt: Precedes the conversation; "" = the node's own.
        timeout: Seconds for each answer.
        help_text: What /help prints.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        image: str | None,
        camera: str,
        text_only: bool,
        system_prompt: str,
        timeout: float,
        help_text: str,
    ) -> None:
        self._client = connection.vlm_client()
        self._reader = StatusReader(connection)
        self._image = image
        self._camera = camera
        self._text_only = text_only
        self._system_prompt = system_prompt
        self._timeout = timeout
        self._help_text = help_text
        self._turns: list[ChatMessage] = []
        self._told_afresh = False
        self._told: set[str] = set()

    def run(self) -> int:
        """Ask until the input ends; return the exit status: that of the last question that failed, 0 if none did."""
        status = 0
        with _lines() as lines:
            try:
                for line in lines:
                    if line.strip() in ("/quit", "/exit"):
                        break
                    status = self._do(line.strip()) or status
                    if status == 141:  # nobody reads the answers
                        break
            except KeyboardInterrupt:  # at the prompt, or a second one during an answer
                return 130
        return status

    def _do(self, line: str) -> int:
        """Do what a line says; return the exit status of that."""
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        if not line:
            return 0
        if not line.startswith("/"):
            return self._ask(line)
        if command == "/task":
            return self._ask_task(*rest.split(maxsplit=1))
        if command == "/image":
            return self._look_at(rest)
        if command == "/new":
            self._turns.clear()
            return 0
        if command == "/help":
            print(self._help_text, end="", file=sys.stderr)
            return 0
        print(f"There is no {command}; /help lists what there is.", file=sys.stderr)
        return 2

    def _look_at(self, file: str) -> int:
        """Begin a conversation about an image, or about the camera without one."""
        path = Path(file).expanduser()
        if file and not path.is_file():
            print(f"The image {file} cannot be read: there is no such file.", file=sys.stderr)
            return 2
        self._image = str(path) if file else None
        self._turns.clear()
        return 0

    def _ask_task(self, name: str = "", text: str = "") -> int:
        """Ask a ready-made task, which knows nothing of the conversation; without a name, list them."""
        if not name:
            return tasks_on_terminal(self._client)
        return self._send(text, {"task": name, **self._view()})[1]

    def _ask(self, question: str) -> int:
        """Ask a question of the conversation, and remember it with its answer."""
        if not self._knows_conversation():
            return self._send(question, self._view())[1]
        answer, status = self._send(question, {"history": self._turns, **self._view(follow_up=bool(self._turns))})
        if answer is not None:
            images = [""] if self._image is not None and not self._turns else []
            self._turns.append(ChatMessage(role=ChatMessage.USER, content=[*images, question]))
            self._turns.append(ChatMessage(role=ChatMessage.ASSISTANT, content=[answer.text]))
        return status

    def _send(self, prompt: str, arguments: Arguments) -> tuple[Answer | None, int]:
        arguments |= {"system_prompt": self._system_prompt, "timeout": self._timeout}
        return ask_on_terminal(self._client, prompt, told=self._told, **arguments)

    def _view(self, *, follow_up: bool = False) -> Arguments:
        """Return what a question is about. A file belongs to the first turn: a later one has no image of its own."""
        if self._image is not None:
            return {"images": [self._image], "text_only": follow_up}
        return {"cameras": [self._camera] if self._camera else [], "text_only": self._text_only}

    def _knows_conversation(self) -> bool:
        """Return whether the node's model understands follow-up questions; say once that it does not."""
        with contextlib.suppress(ServerUnavailable):  # asking says so, too
            if self._reader.first().model_card.conversation:
                return True
            if not self._told_afresh:
                self._told_afresh = True
                print_dim("This model does not follow a conversation: each question is asked afresh.")
            return False
        return True


@contextlib.contextmanager
def _lines() -> Iterator[Iterator[str]]:
    """Read the user's lines: with a prompt, editing and history on a terminal, as they are from a pipe."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield iter(sys.stdin)
        return
    with _history():
        yield _typed()


def _typed() -> Iterator[str]:
    while True:
        try:
            line = input(_PROMPT)
        except EOFError:
            print()
            return
        yield line


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Keep the lines for the next chat, as shells do, if this Python has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    file = Path(state) / "qwen3vl_ros" / "chat_history"
    readline.set_history_length(_KEPT_LINES)
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        _save(readline, file)


def _save(readline: ModuleType, file: Path) -> None:
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        readline.write_history_file(file)
