"""Trains the vision tower from nothing on rendered images, for a given time: the first of two stages.

    torchrun --nproc-per-node 2 -m training.train_seeing SCENES OUT --minutes 90

One process with one thread per core: they share each batch, and wait for each other once a step.
Stop it at any moment: OUT/state.pt holds the weights as of a few minutes ago, with their average
over the last steps, and lets `--resume` go on. The learning rate follows the clock, so that it
has come down when the time is up. Then the head that reads places is fitted to the averaged weights.
"""

import argparse
import copy
import math
import time
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from training.dataset import LABELS, RenderedImages, cell_targets
from training.losses import CELL, Heads, Sight, of_tokens, seeing_loss, true_places
from training.model import build_model
from training.muon import Muon
from training.places import fit_places
from training.tokenizer import build_tokenizer
from training.vision import encode

WARM_UP_STEPS = 60
MUON_RATE = 2.5  # times AdamW's
AVERAGING = 0.998  # of the weights, per step
LOOK_FOR_IMAGES = 250  # steps
FITTED_TO = 120  # batches of 16 images, for the last fit of the places


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=90)
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

    model = build_model(build_tokenizer())
    tower = model.model.visual
    heads = Heads(model.config.text_config.hidden_size, model.config.vision_config.hidden_size)
    averaged = copy.deepcopy(tower)
    optimisers = optimisers_for(tower, heads, args.rate)
    step, spent = 0, 0.0
    if args.resume:
        state = torch.load(args.out / "state.pt")
        tower.load_state_dict(state["tower"])
        averaged.load_state_dict(state["averaged"])
        heads.load_state_dict(state["heads"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step, spent = state["step"], state["spent"]

    def save() -> None:
        state = {
            "tower": tower.state_dict(),
            "averaged": averaged.state_dict(),
            "heads": heads.state_dict(),
            "optimisers": [o.state_dict() for o in optimisers],
            "step": step,
            "spent": spent,
        }
        torch.save(state, args.out / "state.partial")
        (args.out / "state.partial").replace(args.out / "state.pt")

    plan_rng = np.random.default_rng([2, step])
    rng = np.random.default_rng([3, step, rank])
    torch.manual_seed(step * processes + rank)
    dataset = RenderedImages(rank, processes)
    parameters = [*tower.parameters(), *heads.parameters()]
    seen: list[Sight] = []
    began = last_save = time.monotonic()
    start = spent
    while spent < args.minutes:
        if step % LOOK_FOR_IMAGES == 0 or spent == start:
            dataset.add(rendered(args.scenes))
        batch = dataset.batch(plan_rng, rng, args.batch // processes)
        progress = spent / args.minutes
        for group in (g for optimiser in optimisers for g in optimiser.param_groups):
            group["lr"] = group["initial_lr"] * schedule(step, progress)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            sight = seeing_loss(tower, heads, batch)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        sight.loss.backward()  # type: ignore[no-untyped-call]
        spent = share(parameters, start + (time.monotonic() - began) / 60)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
        step += 1
        keep = min(AVERAGING, step / (step + 20))
        with torch.no_grad():
            for mean, now in zip(averaged.parameters(), tower.parameters(), strict=True):
                mean.lerp_(now, 1 - keep)

        seen.append(replace(sight, loss=sight.loss.detach()))
        if step % 25 == 0 and rank == 0:
            means = [(f.name, np.mean([float(getattr(s, f.name)) for s in seen])) for f in fields(Sight)]
            print(f"{spent:6.1f} min  step {step}  " + "  ".join(f"{n} {m:.3f}" for n, m in means), flush=True)
            seen.clear()
        if rank == 0 and time.monotonic() - last_save > 60 * args.save_every:
            save()
            last_save = time.monotonic()
    if rank == 0:
        print("fitting the head of the places: some minutes", flush=True)
        fit_to(averaged, heads, dataset, rng)
        save()
    dist.destroy_process_group()


def fit_to(tower: Qwen3VLVisionModel, heads: Heads, dataset: RenderedImages, rng: np.random.Generator) -> None:
    """Let the head of the places read this tower as well as it can; each object counts the same."""
    seen, places, weights = [], [], []
    with torch.no_grad():
        for _ in range(FITTED_TO):
            batch = dataset.batch(rng, rng, 16)
            _, _, patches = encode(tower, batch.images)
            target = cell_targets(batch, CELL)
            there = target.label > 0
            tokens_of_object = functional.one_hot(target.label, LABELS).sum(1).gather(1, target.label)
            seen.append(of_tokens(patches)[there])
            places.append(true_places(target)[there])
            weights.append(1 / tokens_of_object[there])
    fit_places(heads.place, torch.cat(seen), torch.cat(places), torch.cat(weights))


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


def schedule(step: int, progress: float) -> float:
    """Factor of the learning rate: a short warm-up, then half a cosine down."""
    return min(1, (step + 1) / WARM_UP_STEPS) * (0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2)


def optimisers_for(tower: Qwen3VLVisionModel, heads: Heads, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the tower, which usually needs fewer steps; AdamW for the rest.

    https://kellerjordan.github.io/posts/muon
    """
    inner = [
        p for m in (tower.blocks, tower.merger, tower.deepstack_merger_list) for p in m.parameters() if p.ndim == 2
    ]
    known = {id(p) for p in inner}
    rest = [p for p in (*tower.parameters(), *heads.parameters()) if id(p) not in known]
    muon = Muon(inner, lr=MUON_RATE * rate, weight_decay=0.05)
    adamw = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for optimiser in (muon, adamw):
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return [muon, adamw]


if __name__ == "__main__":
    main()
