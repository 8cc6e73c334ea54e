"""A finished question as a line of a recording: what the model read, what it said, and the images as JPEG files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from qwen3vl_ros.action import AskImage
from qwen3vl_ros.client.answer import answer_of_result
from qwen3vl_ros.client.exceptions import error_of_code
from qwen3vl_ros.engines.base import Clip, Image, Message
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.vision.compressed import jpeg_file
from qwen3vl_ros.vision.fit import Fit
from qwen3vl_ros.vision.jpeg import jpeg_of
from qwen3vl_ros.vlm.images import InputImage, InputImages
from qwen3vl_ros.vlm.job import GoalResult
from qwen3vl_ros.vlm.messages import answer_message, fill_result

QUALITY: Final = 90
"""JPEG quality of an image that did not come as a JPEG."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A question with its result. ``messages``: what the engine got, () if it got nothing. ``time``: when it ended."""

    goal_id: str
    time: str
    request: AskRequest
    result: GoalResult
    messages: Sequence[Message] = ()
    inputs: InputImages = field(default_factory=InputImages)

    @property
    def nbytes(self) -> int:
        """Bytes of its images in memory."""
        return sum(image.pixels.nbytes for image in self.inputs.images)

    def recorded(self) -> tuple[dict[str, Any], list[bytes]]:
        """Return its line, docs/recording.md has the keys, and its images as JPEG files.

        A JPEG is as it came; what came as anything else has :data:`QUALITY`. Images of earlier turns that a session
        keeps are as the engine gets them.
        """
        images = self.inputs.images
        described = [_image(image) for image in images]
        sent = {id(message.header): message for message in self.request.images}
        files = [_jpeg_of(image, sent.get(id(image.header))) for image in images]
        parts = [(number, part) for number, image in enumerate(images) for part in range(len(image.fits))]
        places = dict(zip(map(id, _pixels_in(self.inputs.content)), parts, strict=False))
        for message in self.messages:
            for pixels in _pixels_in(message.content):
                if id(pixels) not in places:
                    places[id(pixels)] = len(described), 0
                    described.append(_earlier_image(pixels))
                    files.append(jpeg_of(pixels, QUALITY))
        return self._entry(described, places), files

    def _entry(self, images: list[dict[str, Any]], places: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
        answer = answer_message(self.request, self.goal_id, self.result)
        given = answer_of_result(fill_result(AskImage.Result(), self.result), self.goal_id)
        error = self.result.error
        said = asdict(given) | {"json": json.loads(self.result.json) if self.result.json else None}
        said = {name: value for name, value in said.items() if name not in ("image_headers", "pixel_stamps")}
        options = {name: value for name, value in asdict(self.request.options).items() if value not in (None, ())}
        entry = {
            "goal_id": self.goal_id,
            "time": self.time,
            "prompt": self.request.prompt,
            "task": answer.task,
            "session": answer.session,
            "options": options,
            "thinking": self.request.thinking,
            "response_schema": self.request.response_schema,
            "messages": [_message(message, places) for message in self.messages],
            "images": images,
            "error": None
            if error is None
            else {"code": error.code, "name": error_of_code(error.code).name, "message": error.message},
            **said,
        }
        return {name: plain(value) for name, value in entry.items()}


def _pixels_in(content: Sequence[Any]) -> Iterator[Image]:
    """Yield the images in the content of a turn, and the frames of its clips."""
    for part in content:
        if isinstance(part, Clip):
            yield from part.frames
        elif not isinstance(part, str):
            yield part


def _message(message: Message, places: Mapping[int, tuple[int, int]]) -> dict[str, Any]:
    """Return a turn; ``places``: the number and the part of each image, by the id of its pixels."""
    content: list[dict[str, Any]] = []
    for part in message.content:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
        elif isinstance(part, Clip):
            frames = [places[id(frame)][0] for frame in part.frames]
            content.append({"type": "video", "images": frames, "times": list(part.times)})
        else:
            number, of = places[id(part)]
            content.append({"type": "image", "image": number, "part": of})
    return {"role": message.role, "content": content}


def _image(image: InputImage) -> dict[str, Any]:
    width, height = image.size
    return {
        "width": width,
        "height": height,
        "camera": None if image.camera is None else image.camera.name,
        "frame_id": image.header.frame_id,
        "stamp": image.header.stamp,
        "pixel_stamp": image.pixel_stamp,
        "parts": [_part(fit) for fit in image.fits],
    }


def _earlier_image(pixels: Image) -> dict[str, Any]:
    height, width, _ = pixels.shape
    whole = (0, 0, width, height)
    part = {"rotation": 0, "shown": whole, "place": whole, "fitted_size": (width, height)}
    unknown = dict.fromkeys(("camera", "frame_id", "stamp", "pixel_stamp"))
    return {"width": width, "height": height, **unknown, "parts": [part]}


def _part(fit: Fit) -> dict[str, Any]:
    return {"rotation": fit.rotation, "shown": fit.shown, "place": fit.place, "fitted_size": fit.fitted_size}


def _jpeg_of(image: InputImage, sent: Any) -> bytes:
    """Return an image as a JPEG file; ``sent``: its message, if it was in the goal."""
    message = sent
    if image.chosen is not None and image.frame is not None and image.frame.message_type is CompressedImage:
        message = image.frame.message()
    if isinstance(message, CompressedImage) and (file := jpeg_file(message)):
        return file
    return jpeg_of(image.pixels, QUALITY)


def plain(value: Any) -> Any:
    """Return a value as JSON has it: ROS times and headers as objects, and null for what is no number."""
    if isinstance(value, Time):
        return {"sec": value.sec, "nanosec": value.nanosec}
    if isinstance(value, Header):
        return {"stamp": plain(value.stamp), "frame_id": value.frame_id}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
