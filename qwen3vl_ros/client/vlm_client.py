"""VlmClient itself: asks, waits, streams. Everything public is in :mod:`qwen3vl_ros.client`."""

from __future__ import annotations

import atexit
import itertools
import os
import threading
import uuid
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rclpy.exceptions import InvalidHandle

from qwen3vl_ros.client.answer import Answer
from qwen3vl_ros.client.answer_future import AnswerFuture, AnswerStream
from qwen3vl_ros.client.found import Found, find_question, found_in_answer
from qwen3vl_ros.client.goal import DEFAULT_TIMEOUT, build_goal
from qwen3vl_ros.client.goal_tracker import GoalTracker
from qwen3vl_ros.client.service_call import ServiceCaller
from qwen3vl_ros.client.session import Session
from qwen3vl_ros.client.tasks import Task, TaskList
from qwen3vl_ros.client.watch import Watching
from qwen3vl_ros.client.watch_message import build_watch
from qwen3vl_ros.ros.background_node import BackgroundNode
from qwen3vl_ros.ros.polling_subscription import RclError
from qwen3vl_ros.srv import ResetSession

if TYPE_CHECKING:
    from rclpy.node import Node
    from typing_extensions import Unpack

    from qwen3vl_ros.client.goal import Arguments

_number = itertools.count()


