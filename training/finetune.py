"""Fine-tunes the shipped model on a recording, as `qwen3vl-ros record export --format messages` wrote it.

    python -m training.finetune DATASET OUT --epochs 20

Only the language tower learns, with the vision tower as it is. OUT is a Hugging Face folder; `training.convert` makes
the GGUF pair of it that the node loads.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from qwen3vl_ros.engines.base import ImageInput
from qwen3vl_ros.vision.fit import fit_image
from training.export import save_hf
from training.model import MAX_PIXELS, build_model
from training.packing import IGNORE
from training.questions import Question
from training.restore import layers_of, restore
from training.tokenizer import build_tokenizer, encode_answer

PAD = "<|image_pad|>"
TOGETHER = 8  # samples of a step


@dataclass(frozen=True)
class Sample:
    """A question with its right answer, as the model takes them."""

    ids: Tensor  # long [1, L]
    labels: Tensor  # long [1, L]: the token where it is part of the answer, else IGNORE
    pixels: Tensor | None  # patches of all images, [patches, 3 * frames * patch * patch]
    grids: Tensor | None  # long [images, 3]: frames, rows and columns of patches


def samples_of(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Iterator[Sample]:
    """Yield the samples of a data set. Raises ValueError for one with a video, which the model does not know."""
    for line in (folder / "messages.jsonl").read_text(encoding="utf-8").splitlines():
        yield sample_of(json.loads(line)["messages"], folder, tokenizer)


def sample_of(messages: Sequence[Mapping[str, Any]], folder: Path, tokenizer: PreTrainedTokenizerFast) -> Sample:
    """Tokenize a conversation whose last turn is the right answer; its images are in `folder`."""
    *asked, answered = messages
    parts = [part for message in asked for part in message["content"]]
    if any(part["type"] == "video" for part in parts):
        raise ValueError("the data set has a clip, which the shipped model does not know: leave it out")
    prompt: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    pixels, grids = [], []
    for part in parts:
        if part["type"] == "image":
            patches, rows, columns = _patches(np.asarray(PIL.Image.open(folder / part["image"]).convert("RGB")))
            pixels.append(patches)
            grids.append([1, rows, columns])
            prompt = prompt.replace(PAD, "\0" * (rows * columns // 4), 1)
    before = tokenizer.encode(prompt.replace("\0", PAD), add_special_tokens=False)
    answer = encode_answer(tokenizer, Question("", "".join(part["text"] for part in answered["content"]), "exist"))
    return Sample(
        torch.tensor([before + answer]),
        torch.tensor([[IGNORE] * len(before) + answer]),
        torch.cat(pixels) if pixels else None,
        torch.tensor(grids) if grids else None,
    )


def finetune(
    model: Qwen3VLForConditionalGeneration, samples: Sequence[Sample], epochs: int, rate: float
) -> Iterator[float]:
    """Train the language tower; yield the mean loss of each epoch."""
    model.requires_grad_(False)
    text = model.model.language_model.requires_grad_(True)
    parameters = list(text.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    rng = np.random.default_rng(0)
    for _ in range(epochs):
        losses = []
        order = rng.permutation(len(samples))
        for start in range(0, len(order), TOGETHER):
            batch = order[start : start + TOGETHER]
            optimiser.zero_grad(set_to_none=True)
            for index in batch:
                loss = loss_of(model, samples[index])
                (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
                losses.append(loss.item())
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
        yield float(np.mean(losses))


def loss_of(model: Qwen3VLForConditionalGeneration, sample: Sample) -> Tensor:
    """The mean cross entropy of the answer's tokens."""
    loss: Tensor = model(**_inputs(model, sample), labels=sample.labels).loss
    return loss


@torch.no_grad()
def likeliest(model: Qwen3VLForConditionalGeneration, sample: Sample) -> list[int]:
    """At each token of the right answer, the one that the model would have said."""
    logits = model(**_inputs(model, sample)).logits[0, :-1]
    guessed: list[int] = logits.argmax(-1)[sample.labels[0, 1:] != IGNORE].tolist()
    return guessed


def _inputs(model: Qwen3VLForConditionalGeneration, sample: Sample) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": sample.ids, "attention_mask": torch.ones_like(sample.ids)}
    if sample.pixels is not None:
        kinds = (sample.ids == model.config.image_token_id).int()
        inputs |= {"pixel_values": sample.pixels, "image_grid_thw": sample.grids, "mm_token_type_ids": kinds}
    return inputs


def _patches(image: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[Tensor, int, int]:
    """An image -> patches in the tower's order, rows and columns of them; fitted as the node does it."""
    fitted, _ = fit_image(image, ImageInput(max_tokens=MAX_PIXELS // 32**2))
    scaled = torch.from_numpy(fitted.copy()).permute(2, 0, 1).float() / 127.5 - 1
    channels, height, width = scaled.shape
    rows, columns = height // 16, width // 16
    tiles = scaled.view(channels, rows // 2, 2, 16, columns // 2, 2, 16).permute(1, 4, 2, 5, 0, 3, 6)
    frames = tiles.reshape(rows * columns, channels, 1, 16 * 16).expand(-1, -1, 2, -1)  # a still image twice
    return frames.reshape(rows * columns, -1), rows, columns


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("models/tabletop"), help="folder with a GGUF pair")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1e-4)
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, layers_of(args.weights))
    restore(model, tokenizer, args.weights)
    samples = list(samples_of(args.dataset, tokenizer))
    for epoch, loss in enumerate(finetune(model, samples, args.epochs, args.rate), 1):
        print(f"epoch {epoch}  loss {loss:.3f}", flush=True)
    save_hf(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
