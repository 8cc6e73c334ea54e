"""The process that MaixPy runs in: it loads one model, answers one question at a time, and releases the model.

MaixPy's calls hold the GIL for ten seconds and more, so no other thread could run in the process that makes them: this
one has a single thread, and talks over a socket to :mod:`qwen3vl_ros.engines.maix.process`. When the engine's process
dies, the model is released, too, as soon as MaixPy returns.

To this process: ``("ask", question, image, sampling)``, ``("stop",)``, ``("close",)``.
From this process: ``("loading", sentence)``, ``("ready", width, height, version)``, ``("failed", error)``; and for
each question ``("encoded",)``, ``("text", text)`` any number of times, and ``("done", error, spoilt)``, where
spoilt means that another answer can only be had from a model that is loaded anew.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen3vl_ros.engines.base import EngineError, EngineNotReady, ModelNotFound

_READ_TIMEOUT = 10.0
"""Seconds of silence after which MaixPy drops the service's answer, without an error (maix_vlm_qwen3_maixcam2.cpp)."""

_LOCK_TIMEOUT = 30.0
"""Seconds that an ending process has to release the model: see _RELEASE_TIMEOUT in engine.py."""

_log = logging.getLogger(__name__)


def main(descriptor: int, model: str, model_class: str, service_url: str, restart: bool) -> None:
    """Load a model and answer questions until told to close.

    Args:
        descriptor: The socket to the engine.
        model: A .mud file.
        model_class: The class of maix.nn that runs it.
        service_url: The service that MaixPy talks to; "" when the model runs in this process.
        restart: Restart the service first, since it may hang or still run an abandoned answer.
    """
    os.set_inheritable(descriptor, False)  # MaixPy starts child processes
    connection = Connection(descriptor)
    with Path(model).open("rb") as file:
        try:
            _lock(connection, file.fileno(), model)
            vlm = _load(connection, model, model_class, restart)
        except EngineError as error:
            _tell(connection, "failed", error)
            return
        try:
            _serve(connection, vlm, service_url)
        except (EOFError, OSError):
            pass  # the engine is gone
        finally:
            # MaixPy releases the model with the last reference to it, and the callback would keep one.
            vlm.set_reply_callback(None)
            del vlm


def _tell(connection: Connection, *message: Any) -> None:
    with suppress(OSError):  # the engine is gone: the next recv raises EOFError
        connection.send(message)


def _lock(connection: Connection, descriptor: int, model: str) -> None:
    """Lock ``model`` for as long as ``descriptor`` is open; raises :class:`EngineNotReady` when it stays in use.

    A process that releases a model stops the service for all others, and all images go through one file.
    """
    begun = time.monotonic()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() - begun > _LOCK_TIMEOUT or connection.poll(0.2):
                raise EngineNotReady(
                    f"Another process uses {model}, and the NPU has room for one: end that process, or the engine of "
                    "this node that is to be replaced by this one."
                ) from None
        else:
            return


def _load(connection: Connection, model: str, model_class: str, restart: bool) -> Any:
    """Load the model and return it, an object of maix.nn; raises :class:`EngineNotReady`, :class:`ModelNotFound`."""
    _tell(connection, "loading", f"MaixPy loads {model}")
    try:
        nn, err = importlib.import_module("maix.nn"), importlib.import_module("maix.err")
    except ImportError as error:
        raise ModelNotFound(
            f"MaixPy is installed but does not start ({error}): it runs on Sipeed's boards. From another machine use "
            "engine maix_http."
        ) from None
    kind = getattr(nn, model_class, None)
    if kind is None:
        version = getattr(importlib.import_module("maix"), "__version__", "of unknown version")
        raise ModelNotFound(
            f"MaixPy {version} has no nn.{model_class}: update it (`pip install --upgrade maixpy` on the board)."
        )
    try:
        vlm = kind(model)
        if restart:
            err.check_raise(vlm.unload(), "unload")
            err.check_raise(vlm.load(model), "load")
    except Exception as error:  # noqa: BLE001 err.Exception, whose Python class depends on MaixPy's version
        raise EngineNotReady(
            f"MaixPy could not load {model} ({error}). What it printed says why; often the services failed to start "
            "(`systemctl status llm-tokenizer qwen3_vl`), another program uses the NPU, or the board has less than "
            "4 GB."
        ) from None
    return vlm


