"""maix.nn: vision-language models, whose tokens come from ``maix_double.board.Board``.

Names are those of MaixCDK's components/llm/src/maixcam2: maix_vlm_qwen3_maixcam2.cpp, maix_vlm_internvl_maixcam2.cpp.
Differences: the image's file is beside the .mud file instead of in /tmp, and READ_TIMEOUT can be set. As send() holds
the GIL, it can only be used in another process than the board's.
"""

from __future__ import annotations

import configparser
import ctypes
import json
import os
import select
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from maix.err import Err
from maix.err import Exception as MaixException
from maix.image import Fit, Format, Image

READ_TIMEOUT = 10.0

_libc = ctypes.PyDLL(None)  # keeps the GIL during calls, as MaixPy's bindings do


class _PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


@contextmanager
def _gil_held() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def _chunks(url: str, path: str, body: dict) -> Iterator[bytes]:
    """The HTTP chunks of the answer; ends early, without an error, on a refusal or READ_TIMEOUT."""
    host, port = url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(data)}\r\n\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + data)
        buffer = bytearray()

        def more() -> bool:
            waiting = _PollFd(connection.fileno(), select.POLLIN, 0)
            if _libc.poll(ctypes.byref(waiting), 1, int(READ_TIMEOUT * 1e3)) != 1:
                return False
            piece = ctypes.create_string_buffer(65536)
            size = _libc.recv(connection.fileno(), piece, len(piece), 0)
            buffer.extend(piece.raw[: max(size, 0)])
            return size > 0

        def take(end: bytes) -> bytes | None:
            while end not in buffer:
                if not more():
                    return None
            taken, _, rest = bytes(buffer).partition(end)
            buffer[:] = rest
            return taken

        header = take(b"\r\n\r\n")
        if header is None or b" 200 " not in header:
            return
        while size := take(b"\r\n"):
            while len(buffer) < int(size, 16) + 2:
                if not more():
                    return
            if int(size, 16) == 0:
                return
            yield bytes(buffer[: int(size, 16)])
            del buffer[: int(size, 16) + 2]


