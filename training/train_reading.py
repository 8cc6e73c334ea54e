"""Trains the language tower on what the vision tower sees: the second of two stages.

    torchrun --nproc-per-node 2 -m training.train_reading SCENES RUN OUT --minutes 20

RUN is the folder of the first stage. The vision tower looks at every image once and is not trained any more. OUT is
a Hugging Face folder, written every few minutes. Stop it at any moment: RUN/reading.pt lets `--resume` go on.
"""

import argparse
import copy
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.dataset import RenderedImages, Seen
from training.export import save_hf
from training.losses import Heads, answer_loss
from training.model import build_model
from training.packing import pack
from training.places import tell_places
from training.questions import KINDS, Question, ask, system_prompt
from training.tokenizer import NUMBERS, build_tokenizer
from training.train_seeing import AVERAGING, MUON_RATE, rendered, schedule, share
from training.vision import encode

QUESTIONS = 8  # about each image, in one sequence


@dataclass(frozen=True)
class Remembered:
    """What the vision tower made of images of one size, bfloat16."""

    grid: tuple[int, int]
    tokens: Tensor  # [B, N, D]
    deepstack: list[Tensor]
    objects: list[list[Seen]]


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("run", type=Path, help="folder of the first stage")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20, help="besides the time to look at the images")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--save-every", type=float, default=3, help="minutes")
    parser.add_argument("--bf16", action="store_true", help="for CPUs with bfloat16 arithmetic")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    seeing = torch.load(args.run / "state.pt")
    model.model.visual.load_state_dict(seeing["averaged"])
    heads = Heads(model.config.text_config.hidden_size, model.config.vision_config.hidden_size)
    heads.load_state_dict(seeing["heads"])
    tell_places(model.model.visual.deepstack_merger_list[0], heads.place)
    model.model.language_model.set_attn_implementation("eager")  # the fastest for such short rows
    numbers = torch.tensor(tokenizer.convert_tokens_to_ids(list(NUMBERS)))
    rng = np.random.default_rng([6, rank])
    memory = look(model, args.scenes, rng, bf16=args.bf16)

    averaged = copy.deepcopy(model)
    text = model.model.language_model
    inner = [p for p in text.layers.parameters() if p.ndim == 2]
    rest = [p for p in text.parameters() if all(p is not q for q in inner)]
    parameters = [*inner, *rest]
    muon = torch.optim.Muon(inner, lr=MUON_RATE * args.rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=args.rate, betas=(0.9, 0.98), weight_decay=0.01)
    optimisers = (muon, adamw)
    rates = (MUON_RATE * args.rate, args.rate)
    right: dict[str, list[float]] = defaultdict(list)
    losses: list[float] = []
    offs: list[float] = []
    step, spent = 0, 0.0
    if args.resume:
        state = torch.load(args.run / "reading.pt")
        text.load_state_dict(state["text"])
        averaged.model.language_model.load_state_dict(state["averaged"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, spent = state["step"], state["spent"]
        rng = np.random.default_rng([6, rank, step])

    def save() -> None:
        state = {
            "text": text.state_dict(),
            "averaged": averaged.model.language_model.state_dict(),
            "optimisers": [o.state_dict() for o in optimisers],
            "step": step,
            "spent": spent,
        }
        torch.save(state, args.run / "reading.partial")
        (args.run / "reading.partial").replace(args.run / "reading.pt")
        save_hf(averaged, tokenizer, args.out)

    start = spent
    began = last_save = time.monotonic()
    while spent < args.minutes:
        for optimiser, rate in zip(optimisers, rates, strict=True):
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = rate * schedule(step, spent / args.minutes)
        seen = memory[rng.integers(len(memory))]
        asked = [questions_about(rng, things) for things in seen.objects]
        packed = pack(tokenizer, asked, seen.grid, system_prompt(rng))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            deepstack = [d.float() for d in seen.deepstack]
            loss, good, off = answer_loss(model, seen.tokens.float(), deepstack, packed, numbers)
        loss.backward()  # type: ignore[no-untyped-call]
        spent = share(parameters, start + (time.monotonic() - began) / 60)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        keep = min(AVERAGING, step / (step + 20))
        with torch.no_grad():
            for mean, now in zip(averaged.model.language_model.parameters(), text.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)

        for kind, one in zip((q.kind for row in asked for q in row), good.tolist(), strict=True):
            right[kind].append(one)
        losses.append(loss.item())
        offs += off.tolist()
        if step % 100 == 0 and rank == 0:
            shares = " ".join(f"{k} {np.mean(right[k]):.3f}" for k in KINDS)
            means = f"answer {np.mean(losses):.3f} numbers {np.median(offs):.4f} {np.mean(offs):.4f}"
            print(f"{spent:6.1f} min  step {step}  {means}  {shares}", flush=True)
            right.clear()
            losses.clear()
            offs.clear()
        if rank == 0 and time.monotonic() - last_save > 60 * args.save_every:
            save()
            last_save = time.monotonic()
    if rank == 0:
        save()
    dist.destroy_process_group()


def look(model: nn.Module, scenes: Path, rng: np.random.Generator, *, bf16: bool) -> list[Remembered]:
    """This process's part of the images, as the vision tower sees them."""
    dataset = RenderedImages(dist.get_rank(), dist.get_world_size())
    dataset.add(rendered(scenes))
    memory = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for batch in dataset.all(rng, 16):
            tokens, deepstack, _ = encode(model.model.visual, batch.images)
            grid = (batch.images.shape[2] // 32, batch.images.shape[3] // 32)
            memory.append(Remembered(grid, tokens.bfloat16(), [d.bfloat16() for d in deepstack], batch.objects))
    return memory


def questions_about(rng: np.random.Generator, things: list[Seen]) -> list[Question]:
    """Of different kinds; where one would be ambiguous, whether something is there."""
    kinds = rng.choice(len(KINDS), QUESTIONS, replace=False)
    chosen = [ask(rng, things, KINDS[k]) or ask(rng, things, "exist") for k in kinds]
    return [question for question in chosen if question is not None]


if __name__ == "__main__":
    main()