class VlmClient:
    """Asks the vlm node questions. Thread-safe; several questions may be open at once.

    Close it, or use it in a ``with`` block. Tokens bypass the executor: the client's reader thread receives them.

    Args:
        node: a node that the caller spins; its executor delivers the replies (the client never spins it). None: the
            client owns a node and a thread that spins it.
        node_name: name of the vlm node; relative to the namespace of ``node`` (or to ``namespace``, without one), so
            that a behaviour in /robot1 asks /robot1/vlm; with a leading slash, absolute.
        namespace: of the client's own node, without a ``node``.
        server_timeout: seconds to find a node, and as many for it to accept a question.
        grace: seconds after a question's own timeout for which its result is still awaited.
    """

    def __init__(
        self,
        node: Node | None = None,
        *,
        node_name: str = "vlm",
        namespace: str = "",
        server_timeout: float = 5.0,
        grace: float = 5.0,
    ) -> None:
        self._node = node
        self._node_name = node_name
        self._task_list: TaskList | None = None
        self._resetting: ServiceCaller | None = None
        self._making = threading.Lock()
        self._server_timeout = server_timeout
        self._grace = grace
        self._background = (
            BackgroundNode(f"vlm_client_{os.getpid()}_{next(_number)}", namespace) if node is None else None
        )
        self._tracker = GoalTracker(node or self._background_node, f"{node_name}/ask_image", server_timeout)
        if self._background is not None:
            self._background.start()
        atexit.register(self.close)  # no thread may wait in the middleware while the interpreter shuts down

    @property
    def _background_node(self) -> Node:
        assert self._background is not None
        return self._background.node

    @property
    def node(self) -> Node:
        """The ROS node that the client uses: the one that it was given, or its own."""
        return self._node or self._background_node

    @property
    def action(self) -> str:
        """Full name of the action."""
        return self._tracker.action

    def ask(self, prompt: str, **arguments: Unpack[Arguments]) -> Answer:
        """Ask and wait for the whole answer; raises a :class:`VlmError`, such as WouldDeadlock where it must not wait.

        Arguments, all optional, of :meth:`ask`, :meth:`stream` and :meth:`send`:

        ``images``: one image or several instead of the camera: numpy uint8 [height, width, 3] RGB or grey
        [height, width], a PIL image, a file path, the bytes of a file, sensor_msgs Image or CompressedImage. None, the
        default, asks the camera; an empty list is refused.
        ``cameras``: names of cameras to look through; default the node's first one.
        ``text_only``: True to ask without any image; in a session, about the images of the conversation.
        ``task``: name of a ready-made task, whose main slot ``prompt`` fills; ``slots``: its other slots by name.
        ``session``: name of a conversation that the node keeps, which this question continues or begins.
        ``system_prompt``, ``history`` (ChatMessage.msg): as in AskImage.action.
        ``response_schema``: JSON Schema (dict or JSON text) that the answer must satisfy; see ``Answer.json``.
        ``temperature``, ``top_p``, ``top_k``, ``min_p``, ``repetition_penalty``, ``presence_penalty``,
        ``frequency_penalty``, ``seed``, ``max_tokens``, ``stop``: as in GenerationOptions.msg; None = the node's own
        value. ``thinking``: whether the model thinks first; None = as it does by itself. ``max_reasoning_tokens``:
        tokens after which it has to answer; 0 = the node's own limit. ``max_image_tokens``: tokens that an image may
        take at most, "auto" = as many as leave the answer its time within ``timeout``; 0 = the task's number, else the
        engine's own.
        ``score_threshold``: regions whose score is lower are left out; 0 = none, None = the task's.
        ``target_frame``: tf frame of positions, such as "base_link"; "" = the node's, else the camera's optical frame.
        ``priority``: 0 to 255, higher is served first.
        ``timeout``: seconds from the question's acceptance, its time in the queue included (default 60).
        ``not_before``: use no frame stamped earlier than this (builtin_interfaces or rclpy Time, or seconds); of a
        camera without stamps, or whose stamps are of another clock, no frame that came earlier.
        ``max_frame_age``: seconds; use no frame older than this.
        ``new_pixels``: True to have the model read this moment's pixels, whatever the camera's ``reuse_tolerance``.
        ``clip_duration``: seconds; ask about a clip of the camera's last frames, or of those until ``clip_end`` (as
        ``not_before``). ``images_are_clip``: True to ask about ``images`` as a clip: messages, whose stamps are its
        times, such as :func:`clip_of_video` and :func:`clip_of_bag` return. ``clip_frames``: how many frames the model
        sees, 0 = the node's own number; ``clip_pick``: "even" or "change", where the image changed most.

        Interrupted (Ctrl-C), it cancels the question and passes the interruption on.
        """
        self._tracker.check_may_block()
        future = self.send(prompt, **arguments)
        try:
            return future.result()
        finally:
            if not future.done():
                future.cancel()

    def stream(self, prompt: str, **arguments: Unpack[Arguments]) -> AnswerStream:
        """Ask and iterate over the text as it is generated; ``.answer`` is the whole answer afterwards.

        for piece in (stream := client.stream("What do you see?")):
            print(piece, end="", flush=True)
        print(stream.answer.usage)

        Leaving the loop early cancels the question. Arguments as for :meth:`ask`.
        """
        self._tracker.check_may_block()
        return AnswerStream(self.send(prompt, **arguments))

    def send(self, prompt: str, **arguments: Unpack[Arguments]) -> AnswerFuture:
        """Ask and return at once; check ``done()`` and ``text`` of the future, for example once per tick.

        Works in every callback. Raises only :class:`BadRequest`. Arguments as for :meth:`ask`.
        """
        goal = build_goal(prompt, **arguments)
        timeout = arguments.get("timeout", DEFAULT_TIMEOUT)
        future = AnswerFuture(self._tracker, prompt, timeout, self._grace, self._server_timeout)
        self._tracker.send(future, goal)
        return future

    def find(self, name: str, *, frame: str = "", **arguments: Unpack[Arguments]) -> Found:
        """Ask where ``name`` is, and return its position, or the reason why there is none.

        found = client.find("red ball", frame="map", timeout=20.0)
        print(found.position if found else found.reason)

        Args:
            name: what to look for, in words, such as "red ball".
            frame: tf frame of the position; "" = that of the camera, or the node's parameter ``target_frame``.
            **arguments: those of :meth:`ask`: ``timeout``, ``cameras``, ... ``score_threshold``: what the model is less
                sure of, 0..1, does not count as found; None = the task's.

        Blocks, and raises a :class:`VlmError` where the question itself fails, as :meth:`ask` does. For what ticks:
        :func:`find_question` and :func:`found_in_answer`.
        """
        prompt, asked = find_question(name, frame=frame, **arguments)
        return found_in_answer(self.ask(prompt, **asked), name, frame, arguments.get("score_threshold"))

    def tasks(self, timeout: float | None = None) -> tuple[Task, ...]:
        """Return the node's tasks, those of the user's files included; () while it is unconfigured.

        Blocks; raises ServerUnavailable or NotSpinning after ``timeout`` (default server_timeout) seconds, Cancelled
        when ROS is shut down or the ROS node destroyed.
        """
        self._tracker.check_usable()
        self._tracker.check_may_block()
        try:
            with self._making:
                if self._task_list is None:
                    self._task_list = TaskList(self.node, self._node_name)
            return self._task_list.ask(self._server_timeout if timeout is None else timeout)
        except (InvalidHandle, RclError):
            self._tracker.check_usable()
            raise

    def session(self, name: str = "") -> Session:
        """Return a conversation that the node keeps, to ask in; "" = a new one with a name that nobody else has.

        with client.session() as session:
            session.ask("What is on the table?")
            session.ask("Which of them is red?", text_only=True)  # the same image
        """
        return Session(self, name or f"session-{uuid.uuid4().hex}")

    def reset_session(self, name: str = "", timeout: float | None = None) -> None:
        """Have the node forget a conversation, if it keeps it; "" = all conversations of everybody.

        Blocks, and raises as :meth:`tasks` does.
        """
        self._tracker.check_usable()
        self._tracker.check_may_block()
        try:
            with self._making:
                if self._resetting is None:
                    self._resetting = ServiceCaller(self.node, ResetSession, f"{self._node_name}/reset_session")
            request = ResetSession.Request(session=name)
            self._resetting.call(request, self._server_timeout if timeout is None else timeout)
        except (InvalidHandle, RclError):
            self._tracker.check_usable()
            raise

    def watch(self, prompt: str = "", *, timeout: float | None = None, **arguments: Any) -> Watching:
        """Have the node ask ``prompt`` again and again, and tell when the condition becomes true or stops being true.

        with client.watch("Is the door open?", cooldown=5.0) as watch:
            for event in watch:
                print(event.kind, event.message)

        The end of the block removes the watch. Arguments: see :func:`qwen3vl_ros.client.watch_message.build_watch` and
        docs/watches.md. ``timeout``: seconds to find the node and to have its reply (default server_timeout).

        Blocks until the watch is added; raises BadRequest, ServerInactive, ServerUnavailable, NotSpinning.
        """
        message = build_watch(prompt, **arguments)
        self._tracker.check_usable()
        self._tracker.check_may_block()
        seconds = self._server_timeout if timeout is None else timeout
        return Watching(self.node, self._node_name, message, seconds)

    def wait_for_server(self, timeout: float | None = None) -> None:
        """Wait until a node serves the action; ServerUnavailable after ``timeout`` (default server_timeout) seconds.

        Raises Cancelled when ROS is shut down or the ROS node destroyed.
        Not needed before asking, since a question waits by itself.
        """
        self._tracker.wait_for_server(self._server_timeout if timeout is None else timeout)

    def close(self) -> None:
        """Cancel all open questions and free everything. Idempotent."""
        atexit.unregister(self.close)
        self._tracker.close()
        if self._background is not None:
            self._background.stop()
        elif self._node is not None and self._node.context.ok():
            services = (self._task_list, self._resetting)
            self._task_list = self._resetting = None
            for service in services:
                if service is not None:
                    service.close()

    def __enter__(self) -> VlmClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
