"""The process that MaixPy runs in: it loads one model, answers one question at a time, and releases the model.

MaixPy's calls hold the GIL for as long as they take, ten seconds and more, so nothing else can run in the process that
makes them: this one has a single thread, and :mod:`qwen3vl_ros.engines.maix.process` is on the other side of a socket.
Whoever is on that side may die at any moment; the model is released then too, as soon as MaixPy returns.

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
"""Seconds that a process which is about to end has for releasing the model: see _RELEASE_TIMEOUT in maix.py."""

_log = logging.getLogger(__name__)


def main(descriptor: int, model: str, model_class: str, service_url: str, restart: bool) -> None:
    """Load ``model``, a .mud file, with the class of maix.nn that ``model_class`` names, and serve ``descriptor``.

    ``service_url``: where MaixPy talks to the model; "" when the model runs in this process. ``restart``: begin with a
    fresh service, because the one that runs may be hung or still busy with an answer that nobody wants.
    """
    os.set_inheritable(descriptor, False)  # MaixPy runs commands
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
            # The callback would keep Python objects alive; MaixPy releases the model when the last reference goes.
            vlm.set_reply_callback(None)
            del vlm


def _tell(connection: Connection, *message: Any) -> None:
    with suppress(OSError):  # the engine is gone: the next message that is waited for says so too
        connection.send(message)


def _lock(connection: Connection, descriptor: int, model: str) -> None:
    """Be the only user of ``model``, for as long as ``descriptor`` is open. Raises :class:`EngineNotReady`.

    What releases a model stops the service under everybody else, and all images go through one file.
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
    """The loaded model, an object of maix.nn. Raises :class:`EngineNotReady`, :class:`ModelNotFound`."""
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
    except Exception as error:  # noqa: BLE001 err.Exception, but which class that is in Python depends on the version
        raise EngineNotReady(
            f"MaixPy could not load {model} ({error}). What it printed says why; often the services failed to start "
            "(`systemctl status llm-tokenizer qwen3_vl`), another program uses the NPU, or the board has less than "
            "4 GB."
        ) from None
    return vlm


def _serve(connection: Connection, vlm: Any, service_url: str) -> None:
    """Wait until the model can answer, then answer, until told to close. Raises EOFError, OSError: nobody asks."""
    if service_url:
        waiting = False
        while not vlm.is_ready():
            if not waiting:
                _tell(connection, "loading", f"waiting for the service at {service_url} to load the model")
                waiting = True
            if connection.poll(0.5):
                return  # nothing is asked yet, so this is the end
    connection.send(("ready", vlm.input_width(), vlm.input_height(), vlm.version()))
    while (message := connection.recv())[0] != "close":
        if message[0] == "ask":  # else a stop that came too late
            try:
                ending = _answer(connection, vlm, service_url, *message[1:])
            except Exception as error:  # noqa: BLE001 the model is to be released in order all the same
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
    """Send one question and report the text as it comes. Returns what went wrong, and whether the model is spoilt."""
    image, err = importlib.import_module("maix.image"), importlib.import_module("maix.err")
    for name, value in sampling.items():
        setattr(vlm.post_config, name, value)
    if pixels is not None:
        # bgr only names the order, and is True unless said otherwise. The image has the model's size already, so
        # that no fit is done; of all fits FILL alone would leave relative coordinates as they are.
        code = vlm.set_image(image.cv2image(pixels, bgr=False), image.Fit.FIT_FILL)
        if code != err.Err.ERR_NONE:
            return EngineError(
                f"MaixPy did not take the image ({err.to_str(code)}): is there room in the board's /tmp?"
            ), False
    elif vlm.is_image_set():  # by an earlier question, even of another program
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
        # The service goes on, and what it still has to say would begin the next answer.
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
    """An answer while it comes. ``heard``: when the last of it came, time.monotonic()."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.text = ""
        self.heard = time.monotonic()

    def on_reply(self, vlm: Any, response: Any) -> None:
        """MaixPy's callback; what it raised would end in native code."""
        self.heard = time.monotonic()
        self.take(response)
        if self._connection.poll(0):  # the engine wants no more of this, or is gone
            vlm.cancel()

    def take(self, response: Any) -> None:
        """Report what is new in ``response``. ``msg`` has the whole answer; the last ``msg_new`` comes twice."""
        try:
            text: str = response.msg
        except UnicodeDecodeError:  # it ends within a character: the rest comes with the next call
            return
        new, self.text = text[len(self.text) :], text
        if new:
            _tell(self._connection, "text", new)
