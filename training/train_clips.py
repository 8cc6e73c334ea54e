"""Teaches the language tower clips: two more layers, learnt from events while the rest mostly stays as it is.

    torchrun --nproc-per-node 2 -m training.train_clips EVENTS SCENES FOREIGN RUN OUT --weights models/tabletop

EVENTS are images of `render_events.py`; SCENES and FOREIGN those of the second stage, whose questions are asked in
every third step so that they are not forgotten. RUN keeps what the vision tower saw in all of them, and the state: stop
it at any moment, and call it again to go on. OUT is a Hugging Face folder, written every few minutes.
"""

import argparse
import copy
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from training.clip_memory import changes_in, kept, see_events
from training.clip_questions import any_clip_kind, ask_about_clip
from training.clips import frame_count, sample_clip
from training.comparing import COMPARING, READING, WIDE, compare, widen
from training.export import save_hf
from training.losses import answer_loss
from training.model import build_model
from training.muon import Muon
from training.packing import IGNORE, Packed, pack, pack_clips
from training.questions import system_prompt
from training.restore import layers_of, restore
from training.tokenizer import NUMBERS, build_tokenizer
from training.train_reading import earlier_turns, look, questions_about
from training.train_seeing import AVERAGING, MUON_RATE, schedule, share

CLIPS = 6  # in a step of a process
QUESTIONS = 3  # about each
KEPT_RATE = 0.1  # of the learning rate, for what is there already
IMAGES_EVERY = 3  # steps
FOREIGN_SHARE = 0.15  # of the steps about images
_CHANGES = 3  # what becomes of a token: nothing, the thing is there now, it is not any more
_CHANGE_WEIGHT = (0.1, 1.0, 1.0)


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("events", type=Path)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("foreign", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", type=Path, required=True, help="folder with the GGUF pair to begin with")
    parser.add_argument("--steps", type=int, default=1500, help="of all calls together")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="of the new layers")
    parser.add_argument("--save-every", type=float, default=3, help="minutes")
    args = parser.parse_args()
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args.run.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, layers_of(args.weights))
    restore(model, tokenizer, args.weights)
    with torch.no_grad():  # a frame on its own is the same frame twice: the two kernels are used as one
        kernels = model.model.visual.patch_embed.proj.weight
        kernels.copy_(kernels.mean(2, keepdim=True).expand_as(kernels))
    Training(args, tokenizer, model).run()
    dist.destroy_process_group()


