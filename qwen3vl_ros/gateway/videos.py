"""Turns the videos of a question into the frames of a clip, in a process that is killed when it takes too long."""

from __future__ import annotations

from typing import Final

import anyio
import anyio.to_thread

from qwen3vl_ros.engines.base import Cancel
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.images import content_of_data_url, source_of
from qwen3vl_ros.gateway.settings import Settings
from qwen3vl_ros.prompts.sandbox import Killed, Sandbox
from qwen3vl_ros.vision.clip_frames import VideoClip

_AT_A_TIME: Final = 2
"""Videos that are decoded at the same time; each has a process that may take up to a gigabyte."""

_MOST_PIXELS: Final = 4096 * 2304
"""Of an image, which is 4K: a decoder holds up to 17, for which that process has memory."""

_NAME: Final = "the video's file"


class Videos:
    """Decodes videos within the limits of the settings."""

    def __init__(self, settings: Settings) -> None:
        self._size = settings.max_video_bytes
        self._longest = settings.max_video_duration
        self._pixels = min(settings.max_image_pixels, _MOST_PIXELS)
        self._seconds = settings.body_timeout
        self._decoding = anyio.CapacityLimiter(_AT_A_TIME)

    async def clip(self, url: str, count: int) -> VideoClip:
        """Return at most ``count`` frames of the video in a ``data:`` URL, evenly over its length.

        Raises:
            ApiError: 400 for what is no video that can be decoded in time, 413 for one that is too large.
        """
        if source_of(url, "video") != "data":
            raise ApiError(
                400, "invalid_video_url", "a video's URL begins with data:video/mp4;base64,", param="messages"
            )
        content = await anyio.to_thread.run_sync(content_of_data_url, url, "video", self._size)
        cancel = Cancel()
        try:
            async with self._decoding:
                return await anyio.to_thread.run_sync(self._decode, content, count, cancel, abandon_on_cancel=True)
        finally:
            cancel.set()  # where the wait was given up, the thread ends with its process

    def _decode(self, content: bytes, count: int, cancel: Cancel) -> VideoClip:
        try:
            from qwen3vl_ros.vision.video_clip import clip_apart
        except ImportError as error:
            raise _bad(f"videos are not read here: the gateway needs PyAV (pip install av): {error}") from None
        sandbox = Sandbox()
        try:
            return sandbox.run(
                *(clip_apart, content, _NAME, count, self._longest, self._pixels), timeout=self._seconds, cancel=cancel
            )
        except ValueError as error:
            raise _bad(str(error)) from None
        except Killed as error:
            raise _bad(f"{_NAME} cannot be decoded here ({error}): send a shorter or smaller one") from None
        except RuntimeError as error:
            raise _bad(f"{_NAME} cannot be decoded ({error})") from None
        finally:
            sandbox.close()


def _bad(message: str) -> ApiError:
    return ApiError(400, "bad_video", message, param="messages")
