"""Trains the language tower on what the vision tower sees: the second of two stages.

    torchrun --nproc-per-node 2 -m training.train_reading SCENES FOREIGN RUN OUT --minutes 20

SCENES and FOREIGN are images that are scenes and images that are none. RUN is the folder of the first stage. The vision
tower looks at every image once and is not trained any more. OUT is a Hugging Face folder, written every few minutes.
Stop it at any moment: RUN/reading.pt lets `--resume` go on. With `--weights FOLDER` both towers begin with the weights
of the GGUF pair in it, and RUN needs no first stage.
"""

import argparse
import copy
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.dataset import RenderedImages, Seen
from training.export import save_hf
from training.losses import Heads, answer_loss
from training.model import LAYERS, build_model
from training.muon import Muon
from training.packing import pack
from training.places import tell_places
from training.questions import KINDS, Question, any_kind, ask, ask_in_vain, scene_objects, system_prompt
from training.restore import layers_of, restore
from training.tokenizer import NUMBERS, build_tokenizer
from training.train_seeing import AVERAGING, MUON_RATE, rendered, schedule, share
from training.vision import encode
from training.wordings import LANGUAGES, Language

QUESTIONS = 4  # about each image, in one sequence
FOREIGN_SHARE = 0.15  # of the steps
HISTORY_SHARE = 0.4  # of the questions
LONGEST_HISTORY = 3  # questions before one, in a conversation


@dataclass(frozen=True)
class Remembered:
    """What the vision tower made of images of one size, bfloat16."""

    grid: tuple[int, int]
    tokens: Tensor  # [B, N, D]
    deepstack: list[Tensor]
    objects: list[list[Seen]]
    is_scene: bool


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("foreign", type=Path, help="folder of images that are no scenes")
    parser.add_argument("run", type=Path, help="folder of the first stage")
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=20, help="besides the time to look at the images")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--weights", type=Path, help="folder with a GGUF pair whose weights to begin with")
    parser.add_argument("--save-every", type=float, default=3, help="minutes")
    parser.add_argument("--bf16", action="store_true", help="for CPUs with bfloat16 arithmetic")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    tokenizer = build_tokenizer()
    model = build_model(tokenizer, layers_of(args.weights) if args.weights else LAYERS)
    args.run.mkdir(parents=True, exist_ok=True)
    if args.weights:
        restore(model, tokenizer, args.weights)
    else:
        seeing = torch.load(args.run / "state.pt")
        model.model.visual.load_state_dict(seeing["averaged"])
        heads = Heads(model.config.text_config.hidden_size, model.config.vision_config.hidden_size)
        heads.load_state_dict(seeing["heads"])
        tell_places(model.model.visual.deepstack_merger_list[0], heads.place)
    model.model.language_model.set_attn_implementation("eager")  # the fastest for such short rows
    numbers = torch.tensor(tokenizer.convert_tokens_to_ids(list(NUMBERS)))
    rng = np.random.default_rng([6, rank])
    scenes = look(model, args.scenes, rng, is_scene=True, bf16=args.bf16)
    foreign = look(model, args.foreign, rng, is_scene=False, bf16=args.bf16)

    averaged = copy.deepcopy(model)
    text = model.model.language_model
    inner = [p for p in text.layers.parameters() if p.ndim == 2]
    rest = [p for p in text.parameters() if all(p is not q for q in inner)]
    parameters = [*inner, *rest]
    muon = Muon(inner, lr=MUON_RATE * args.rate, weight_decay=0.05)
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
        memory = foreign if rng.random() < FOREIGN_SHARE else scenes
        seen = memory[rng.integers(len(memory))]
        asked = [questions_about(rng, things, is_scene=seen.is_scene) for things in seen.objects]
        packed = pack(tokenizer, asked, seen.grid, system_prompt(rng), earlier_turns(rng, seen))
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


def look(model: nn.Module, images: Path, rng: np.random.Generator, *, is_scene: bool, bf16: bool) -> list[Remembered]:
    """This process's part of the images, as the vision tower sees them."""
    dataset = RenderedImages(dist.get_rank(), dist.get_world_size())
    dataset.add(rendered(images))
    memory = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for batch in dataset.all(rng, 8):
            tokens, deepstack, _ = encode(model.model.visual, batch.images)
            grid = (batch.images.shape[2] // 32, batch.images.shape[3] // 32)
            deepstack = [d.bfloat16() for d in deepstack]
            memory.append(Remembered(grid, tokens.bfloat16(), deepstack, batch.objects, is_scene))
    return memory


def questions_about(rng: np.random.Generator, things: list[Seen], *, is_scene: bool) -> list[Question]:
    """Of many kinds, a third of them after others; where one would be ambiguous, whether something is there."""

    def one(language: Language | None = None) -> Question:
        if is_scene:
            question = ask(rng, things, any_kind(rng), language) or ask(rng, things, "exist", language)
        else:
            question = ask_in_vain(rng, scene_objects(rng), language)
        return question or one(language)

    asked = []
    for _ in range(QUESTIONS):
        language = LANGUAGES[int(rng.random() < 0.35)]
        question = one(language)
        if rng.random() < HISTORY_SHARE:
            before = [one(language) for _ in range(rng.integers(1, LONGEST_HISTORY + 1))]
            question = replace(question, history=tuple((q.text, q.answer) for q in before))
        asked.append(question)
    return asked


def earlier_turns(rng: np.random.Generator, seen: Remembered) -> list[tuple[str, str]]:
    """Mostly none; else what was said about another image, which is not shown any more."""
    if rng.random() < 0.8:
        return []
    things = seen.objects[rng.integers(len(seen.objects))]
    kinds = [any_kind(rng) for _ in range(rng.integers(1, LONGEST_HISTORY + 1))]
    asked = [ask(rng, things, kind) for kind in kinds]
    return [(question.text, question.answer) for question in asked if question is not None]


if __name__ == "__main__":
    main()