class Training:
    """The model, what it learns from, and how far it is."""

    def __init__(
        self, args: argparse.Namespace, tokenizer: PreTrainedTokenizerFast, model: Qwen3VLForConditionalGeneration
    ) -> None:
        self._args, self._tokenizer = args, tokenizer
        self._rank = dist.get_rank()
        rng = np.random.default_rng([8, self._rank])
        self._scenes = kept(
            args.run / f"scenes-{self._rank}.pt", lambda: look(model, args.scenes, rng, is_scene=True, bf16=False)
        )
        self._foreign = kept(
            args.run / f"foreign-{self._rank}.pt", lambda: look(model, args.foreign, rng, is_scene=False, bf16=False)
        )
        self._events = see_events(model, args.events, args.run, rng)
        if len(model.model.language_model.layers) < WIDE:
            model = widen(model, tokenizer)
            compare(model, *self._reaching(model))
        model.model.language_model.set_attn_implementation("eager")  # the fastest for such rows
        self.model, self.averaged = model, copy.deepcopy(model)
        self._changes = nn.Linear(model.config.text_config.hidden_size, _CHANGES)
        self._numbers = torch.tensor(tokenizer.convert_tokens_to_ids(list(NUMBERS)))
        self._optimisers, self._rates = self._optimise(args.rate)
        self._step, self._spent = 0, 0.0
        self._rng = np.random.default_rng([9, self._rank])
        self._compared: list[Tensor] = []
        model.model.language_model.layers[COMPARING].register_forward_hook(
            lambda _layer, _given, made: self._compared.append(made[0] if isinstance(made, tuple) else made)
        )
        if (args.run / "clips.pt").exists():
            self._load(torch.load(args.run / "clips.pt"))

    def _optimise(self, rate: float) -> tuple[list[torch.optim.Optimizer], list[float]]:
        """Muon for matrices, AdamW for the rest; what is there already learns slowly, as does where heads look."""
        text = self.model.model.language_model
        new = [text.layers[n] for n in (COMPARING, READING)]
        looking = [text.layers[COMPARING].self_attn.q_proj.weight, text.layers[COMPARING].self_attn.k_proj.weight]
        known = {id(p) for p in looking}
        fast = [p for layer in new for p in layer.parameters() if id(p) not in known]
        known |= {id(p) for p in fast}
        slow = [p for p in text.parameters() if id(p) not in known]
        embedding = [text.embed_tokens.weight]
        kept = [p for p in slow if p.ndim == 2 and p is not embedding[0]]
        rest = [p for p in slow if p.ndim < 2] + looking
        self._parameters = [*fast, *kept, *rest, *embedding, *self._changes.parameters()]

        def adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
            return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)

        optimisers: list[torch.optim.Optimizer] = [
            Muon([p for p in fast if p.ndim == 2], lr=rate, weight_decay=0.05),
            Muon(kept, lr=rate, weight_decay=0.0),
            adamw([*(p for p in fast if p.ndim < 2), *self._changes.parameters()]),
            adamw([*rest, *embedding]),
        ]
        return optimisers, [MUON_RATE * rate, MUON_RATE * rate * KEPT_RATE, rate, rate * KEPT_RATE]

    def run(self) -> None:
        """All steps, or those that are left."""
        right: dict[str, list[float]] = defaultdict(list)
        losses: list[float] = []
        changes: list[float] = []
        start = self._spent
        began = last_save = time.monotonic()
        while self._step < self._args.steps:
            for optimiser, rate in zip(self._optimisers, self._rates, strict=True):
                optimiser.zero_grad(set_to_none=True)
                for group in optimiser.param_groups:
                    group["lr"] = rate * schedule(self._step, self._step / self._args.steps)
            for parameter in self._parameters:
                parameter.grad = torch.zeros_like(parameter)
            self._compared.clear()
            loss, good, kinds, change = self._about_images() if self._step % IMAGES_EVERY == 0 else self._about_clips()
            loss.backward()  # type: ignore[no-untyped-call]
            self._spent = share(self._parameters, start + (time.monotonic() - began) / 60)
            nn.utils.clip_grad_norm_(self._parameters, 1.0)
            for optimiser in self._optimisers:
                optimiser.step()
            self._step += 1
            keep = min(AVERAGING, self._step / (self._step + 20))
            with torch.no_grad():
                now = self.model.model.language_model.parameters()
                for mean, value in zip(self.averaged.model.language_model.parameters(), now, strict=True):
                    mean.lerp_(value, 1 - keep)
            for kind, one in zip(kinds, good, strict=True):
                right[kind].append(one)
            losses.append(loss.item())
            changes += change
            if self._step % 20 == 0 and self._rank == 0:
                shares = " ".join(f"{k} {np.mean(v):.3f}" for k, v in sorted(right.items()))
                seen = f"changes {np.mean(changes):.3f}" if changes else ""
                print(f"{self._spent:6.1f} min  step {self._step}  {np.mean(losses):.3f} {seen}  {shares}", flush=True)
                right.clear()
                losses.clear()
                changes.clear()
            if self._rank == 0 and time.monotonic() - last_save > 60 * self._args.save_every:
                self._save()
                last_save = time.monotonic()
        if self._rank == 0 and self._step:
            self._save()

    def _about_clips(self) -> tuple[Tensor, list[float], list[str], list[float]]:
        rng, frames = self._rng, frame_count(self._rng)
        grid = self._events[rng.integers(len(self._events))].grid
        alike = [event for event in self._events if event.grid == grid]
        chosen = [alike[rng.integers(len(alike))] for _ in range(CLIPS)]
        clips = [sample_clip(rng, one.event, frames) for one in chosen]
        asked = [
            [ask_about_clip(rng, one.event, clip, any_clip_kind(rng)) for _ in range(QUESTIONS)]
            for one, clip in zip(chosen, clips, strict=True)
        ]
        packed = pack_clips(self._tokenizer, asked, grid, [clip.times for clip in clips], system_prompt(rng))
        versions = torch.from_numpy(rng.integers(2, size=(CLIPS, frames)))
        states = torch.tensor([clip.states for clip in clips])
        shown = list(zip(chosen, versions, states, strict=True))
        tokens = torch.stack([one.tokens[v, s].flatten(0, 1) for one, v, s in shown])
        places = torch.stack([one.deepstack[v, s].flatten(0, 1) for one, v, s in shown])
        loss, good = clip_loss(self.model, tokens.float(), places.float(), packed)
        change = torch.stack([changes_in(one, clip) for one, clip in zip(chosen, clips, strict=True)])
        told = self._changes(self._compared[0][packed.visual]).view(*change.shape, _CHANGES)
        weight = torch.tensor(_CHANGE_WEIGHT)
        loss = loss + 0.5 * functional.cross_entropy(told.flatten(0, 1), change.flatten(), weight)
        there = change > 0
        found = (told.argmax(-1) == change)[there].float().tolist()
        return loss, good.tolist(), [f"clip_{q.kind}" for row in asked for q in row], found

    def _about_images(self) -> tuple[Tensor, list[float], list[str], list[float]]:
        rng = self._rng
        memory = self._foreign if rng.random() < FOREIGN_SHARE else self._scenes
        seen = memory[rng.integers(len(memory))]
        asked = [questions_about(rng, things, is_scene=seen.is_scene) for things in seen.objects]
        packed = pack(self._tokenizer, asked, seen.grid, system_prompt(rng), earlier_turns(rng, seen))
        loss, good, _ = answer_loss(
            self.model, seen.tokens.float(), [d.float() for d in seen.deepstack], packed, self._numbers
        )
        return loss, good.tolist(), [q.kind for row in asked for q in row], []

    def _reaching(self, model: Qwen3VLForConditionalGeneration) -> tuple[Tensor, Tensor]:
        """What reaches the comparing layer, in some clips and images, and which of it is visual."""
        given: list[Tensor] = []
        layer = model.model.language_model.layers[COMPARING]
        handle = layer.register_forward_pre_hook(lambda _layer, got: given.append(got[0]))
        rng = np.random.default_rng(10)
        visual = []
        with torch.no_grad():
            for one in self._events[:: max(1, len(self._events) // 12)][:12]:
                clip = sample_clip(rng, one.event, 3)
                asked = [[ask_about_clip(rng, one.event, clip, any_clip_kind(rng)) for _ in range(QUESTIONS)]]
                packed = pack_clips(self._tokenizer, asked, one.grid, [clip.times], None)
                tokens = torch.cat([one.tokens[0, s] for s in clip.states])[None].float()
                places = torch.cat([one.deepstack[0, s] for s in clip.states])[None].float()
                clip_loss(model, tokens, places, packed)
                visual.append(packed.visual[0])
        handle.remove()
        return torch.cat([one[0] for one in given]), torch.cat(visual)

    def _save(self) -> None:
        state = {
            "text": self.model.model.language_model.state_dict(),
            "averaged": self.averaged.model.language_model.state_dict(),
            "changes": self._changes.state_dict(),
            "optimisers": [o.state_dict() for o in self._optimisers],
            "step": self._step,
            "spent": self._spent,
        }
        torch.save(state, self._args.run / "clips.partial")
        (self._args.run / "clips.partial").replace(self._args.run / "clips.pt")
        save_hf(self.averaged, self._tokenizer, self._args.out)

    def _load(self, state: dict) -> None:  # type: ignore[type-arg]
        self.model.model.language_model.load_state_dict(state["text"])
        self.averaged.model.language_model.load_state_dict(state["averaged"])
        self._changes.load_state_dict(state["changes"])
        for optimiser, saved in zip(self._optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self._step, self._spent = state["step"], state["spent"]
        self._rng = np.random.default_rng([9, self._rank, self._step])


def clip_loss(
    model: Qwen3VLForConditionalGeneration, tokens: Tensor, places: Tensor, packed: Packed
) -> tuple[Tensor, Tensor]:
    """Read the questions with the frames' tokens [B, N, D] in place.

    Returns the loss, and for each answer, in reading order, whether all its tokens are the likeliest.
    """
    text = model.model.language_model
    embeddings = text.embed_tokens(packed.ids)
    embeddings = embeddings.masked_scatter(packed.visual[..., None], tokens.to(embeddings.dtype))
    hidden = text(
        inputs_embeds=embeddings,
        position_ids=packed.positions,
        attention_mask=packed.mask,
        visual_pos_masks=packed.visual,
        deepstack_visual_embeds=[places.flatten(0, 1)],
        use_cache=False,
    ).last_hidden_state
    asked = packed.targets != IGNORE
    targets = packed.targets[asked]
    chances = model.lm_head(hidden[asked]).float().log_softmax(-1)
    each = -chances.gather(1, targets[:, None])[:, 0]
    last = targets == model.config.text_config.eos_token_id
    weight = torch.ones_like(each).masked_fill(last, 0.2)
    wrong = (chances.argmax(-1) != targets).long()
    answer = torch.cumsum(last, 0) - last.long()  # the number of the answer that a token belongs to
    right = torch.zeros(int(last.sum()), dtype=torch.long).scatter_add(0, answer, wrong) == 0
    return (weight * each).sum() / weight.sum(), right


if __name__ == "__main__":
    main()
