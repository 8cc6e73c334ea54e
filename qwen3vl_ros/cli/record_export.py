"""Writes a recording as a data set for fine-tuning, with the images as the model saw them.

``qwen-vl``: the format of qwen-vl-finetune in github.com/QwenLM/Qwen3-VL (its README and
``qwenvl/data/data_processor.py``), ``annotations.json``. ``messages``: chat messages as Hugging Face's chat templates
take them, ``messages.jsonl``. Paths are relative to the data set's directory, so that it can be moved.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import PIL.Image

from qwen3vl_ros.vlm.recorded_answers import IMAGE_FILE, RecordedAnswer, RecordingError, check_recording, read_answers

Sample: TypeAlias = dict[str, Any]

_QUALITY: Final = 95
"""JPEG quality of an image that was cropped or rotated."""

_TICKS: Final = 1000
"""Of a second, in which a video counts the times of its frames."""

_TAGS: Final = re.compile("<(image|video)>")
"""What stands for an image or video in a text of the format qwen-vl; nothing else may look like it."""


class Unusable(Exception):
    """An answer cannot be a sample; the text says why, for a count: "without its images"."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was written. ``left_out``: numbers of answers by reason."""

    file: Path
    samples: int
    corrected: int
    left_out: Mapping[str, int]

    def __str__(self) -> str:
        """Return a sentence."""
        left_out = ", ".join(f"{number} {reason}" for reason, number in self.left_out.items())
        return (
            f"{self.samples} questions with answers, {self.corrected} of them corrected"
            + f"; left out: {left_out}" * bool(left_out)
            + f". Paths of images are relative to {self.file.parent}."
        )


def export(directory: Path, output: Path, form: str, *, corrected_only: bool = False) -> Report:
    """Write the answers of a recording as a data set.

    A correction is the answer where there is one. Answers that failed are left out unless they were corrected.

    Args:
        directory: Of the recording.
        output: Directory of the data set; made, and empty if it is there.
        form: "qwen-vl" or "messages".
        corrected_only: Leave out all others.

    Raises:
        RecordingError: ``directory`` is no recording, or ``output`` is not empty.
        OSError: Something cannot be written.
    """
    if output.suffix in (".json", ".jsonl"):
        raise RecordingError(f"{output}: OUT is a directory, as images go there, too: name one, such as {output.stem}")
    check_recording(directory)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RecordingError(f"{output} is there already: name a new directory")
    output.mkdir(mode=0o700, parents=True, exist_ok=True)
    media = _Media(directory, output)
    convert: Callable[[RecordedAnswer, _Media], Sample] = _of_qwen_vl if form == "qwen-vl" else _of_messages
    samples: list[Sample] = []
    corrected, left_out = 0, Counter[str]()
    for answer in read_answers(directory):
        if corrected_only and answer.correction is None:
            left_out["not corrected"] += 1
            continue
        try:
            samples.append(convert(answer, media))
        except Unusable as error:
            left_out[str(error)] += 1
            continue
        except (LookupError, TypeError, ValueError):
            left_out["whose line is damaged"] += 1
            continue
        corrected += answer.correction is not None
    if form == "qwen-vl":
        file = output / "annotations.json"
        content = json.dumps(_of_one_type(samples), indent=1, ensure_ascii=False) + "\n"
    else:
        file = output / "messages.jsonl"
        content = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
    file.write_text(content, encoding="utf-8")
    return Report(file, len(samples), corrected, left_out)


def _right_answer(answer: RecordedAnswer) -> str:
    """Return what the model should say. Raises :class:`Unusable`."""
    if answer.correction is not None:
        text = answer.correction
    elif answer.entry.get("error"):
        raise Unusable("failed")
    else:
        text = str(answer.entry.get("text", ""))
    if not text.strip():
        raise Unusable("without an answer")
    if not answer.entry.get("messages"):
        raise Unusable("that the model never got")
    return text


# --- qwen-vl ---------------------------------------------------------------------------------------------------------


def _of_qwen_vl(answer: RecordedAnswer, media: _Media) -> Sample:
    """Return a sample. The format has no turn for a system prompt: that begins the first question's text."""
    said = _right_answer(answer)
    images: list[str] = []
    videos: list[str] = []
    conversations: list[dict[str, str]] = []
    preface = ""
    for message in answer.entry["messages"]:
        value = ""
        for part in message["content"]:
            if part["type"] == "text":
                value += _without_tags(part["text"])
            elif part["type"] == "image":
                images.append(media.image(answer.entry, part["image"], part["part"]))
                value += "<image>\n"
            else:
                frames = [media.image(answer.entry, number, 0) for number in part["images"]]
                videos.append(media.video(frames, part["times"], f"{answer.goal_id}-{len(videos)}"))
                value += "<video>\n"
        value = value.rstrip("\n")
        if message["role"] == "system":
            preface = f"{value}\n\n"
        elif message["role"] == "user":
            conversations.append({"from": "human", "value": preface + value})
            preface = ""
        else:
            conversations.append({"from": "gpt", "value": value})
    conversations.append({"from": "gpt", "value": _without_tags(said)})
    sample: Sample = {"id": answer.goal_id}
    sample |= {"image": images} if images else {}
    sample |= {"video": videos} if videos else {}
    return {**sample, "conversations": conversations}


