"""Writes a model as a Hugging Face folder: weights, tokenizer, preprocessor configuration, and what it is for."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from qwen3vl_ros.engines.base import ModelCard
from qwen3vl_ros.engines.model_card import card_json
from training.llama_cpp_converter import CARD_FILE
from training.model import MAX_PIXELS, MIN_PIXELS

CARD = ModelCard(
    domain="It knows coloured boxes, balls and cylinders only.",
    demonstration=True,
    tasks=("caption", "vqa", "yes_no", "count", "locate", "detect", "point"),
    languages=("en", "zh"),
    license="Apache-2.0",
    grounding_image_tokens=MAX_PIXELS // (32 * 32),
)


def save_hf(model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write into `folder` what transformers and llama.cpp's converter read."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vision = model.config.vision_config
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "processor_class": "Qwen3VLProcessor",
        "size": {"longest_edge": MAX_PIXELS, "shortest_edge": MIN_PIXELS},
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / CARD_FILE).write_text(card_json(CARD) + "\n")
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")
