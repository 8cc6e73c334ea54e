"""A model in transformers, which the engines are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from qwen3vl_ros.engines.base import Message


class Reference:
    """The same model in transformers."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.images = AutoImageProcessor.from_pretrained(folder)
        self.first: Any = None
        """After :meth:`answer`: the probability of every token to be the first of the answer."""

    def answer(self, messages: tuple[Message, ...], n: int) -> tuple[list[int], list[int], float]:
        """(tokens of the prompt without those of images; the ``n`` likeliest after it; the least lead of one)."""
        images = [part for m in messages for part in m.content if not isinstance(part, str)]
        conversation = [
            {
                "role": m.role,
                "content": [
                    {"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in m.content
                ],
            }
            for m in messages
        ]
        prompt = self.tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
        inputs: dict[str, Any] = {}
        if images:
            inputs = dict(self.images(images=images, do_resize=False, return_tensors="pt"))
            for grid in inputs["image_grid_thw"]:
                prompt = prompt.replace("<|image_pad|>", "<|here|>" * (int(grid.prod()) // 4), 1)
        inputs |= self.tokenizer(prompt.replace("<|here|>", "<|image_pad|>"), return_tensors="pt")
        ids = inputs["input_ids"]
        pad = self.model.config.image_token_id
        inputs["mm_token_type_ids"] = (ids == pad).int()
        with torch.no_grad():
            output = self.model.generate(
                **inputs, max_new_tokens=n, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        self.first = torch.softmax(output.logits[0][0].double(), dim=-1).numpy()
        best_two = torch.stack(output.logits).topk(2).values
        lead = float((best_two[..., 0] - best_two[..., 1]).min())
        return [t for t in ids[0].tolist() if t != pad], output.sequences[0, ids.shape[1] :].tolist(), lead
