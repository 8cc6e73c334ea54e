"""The services AddWatch, RemoveWatch, ListWatches and MuteWatch, the topic ~/watch_events, the parameter `watches`."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import Executor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from qwen3vl_ros import defect
from qwen3vl_ros.client.exceptions import BadRequest as BadArgument
from qwen3vl_ros.client.watch_message import build_watch
from qwen3vl_ros.engines.base import BadRequest
from qwen3vl_ros.msg import WatchEvent
from qwen3vl_ros.prompts.tasks import Tasks
from qwen3vl_ros.ros.requests import REQUESTS
from qwen3vl_ros.srv import AddWatch, ListWatches, MuteWatch, RemoveWatch
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.job import GoalResult
from qwen3vl_ros.vlm.parameters import Settings
from qwen3vl_ros.vlm.scheduler import Scheduler
from qwen3vl_ros.vlm.watches import Watches

if TYPE_CHECKING:
    from qwen3vl_ros.vlm.watch_webhook import Webhook

_EVENTS = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""A subscriber that asks for it gets the last events at once: what is sent before it is discovered is not lost."""


class WatchServices:
    """Serves the watches of ``node``. Methods run on the executor's thread.

    Args:
        node: Has the services.
        executor: Spins it.
        group: Of the services.
        settings: Returns the node's parameters.
        tasks: Returns the tasks that a watch may name.
        scheduler: Returns what answers questions; None while the node is not active.
        deadlines: End questions that take too long.
        on_change: Called when there are more or fewer watches.
        on_answer: Takes the result of each question.
        log_error: Takes a sentence.
    """

    def __init__(
        self,
        node: Node,
        executor: Executor,
        group: CallbackGroup,
        settings: Callable[[], Settings],
        tasks: Callable[[], Tasks],
        scheduler: Callable[[], Scheduler | None],
        deadlines: Deadlines,
        on_change: Callable[[], None],
        on_answer: Callable[[GoalResult], None],
        log_error: Callable[[str], None],
    ) -> None:
        self._executor = executor
        self._settings = settings
        self._scheduler = scheduler
        self._log_error = log_error
        self._checker = ThreadPoolExecutor(1, "check-watches")  # a schema or a reference may take long
        self._webhook: Webhook | None = None
        self._events = node.create_publisher(WatchEvent, "~/watch_events", _EVENTS)
        self.watches = Watches(
            settings, tasks, deadlines, node.get_clock().now, self._publish, on_change, on_answer, log_error
        )
        serve = functools.partial(node.create_service, qos_profile=REQUESTS, callback_group=group)
        serve(AddWatch, "~/add_watch", self._add)
        serve(RemoveWatch, "~/remove_watch", self._remove)
        serve(ListWatches, "~/list_watches", self._list)
        serve(MuteWatch, "~/mute_watch", self._mute)

    def activate(self, scheduler: Scheduler) -> None:
        """Let the watches run, and add those of the parameter that do not run yet."""
        if address := self._settings().watch_webhook:
            self._webhook = _webhook(address, self._settings().watch_webhook_secret, self._log_error)
        self.watches.start(scheduler)
        self._checker.submit(self._add_standing, scheduler)

    def deactivate(self) -> None:
        """Let the watches rest until the node is active again."""
        self.watches.stop()
        webhook, self._webhook = self._webhook, None
        if webhook is not None:
            webhook.close()

    def clear(self) -> None:
        """Forget all watches."""
        self.watches.remove("")

    def close(self) -> None:
        """End the thread that checks watches."""
        self._checker.shutdown(wait=False)

    def _publish(self, event: Any) -> None:
        self._events.publish(event)
        webhook = self._webhook
        if webhook is not None:
            webhook.put(event)

    def _add_standing(self, scheduler: Scheduler) -> None:
        for number, text in enumerate(filter(None, self._settings().watches)):
            try:
                watch = _of_json(text, f"standing_{number}")
                self.watches.add(watch, scheduler)
            except (BadRequest, BadArgument) as error:
                self._log_error(f"the parameter watches: number {number} is not watched: {error}")

    async def _add(self, request: AddWatch.Request, response: AddWatch.Response) -> AddWatch.Response:
        scheduler = self._scheduler()
        if scheduler is None:
            response.message = "the node is not active: activate it first"
            return response
        added: Future[tuple[str, str]] = Future(executor=self._executor)

        def add() -> None:
            added.set_result(self._try_to_add(request.watch, scheduler))
            self._executor.wake()  # it may be waiting for messages

        self._checker.submit(add)
        outcome = await added
        assert outcome is not None
        response.watch_id, response.message = outcome
        response.success = not response.message
        return response

    def _try_to_add(self, watch: Any, scheduler: Scheduler) -> tuple[str, str]:
        """Return the identifier, and why it was not added."""
        try:
            return self.watches.add(watch, scheduler), ""
        except BadRequest as error:
            return "", str(error)
        except Exception as error:  # noqa: BLE001 the caller must get a response
            sentence = defect(f"{type(error).__name__}: {error}")
            self._log_error(sentence)
            return "", sentence

    def _remove(self, request: RemoveWatch.Request, response: RemoveWatch.Response) -> RemoveWatch.Response:
        response.success, response.message = _outcome(request.watch_id, self.watches.remove(request.watch_id), "ended")
        return response

    def _mute(self, request: MuteWatch.Request, response: MuteWatch.Response) -> MuteWatch.Response:
        done = "muted" if request.muted else "not muted any more"
        count = self.watches.mute(request.watch_id, request.muted)
        response.success, response.message = _outcome(request.watch_id, count, done)
        return response

    def _list(self, _request: ListWatches.Request, response: ListWatches.Response) -> ListWatches.Response:
        response.watches = self.watches.states()
        return response


def _webhook(address: str, secret_file: str, log_error: Callable[[str], None]) -> Webhook | None:
    """Begin to post events; None, and a sentence in the log, where they cannot be posted."""
    from qwen3vl_ros.vlm.watch_webhook import Webhook, WebhookError, read_secret  # an HTTP client, which few need

    try:
        return Webhook(address, read_secret(secret_file), log_error)
    except WebhookError as error:
        log_error(f"events of watches are not posted: {error}")
        return None


def _outcome(watch_id: str, count: int, done: str) -> tuple[bool, str]:
    """Return whether there was such a watch, and a sentence."""
    if watch_id and not count:
        return False, f"there is no watch {watch_id!r:.150}; the service list_watches has all"
    return True, f"{watch_id or f'{count} watches'}: {done}"


def _of_json(text: str, name: str) -> Any:
    """Return the watch of an entry of the parameter; raises :class:`BadArgument`."""
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise BadArgument(f"it is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BadArgument('a watch is a JSON object, such as {"prompt": "Is the door open?"}')
    return build_watch(**{"watch_id": name, **fields})