def _call(url: str) -> int:
    """The status of a GET."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


class _PostConfig:
    def __init__(self) -> None:
        self.enable_temperature = True
        self.temperature = 0.9
        self.enable_repetition_penalty = False
        self.repetition_penalty = 1.2
        self.penalty_window = 20
        self.enable_top_p_sampling = False
        self.top_p = 0.8
        self.enable_top_k_sampling = True
        self.top_k = 10


class Qwen3VLPostConfig(_PostConfig):
    pass


class InternVLPostConfig(_PostConfig):
    pass


class _Resp:
    """Text is bytes in C++; reading it as a str raises UnicodeDecodeError when it ends within a character."""

    def __init__(self) -> None:
        self._msg = b""
        self._msg_new = b""
        self.err_code = Err.ERR_NONE
        self.err_msg = ""

    @property
    def msg(self) -> str:
        return self._msg.decode()

    @property
    def msg_new(self) -> str:
        return self._msg_new.decode()


class Qwen3VLResp(_Resp):
    pass


class InternVLResp(_Resp):
    pass


class _Model:
    def __init__(self, model: str) -> None:
        self._loaded = False
        self._callback = None
        self._extra: dict[str, str] = {}
        if model and self.load(model) != Err.ERR_NONE:
            raise MaixException(f"load model {model} failed")
        self._released = False
        _call(f"{self._board}/double/born?{os.getpid()}")

    def __del__(self) -> None:
        if not getattr(self, "_released", True):
            self._released = True
            self.unload()
            _call(f"{self._board}/double/gone?{os.getpid()}")

    def _read(self, model: str) -> None:
        mud = configparser.ConfigParser(interpolation=None)
        mud.read(model)
        self._extra = dict(mud["extra"])
        self._board = self._extra["tokenizer_url"]
        self._file = Path(model).parent / "vlm_img.jpg"

    def loaded(self) -> bool:
        return self._loaded

    def version(self) -> str:
        return self._extra["model_type"]

    def input_width(self) -> int:
        return int(self._extra["img_w"])

    def input_height(self) -> int:
        return int(self._extra["img_h"])

    def input_format(self) -> Format:
        return Format.FMT_RGB888


class Qwen3VL(_Model):
    def __init__(self, model: str) -> None:
        self.post_config = Qwen3VLPostConfig()
        self._exit_flag = False
        self._system_prompt: str | None = None
        super().__init__(model)

    def load(self, model: str) -> Err:
        self._read(model)
        status = _call(self._board + "/double/systemctl/start")
        self._loaded = status == 200
        return Err.ERR_NONE if self._loaded else Err.ERR_RUNTIME

    def unload(self) -> Err:
        _call(self._board + "/double/systemctl/stop")
        self._loaded = False
        return Err.ERR_NONE

    def is_ready(self) -> bool:
        return _call(self._extra["llm_service_url"] + "/v1/models") == 200

    def set_system_prompt(self, prompt: str) -> None:
        self._system_prompt = prompt

    def set_reply_callback(self, callback: Callable[[Qwen3VL, Qwen3VLResp], None] | None = None) -> None:
        self._callback = callback

    def set_image(self, img: Image, fit: Fit = Fit.FIT_CONTAIN) -> Err:
        assert (img.width(), img.height()) == (self.input_width(), self.input_height()), "the double does not resize"
        return img.save(str(self._file))

    def clear_image(self) -> None:
        self._file.unlink()

    def is_image_set(self) -> bool:
        return self._file.exists()

    def cancel(self) -> None:
        self._exit_flag = True  # for ever

    def send(self, msg: str) -> Qwen3VLResp:
        response = Qwen3VLResp()
        if not self.is_ready():
            return response
        content = [{"type": "text", "text": msg}, {"type": "image_url", "image_url": str(self._file)}]
        body: dict = {"stream": True, "messages": [{"role": "user", "content": content}]}
        if self._system_prompt is not None:
            body["messages"].append({"role": "system", "content": self._system_prompt})
            self._system_prompt = None
        post = self.post_config
        if post.enable_temperature:
            body["temperature"] = post.temperature
        if post.enable_repetition_penalty:
            body["repetition_penalty"] = post.repetition_penalty
        if post.enable_top_p_sampling:
            body["top_p"] = post.top_p
        if post.enable_top_k_sampling:
            body["top_k"] = post.top_k
        with _gil_held():
            for chunk in _chunks(self._extra["llm_service_url"], "/v1/chat/completions", body):
                try:
                    delta = json.loads(chunk)["choices"][0]["delta"]
                except ValueError:
                    continue
                if "content" in delta:
                    response._msg_new = delta["content"].encode()
                    response._msg += response._msg_new
                if self._callback is not None:  # at the end too, with the old msg_new
                    self._callback(self, response)
                if self._exit_flag:
                    break
        return response


class InternVL(_Model):
    def __init__(self, model: str) -> None:
        self.post_config = InternVLPostConfig()
        self._stop = False
        self._image: Image | None = None
        super().__init__(model)

    def load(self, model: str) -> Err:
        self._read(model)
        self._loaded = True
        return Err.ERR_NONE

    def unload(self) -> Err:
        self._loaded = False
        return Err.ERR_NONE

    def set_reply_callback(self, callback: Callable[[InternVL, InternVLResp], None] | None = None) -> None:
        self._callback = callback

    def set_image(self, img: Image, fit: Fit = Fit.FIT_CONTAIN) -> Err:
        assert (img.width(), img.height()) == (self.input_width(), self.input_height()), "the double does not resize"
        assert img.format() == Format.FMT_RGB888
        self._image = img
        return img.save(str(self._file))

    def clear_image(self) -> None:
        self._image = None
        self._file.unlink()

    def is_image_set(self) -> bool:
        return self._image is not None

    def cancel(self) -> None:
        self._stop = True

    def send(self, msg: str) -> InternVLResp:
        response = InternVLResp()
        if not msg:
            response.err_code, response.err_msg = Err.ERR_ARGS, "msg is empty"
            return response
        if msg == "too long":
            response.err_code, response.err_msg = Err.ERR_RUNTIME, "Encode msg failed"
            return response
        self._stop = False
        content = [{"type": "text", "text": msg}, {"type": "image_url", "image_url": str(self._file)}]
        with _gil_held():
            for chunk in _chunks(self._board, "/double/tokens", {"messages": [{"role": "user", "content": content}]}):
                response._msg_new = chunk
                response._msg += chunk
                if self._callback is not None:
                    self._callback(self, response)
                if self._stop:
                    break
        return response
