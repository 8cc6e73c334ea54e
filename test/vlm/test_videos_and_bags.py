"""A recording and the real node: what the model is shown of a video file and of a bag."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av", reason="PyAV, which reads videos, is not installed here")
pytest.importorskip("rosbags", reason="rosbags, which reads bags, is not installed here")

import third_party
import videos
from bags import BEGIN, header, write_bag
from qwen3vl_ros.client import VlmClient, clip_of_bag, clip_of_video, frame_of_video, image_of_bag
from qwen3vl_ros.vision.image_message import image_message
from scripted_vlm import WAIT
from vlm_process import VlmProcess


def stamped(number: int) -> int:
    return BEGIN + number * 100_000_000


def recorded() -> Iterator[tuple[str, int, Any]]:
    for number in range(50):
        image = image_message(videos.grey(20 + 2 * number), header(stamped(number)))
        yield "/camera", stamped(number) + 2_000_000, image


def test_the_model_is_shown_the_frames_of_a_video_and_of_a_bag_with_their_times(
    start_vlm: Callable[..., VlmProcess], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = third_party.install(tmp_path / "installed", third_party.WITNESS, {"witness": "Witness"})
    monkeypatch.setenv("PYTHONPATH", str(package), prepend=os.pathsep)
    video = videos.write_timed(
        tmp_path / "street.mp4", ((100 * number, videos.grey(20 + 2 * number)) for number in range(50))
    )
    bag = write_bag(tmp_path / "street", recorded())
    start_vlm(engine="witness").wait_connected()
    with VlmClient(server_timeout=WAIT) as client:

        def seen(**arguments: Any) -> tuple[Any, list[int]]:
            """What the model was shown, and the stamps in the answer."""
            answer = client.ask("What happened?", **arguments)
            stamps = [head.stamp.sec * 10**9 + head.stamp.nanosec for head in answer.image_headers]
            return json.loads(answer.text)[-1][0], stamps

        for clip, begin in (
            (clip_of_video(video, start=1, end=4, frames=4), 0),
            (clip_of_bag(bag, start=1, end=4, frames=4), BEGIN),
        ):
            shown, stamps = seen(images=clip, images_are_clip=True, clip_frames=4)
            assert shown["times"] == [0.0, 1.0, 2.0, 3.0]
            assert shown["means"] == pytest.approx([40, 60, 80, 100], abs=2)
            assert stamps == [begin + second * 10**9 for second in (1, 2, 3, 4)]
        for image, begin in ((frame_of_video(video, 2.55), 0), (image_of_bag(bag, time=2.55), BEGIN)):
            shown, stamps = seen(images=image)
            assert shown["means"] == pytest.approx([70], abs=2)
            assert stamps == [begin + 2_500_000_000]