def _of_one_type(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples with a path in place of a list of one, if no sample has several: a column has one type."""
    single = [key for key in ("image", "video") if all(len(sample.get(key, [])) <= 1 for sample in samples)]
    return [{key: value[0] if key in single else value for key, value in sample.items()} for sample in samples]


def _without_tags(text: str) -> str:
    return _TAGS.sub(r"[\1]", text)


# --- messages --------------------------------------------------------------------------------------------------------


def _of_messages(answer: RecordedAnswer, media: _Media) -> Sample:
    """Return a sample. Content is always a list; a video is the list of its frames."""
    said = _right_answer(answer)
    messages = [
        {"role": message["role"], "content": list(_content(answer.entry, message["content"], media))}
        for message in answer.entry["messages"]
    ]
    messages.append({"role": "assistant", "content": [{"type": "text", "text": said}]})
    return {"id": answer.goal_id, "messages": messages}


def _content(entry: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], media: _Media) -> Iterator[Sample]:
    for part in parts:
        if part["type"] == "text":
            yield {"type": "text", "text": part["text"]}
        elif part["type"] == "image":
            yield {"type": "image", "image": media.image(entry, part["image"], part["part"])}
        else:
            yield {"type": "video", "video": [media.image(entry, number, 0) for number in part["images"]]}


# --- files -----------------------------------------------------------------------------------------------------------


class _Media:
    """Copies images into a data set, and makes videos."""

    def __init__(self, directory: Path, output: Path) -> None:
        self._directory = directory
        self._output = output

    def image(self, entry: Mapping[str, Any], number: int, part: int) -> str:
        """Return the path of an image, or of a part of it, as the model saw it but in its own resolution.

        Raises:
            Unusable: It is not there.
        """
        of = entry["images"][number]
        source = self._directory / of["file"]
        if not IMAGE_FILE.fullmatch(of["file"]) or not source.exists():
            raise Unusable("without its images")
        (self._output / "images").mkdir(exist_ok=True)
        seen = of["parts"][part]
        whole = [0, 0, of["width"], of["height"]]
        if seen["rotation"] == 0 and seen["shown"] == whole and seen["place"] == [0, 0, *seen["fitted_size"]]:
            name = f"images/{source.name}"
            if not (self._output / name).exists():
                shutil.copyfile(source, self._output / name)
            return name
        digest = hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()[:8]
        name = f"images/{source.stem}-{digest}.jpg"
        if not (self._output / name).exists():
            _as_seen(_pixels(source), of["width"], seen).save(self._output / name, quality=_QUALITY)
        return name

    def video(self, frames: Sequence[str], times: Sequence[float], name: str) -> str:
        """Return the path of a video with these frames at these times, in seconds. Raises :class:`RecordingError`."""
        try:
            import av
        except ImportError as error:
            raise RecordingError(f"a clip needs PyAV to become a video (`pip install av`): {error}") from error
        path = f"videos/{name}.mp4"
        (self._output / "videos").mkdir(exist_ok=True)
        images = [np.asarray(_pixels(self._output / frame)) for frame in frames]
        height, width = (length - length % 2 for length in images[0].shape[:2])  # yuv420p has pairs of pixels
        with av.open(str(self._output / path), "w") as container:
            stream = container.add_stream("libx264", rate=_TICKS, options={"crf": "18"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.time_base = Fraction(1, _TICKS)
            for image, time in zip(images, times, strict=True):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
                frame.pts, frame.time_base = round((time - times[0]) * _TICKS), Fraction(1, _TICKS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path


def _pixels(path: Path) -> PIL.Image.Image:
    """Return an image as RGB. Raises :class:`Unusable`."""
    try:
        with PIL.Image.open(path) as opened:
            pixels: PIL.Image.Image = opened.convert("RGB")
            return pixels
    except OSError as error:  # also for a file that is cut off
        raise Unusable("with a broken image") from error


def _as_seen(image: PIL.Image.Image, width: int, part: Mapping[str, Any]) -> PIL.Image.Image:
    """Return what the model saw of an image: cropped, rotated, and with the black bars beside it.

    ``width``: of the image as it was published; that of a clip may have been reduced.
    """
    scale = image.width / width
    left, top, right, bottom = (round(edge * scale) for edge in part["shown"])
    seen = image.crop((left, top, right, bottom)).rotate(-part["rotation"], expand=True)
    (x1, y1, x2, y2), (fitted_width, fitted_height) = part["place"], part["fitted_size"]
    across, down = seen.width / (x2 - x1), seen.height / (y2 - y1)  # pixels of the image for one of the fitted image
    if (x1, y1, x2, y2) == (0, 0, fitted_width, fitted_height):
        return seen
    barred = PIL.Image.new("RGB", (round(fitted_width * across), round(fitted_height * down)))
    barred.paste(seen, (round(x1 * across), round(y1 * down)))
    return barred
