"""Trains the model from nothing on rendered pictures, for a given time.

    torchrun --nproc-per-node 2 -m training.train SCENES OUT --minutes 65

One process with one thread per core: they share each batch, and wait for each other once a step.
Stop it at any moment: OUT/hf holds the averaged weights as of a few minutes ago, and
OUT/state.pt lets `--resume` go on. The learning rate follows the clock, so that it has come
down when the time is up.
"""

import argparse
import copy
import math
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from training.dataset import Pictures
from training.export import save_hf
from training.losses import Heads, losses
from training.model import build_model
from training.packing import pack
from training.questions import KINDS, Question, ask, system_prompt
from training.tokenizer import build_tokenizer

WARM_UP_STEPS = 60
ALWAYS_READING = 0.5  # share of the time after which every batch has questions
MUON_RATE = 2.5  # times AdamW's
AVERAGING = 0.998  # of the weights, per step


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--save-every", type=float, default=3, help="minutes")
    parser.add_argument("--bf16", action="store_true", help="for CPUs with bfloat16 arithmetic")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)

    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.model.language_model.set_attn_implementation("eager")  # the fastest for such short rows
    config = model.config
    heads = Heads(config.text_config.hidden_size, config.vision_config.hidden_size)
    averaged = copy.deepcopy(model)
    optimisers = optimisers_for(model, heads, args.rate)
    step, spent = 0, 0.0
    if args.resume:
        state = torch.load(args.out / "state.pt")
        model.load_state_dict(state["model"])
        averaged.load_state_dict(state["averaged"])
        heads.load_state_dict(state["heads"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, spent = state["step"], state["spent"]

    def save() -> None:
        save_hf(averaged, tokenizer, args.out / "hf")
        state = {
            "model": model.state_dict(),
            "averaged": averaged.state_dict(),
            "heads": heads.state_dict(),
            "optimisers": [o.state_dict() for o in optimisers],
            "step": step,
            "spent": spent,
        }
        torch.save(state, args.out / "state.partial")
        (args.out / "state.partial").replace(args.out / "state.pt")

    torch.manual_seed(step * processes + rank)
    plan_rng = np.random.default_rng([2, step])
    rng = np.random.default_rng([3, step, rank])
    part = slice(rank, None, processes)
    pictures = Pictures()
    parameters = [*model.parameters(), *heads.parameters()]
    right: dict[str, list[float]] = defaultdict(list)
    totals: list[tuple[float, float]] = []
    began = last_save = time.monotonic()
    start = spent
    while spent < args.minutes:
        pictures.add(rendered(args.scenes))
        for batch in pictures.batches(plan_rng, rng, args.batch, part):
            progress = spent / args.minutes
            if progress >= 1:
                break
            for group in (g for optimiser in optimisers for g in optimiser.param_groups):
                group["lr"] = group["initial_lr"] * schedule(step, progress)
            # Reading is learnt soon, seeing is not: at first, every second batch is only looked at.
            reading = step % 2 == 0 or progress > ALWAYS_READING
            asked = [questions_about(rng, objects) for objects in batch.objects] if reading else []
            height, width = batch.images.shape[2:]
            grid = (height // 32, width // 32)
            packed = pack(tokenizer, asked, grid, system_prompt(rng)) if reading else None
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = losses(model, heads, batch, packed)
            # Seeing first; the answers count more as the rate comes down.
            total = loss.answer + (1 - 0.7 * progress) * loss.seeing
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            spent = share(parameters, start + (time.monotonic() - began) / 60)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            for optimiser in optimisers:
                optimiser.step()
            step += 1
            keep = min(AVERAGING, step / (step + 20))
            with torch.no_grad():
                for mean, now in zip(averaged.parameters(), model.parameters(), strict=True):
                    mean.lerp_(now, 1 - keep)

            flat = [q.kind for row in asked for q in row]
            for kind, good in zip(flat, loss.right.tolist(), strict=True):
                right[kind].append(good)
            totals.append((loss.answer.item() if reading else np.nan, loss.seeing.item()))
            if step % 25 == 0 and rank == 0:
                answer, seeing = np.nanmean(totals, axis=0)
                shares = " ".join(f"{k} {np.mean(right[k]):.3f}" for k in KINDS)
                print(
                    f"{spent:6.1f} min  step {step}  {len(pictures)} pictures  "
                    f"answer {answer:.3f} seeing {seeing:.3f}  {shares}",
                    flush=True,
                )
                right.clear()
                totals.clear()
            if rank == 0 and time.monotonic() - last_save > 60 * args.save_every:
                save()
                last_save = time.monotonic()
    if rank == 0:
        save()
    dist.destroy_process_group()


def rendered(folder: Path) -> list[Path]:
    """The files there are now, as the first process sees them."""
    names = [sorted(folder.glob("*.npz"))]
    dist.broadcast_object_list(names)
    return names[0]


def share(parameters: list[nn.Parameter], minutes: float) -> float:
    """Average the gradients, and the clock, over the processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in gradients), torch.tensor([minutes])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat[:-1].split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(flat[-1])


def questions_about(rng: np.random.Generator, objects: list[tuple[str, str]]) -> list[Question]:
    """One of each kind; where a kind would be ambiguous, whether something is there."""
    chosen = [ask(rng, objects, kind) or ask(rng, objects, "exist") for kind in KINDS]
    return [question for question in chosen if question is not None]


def schedule(step: int, progress: float) -> float:
    """Factor of the learning rate: a short warm-up, then half a cosine down."""
    return min(1, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def optimisers_for(model: Qwen3VLForConditionalGeneration, heads: Heads, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the two towers, which usually needs fewer steps; AdamW for the rest.

    https://kellerjordan.github.io/posts/muon
    """
    towers = [model.model.visual.blocks, model.model.visual.merger]
    towers += [model.model.visual.deepstack_merger_list, model.model.language_model.layers]
    inner = [p for tower in towers for p in tower.parameters() if p.ndim == 2]
    known = {id(p) for p in inner}
    rest = [p for p in (*model.parameters(), *heads.parameters()) if id(p) not in known]
    muon = torch.optim.Muon(inner, lr=MUON_RATE * rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for optimiser in (muon, adamw):
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return [muon, adamw]


if __name__ == "__main__":
    main()
