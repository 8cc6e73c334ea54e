"""The shipped model learns the corrections of a recording, from the data set that the command writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qwen3vl_ros.cli.record_export import export
from qwen3vl_ros.engines.base import ImageInput
from qwen3vl_ros.vision.compressed import decode_file
from qwen3vl_ros.vision.fit import fit_image
from qwen3vl_ros.vlm.record_entry import plain
from qwen3vl_ros.vlm.recording import Recording
from training.finetune import finetune, likeliest, sample_of, samples_of
from training.model import build_model
from training.packing import IGNORE
from training.restore import restore
from training.tokenizer import build_tokenizer

ROOT = Path(__file__).resolve().parents[2]
FRAMES = sorted((ROOT / "test" / "support" / "data" / "gazebo_frames").glob("*.jpg"))[:2]
RIGHT = ("There are no balls here.", '[{"bbox_2d": [100, 200, 300, 400], "label": "red box"}]')


def entry(number: int, jpeg: bytes) -> dict[str, Any]:
    pixels = decode_file(jpeg, "the frame")
    _, fit = fit_image(pixels, ImageInput())
    part = {name: getattr(fit, name) for name in ("rotation", "shown", "place", "fitted_size")}
    content = [{"type": "image", "image": 0, "part": 0}, {"type": "text", "text": "What colour is the ball?"}]
    image = {"width": pixels.shape[1], "height": pixels.shape[0], "parts": [part]}
    messages = [{"role": "user", "content": content}]
    made = {"goal_id": f"{number:032x}", "text": "?", "error": None, "messages": messages, "images": [image]}
    return plain(made)  # type: ignore[no-any-return]


def test_the_model_says_what_was_corrected(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "rec", 10.0)
    for number, (frame, right) in enumerate(zip(FRAMES, RIGHT, strict=True)):
        recording.append(entry(number, frame.read_bytes()), [frame.read_bytes()])
        recording.correct(f"{number:032x}", right)
    recording.close()
    export(tmp_path / "rec", tmp_path / "set", "messages", corrected_only=True)
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    restore(model, tokenizer, ROOT / "models" / "tabletop")
    samples = list(samples_of(tmp_path / "set", tokenizer))
    expected = [sample.labels[0][sample.labels[0] != IGNORE].tolist() for sample in samples]
    assert [likeliest(model, sample) for sample in samples] != expected
    *_, last = finetune(model, samples, 25, 3e-4)
    assert last < 0.2
    assert [likeliest(model, sample) for sample in samples] == expected

    clip = {"role": "user", "content": [{"type": "video", "video": ["a.jpg"]}]}
    with pytest.raises(ValueError, match="clip"):
        sample_of([clip, clip], tmp_path, tokenizer)
