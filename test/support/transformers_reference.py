"""A model in transformers, which the engines are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer, Qwen3VLProcessor

from qwen3vl_ros.engines.base import Clip, Image, Message


class Reference:
    """The same model in transformers."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = AutoImageProcessor.from_pretrained(folder)
        self._pads = (self.model.config.image_token_id, self.model.config.video_token_id)
        self.first: Any = None
        """After :meth:`answer`: the probability of every token to be the first of the answer."""

    def answer(self, messages: tuple[Message, ...], n: int) -> tuple[list[int], list[int], float]:
        """(tokens of the prompt without those of images; the ``n`` likeliest after it; the least lead of one)."""
        parts = [part for m in messages for part in m.content]
        images = [part for part in parts if isinstance(part, np.ndarray)]
        clips = [part for part in parts if isinstance(part, Clip)]
        conversation = [{"role": m.role, "content": [_part(part) for part in m.content]} for m in messages]
        prompt = self.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        inputs: dict[str, Any] = {}
        if images:
            inputs |= self.images(images=images, do_resize=False, return_tensors="pt")
            for grid in inputs["image_grid_thw"]:
                prompt = prompt.replace("<|image_pad|>", "<|here|>" * (int(grid.prod()) // 4), 1)
        if clips:
            inputs |= self._videos(clips)
            for clip, (_, height, width) in zip(clips, inputs["video_grid_thw"], strict=True):
                pads = "<|there|>" * (int(height * width) // 4)
                pairs = (f"<{time:.1f} seconds><|vision_start|>{pads}<|vision_end|>" for time in _pair_times(clip))
                prompt = prompt.replace("<|vision_start|><|video_pad|><|vision_end|>", "".join(pairs), 1)
        prompt = prompt.replace("<|here|>", "<|image_pad|>").replace("<|there|>", "<|video_pad|>")
        inputs |= self.tokenizer(prompt, return_tensors="pt")
        ids = inputs["input_ids"][0].tolist()
        return [t for t in ids if t not in self._pads], *self._generate(inputs, n)

    def continued(self, text: str, tokens: list[int], n: int) -> tuple[list[int], list[int], float]:
        """(tokens of the prompt ``text``; the ``n`` likeliest after those and ``tokens``; the least lead of one)."""
        prompt: list[int] = self.tokenizer(text)["input_ids"]
        ids = torch.tensor([prompt + tokens])
        return prompt, *self._generate({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, n)

    def _generate(self, inputs: dict[str, Any], n: int) -> tuple[list[int], float]:
        ids = inputs["input_ids"]
        image, video = self._pads
        inputs["mm_token_type_ids"] = (ids == image).int() + 2 * (ids == video).int()
        with torch.no_grad():
            output = self.model.generate(
                **inputs, max_new_tokens=n, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        self.first = torch.softmax(output.logits[0][0].double(), dim=-1).numpy()
        best_two = torch.stack(output.logits).topk(2).values
        lead = float((best_two[..., 0] - best_two[..., 1]).min())
        return output.sequences[0, ids.shape[1] :].tolist(), lead

    def _videos(self, clips: list[Clip]) -> dict[str, torch.Tensor]:
        """What Qwen3VLVideoProcessor makes, which needs torchvision: as of images, with another frame in each half."""
        patches, grids = [], []
        for clip in clips:
            frames = [*clip.frames, clip.frames[-1]][: len(clip.frames) + len(clip.frames) % 2]
            looks = self.images(images=frames, do_resize=False, return_tensors="pt")
            _, height, width = looks["image_grid_thw"][0].tolist()
            halves = looks["pixel_values"].reshape(len(frames) // 2, 2, height * width, 3, 2, -1)
            merged = torch.stack([halves[:, 0, :, :, 0], halves[:, 1, :, :, 1]], dim=3)
            patches.append(merged.reshape(-1, looks["pixel_values"].shape[1]))
            grids.append([len(frames) // 2, height, width])
        return {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(grids)}


def _part(part: str | Image | Clip) -> dict[str, str]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "video" if isinstance(part, Clip) else "image"}


def _pair_times(clip: Clip) -> list[float]:
    """The times as transformers computes them, from numbers of frames: here of a video of 1000 frames per second."""
    numbers = [round(1000 * time) for time in clip.times]
    return Qwen3VLProcessor._calculate_timestamps(None, numbers, 1000.0, merge_size=2)