def _serve(connection: Connection, vlm: Any, service_url: str) -> None:
    """Wait until the model can answer, then answer until told to close; EOFError, OSError: the engine is gone."""
    if service_url:
        waiting = False
        while not vlm.is_ready():
            if not waiting:
                _tell(connection, "loading", f"waiting for the service at {service_url} to load the model")
                waiting = True
            if connection.poll(0.5):
                return  # no question comes before "ready", so this message is "close"
    connection.send(("ready", vlm.input_width(), vlm.input_height(), vlm.version()))
    while (message := connection.recv())[0] != "close":
        if message[0] == "ask":  # else a stop for an answer that has ended
            try:
                ending = _answer(connection, vlm, service_url, *message[1:])
            except Exception as error:  # noqa: BLE001 the model must be released properly all the same
                _log.exception("MaixPy failed while answering")
                ending = EngineError(f"MaixPy failed with {type(error).__name__}: {error}"), True
            connection.send(("done", *ending))


def _answer(
    connection: Connection,
    vlm: Any,
    service_url: str,
    question: str,
    pixels: NDArray[np.uint8] | None,
    sampling: dict[str, float],
) -> tuple[EngineError | None, bool]:
    """Send one question and report the text as it arrives.

    Returns:
        The error, or None; and whether the model is spoilt: another answer needs it loaded again.
    """
    image, err = importlib.import_module("maix.image"), importlib.import_module("maix.err")
    for name, value in sampling.items():
        setattr(vlm.post_config, name, value)
    if pixels is not None:
        # bgr names the colour order and defaults to True. The image already has the model's size, so no fit takes
        # place; FILL is the only one that would keep relative coordinates.
        code = vlm.set_image(image.cv2image(pixels, bgr=False), image.Fit.FIT_FILL)
        if code != err.Err.ERR_NONE:
            return EngineError(
                f"MaixPy did not take the image ({err.to_str(code)}): is there room in the board's /tmp?"
            ), False
    elif vlm.is_image_set():  # by an earlier question, perhaps of another program
        vlm.clear_image()
    _tell(connection, "encoded")

    reply = _Reply(connection)
    vlm.set_reply_callback(reply.on_reply)
    response = vlm.send(question)
    silence = time.monotonic() - reply.heard
    reply.take(response)
    if response.err_code != err.Err.ERR_NONE:
        return EngineError(
            f"MaixPy failed with {err.to_str(response.err_code)}: {response.err_msg or 'no message'}. A question that "
            "is too long for the model is the usual reason."
        ), False
    if service_url and silence >= _READ_TIMEOUT - 0.5:
        # The service continues, and the rest of its text would begin the next answer.
        return EngineError(
            f"The service at {service_url} said nothing for {_READ_TIMEOUT:g} s, and MaixPy gave up; it is restarted "
            "before the next question."
        ), True
    if not reply.text:
        if service_url and not vlm.is_ready():
            return EngineNotReady(
                f"The service at {service_url} is not ready: `systemctl status qwen3_vl llm-tokenizer` on the board "
                "says why."
            ), True
        return EngineError(
            f"The answer was empty, which is how MaixPy shows a failed request: {service_url or 'the model'} refused "
            "it, or is busy with somebody else's."
        ), True
    return None, False


class _Reply:
    """Receives an answer. ``heard``: time.monotonic() of the last piece."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.text = ""
        self.heard = time.monotonic()

    def on_reply(self, vlm: Any, response: Any) -> None:
        """Serve as MaixPy's callback, which must not raise into native code."""
        self.heard = time.monotonic()
        self.take(response)
        if self._connection.poll(0):  # "stop", or the engine is gone
            vlm.cancel()

    def take(self, response: Any) -> None:
        """Report the new text of ``response``: ``msg`` is the whole answer; MaixPy repeats the last ``msg_new``."""
        try:
            text: str = response.msg
        except UnicodeDecodeError:  # it ends inside a character: the next call has the rest
            return
        new, self.text = text[len(self.text) :], text
        if new:
            _tell(self._connection, "text", new)
