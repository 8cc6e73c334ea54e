"""The node ``web``: the HTTP gateway to a node ``vlm``, which may run on another host.

ROS runs on the thread "executor", HTTP on the asyncio loop of the thread "http"; the first notifies the second by
events, so neither waits for the other.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import rclpy
import rclpy.logging
import uvicorn
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from qwen3vl_ros.gateway.app import create_app
from qwen3vl_ros.gateway.logs import open_logs
from qwen3vl_ros.gateway.ros_backend import RosBackend
from qwen3vl_ros.gateway.settings import Settings, SettingsError, access, check_tls
from qwen3vl_ros.ros.parameters import declare
from qwen3vl_ros.ros.spinning import SpinThread
from qwen3vl_ros.ros.stop_signal import StopSignal

_GRACE = 1
"""Seconds that running responses have to end when the gateway stops."""

_BACKLOG = 2048
"""Connections that wait while the server starts or is busy; uvicorn's default."""

_KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients and proxies keep theirs, lest they send a request
while it is being closed."""


class Gateway:
    """A node, its backend, and the HTTP server in front of them."""

    def __init__(self) -> None:
        """Start to listen; nothing is answered before :meth:`serve`.

        Raises:
            ParameterError: A parameter is set to what it cannot be.
            SettingsError: The parameters together make no sense, or the port is taken.
            OSError: The logs cannot be written.
        """
        self.node = rclpy.create_node("web")
        settings = declare(self.node, Settings, read_only=True)
        allowed = access(settings)
        ros_logs = Path(str(rclpy.logging.get_logging_directory()))
        directory = Path(settings.log_directory or ros_logs / "qwen3vl_web").expanduser()
        open_logs(directory)
        check_tls(settings)
        self._socket = _listen(settings.host, settings.port)
        self.backend = RosBackend(self.node, settings.node_name)
        config = uvicorn.Config(
            create_app(self.backend, settings, allowed),
            log_config=None,
            access_log=False,
            proxy_headers=False,  # uvicorn's own implementation trusts every client on this machine
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
            timeout_keep_alive=_KEEP_ALIVE,
            ssl_certfile=settings.tls_certificate or None,
            ssl_keyfile=settings.tls_key or None,
        )
        self._server = uvicorn.Server(config)
        port = self._socket.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{'https' if settings.tls_key else 'http'}://{host}:{port}"
        self.node.get_logger().info(
            f"{address} asks {self.backend.vlm}; {_open_to(settings, allowed.token)}; logs: {directory}"
        )

    def serve(self) -> None:
        """Answer requests until :meth:`close`; blocks its thread."""
        self._server.run(sockets=[self._socket])

    def close(self) -> None:
        """End all questions and the server."""
        self.backend.close()
        self._server.should_exit = True


def _open_to(settings: Settings, token: str) -> str:
    if token:
        return "clients need the token"
    return "open to everybody who reaches it" if settings.allow_without_token else "open to this machine"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(_BACKLOG)  # now, so that clients can connect once the address is printed
    except OSError as error:
        raise SettingsError(
            f"nothing can listen on {host} port {port}: {error.strerror}. Take another port, such as "
            f"`qwen3vl-ros web --ros-args -p port:={port % 65535 + 1}`, or another address with -p host:=ADDRESS."
        ) from error
    return listening


def main(args: Sequence[str] | None = None) -> int:
    """Run the gateway until SIGINT, SIGTERM or SIGHUP; return its exit status."""
    stop = StopSignal()
    try:
        rclpy.init(args=list(sys.argv if args is None else args), signal_handler_options=SignalHandlerOptions.NO)
        gateway = Gateway()
    except Exception as error:  # noqa: BLE001 any problem with the parameters is printed as a sentence
        print(f"web: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(gateway.node)
    spinning = SpinThread(executor, "executor", on_failure=stop.fail)
    spinning.start()
    serving = _serve(gateway, stop)
    status = stop.wait()
    gateway.close()
    serving.join(_GRACE + 2)
    spinning.stop(2.0)
    gateway.node.destroy_node()
    rclpy.shutdown()
    return status


def _serve(gateway: Gateway, stop: StopSignal) -> threading.Thread:
    """Serve on a thread; when that ends by itself the gateway must not look alive."""

    def serve() -> None:
        try:
            gateway.serve()
        finally:
            stop.fail()

    thread = threading.Thread(target=serve, name="http", daemon=True)
    thread.start()
    return thread


if __name__ == "__main__":
    sys.exit(main())
