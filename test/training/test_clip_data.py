"""What the shipped model learns about time from: events, clips of them, and questions with their answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from qwen3vl_ros.engines.clips import time_text
from qwen3vl_ros.vision.moments import parse_moments
from training.clip_questions import (
    NEVER,
    SENTENCES,
    WHAT_HAPPENED,
    WHEN,
    any_clip_kind,
    ask_about_clip,
    sentence,
)
from training.clips import SeenClip, SeenEvent, frame_count, sample_clip
from training.dataset import Seen
from training.events import (
    ASIDE,
    BEGINNING,
    GONE,
    HALFWAY,
    IN_DEPTH,
    STATES,
    EventScene,
    distance,
    happening,
    middle,
    sample_event_scene,
)
from training.packing import IGNORE, pack_clips
from training.questions import Question
from training.tokenizer import build_tokenizer, encode_answer
from training.wordings import LANGUAGES, Language

SCENES = range(40)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="module")
def scenes() -> list[EventScene]:
    return [sample_event_scene("train", index, (640, 480)) for index in SCENES]


def test_all_but_one_object_is_as_before_in_every_state_of_an_event(scenes: list[EventScene]) -> None:
    for scene in scenes:
        for state in range(1, STATES):
            if scene.number[state] < 0:
                continue
            now = scene.state(state)
            assert replace(now, objects=()) == replace(scene.scene, objects=())
            others = [o for n, o in enumerate(scene.scene.objects) if n != scene.number[state]]
            assert [o for o in now.objects if o in others] == others
            assert len(now.objects) == len(scene.scene.objects) - (state == GONE)


def test_where_a_thing_moves_is_what_is_said_of_it(scenes: list[EventScene]) -> None:
    seen = set()
    for scene in scenes:
        camera = scene.scene.camera
        for state in (ASIDE, HALFWAY, IN_DEPTH):
            thing = scene.thing[state]
            if thing is None:
                continue
            first = scene.scene.objects[scene.number[state]]
            said = happening(scene, state)
            seen.add(said)
            shift, farther = (
                middle(camera, thing) - middle(camera, first),
                distance(camera, thing) - distance(camera, first),
            )
            if state == IN_DEPTH:
                assert said == ("moved_nearer" if farther < 0 else "moved_away")
                assert abs(farther) > 0.1 * distance(camera, first)
            else:
                assert said == ("moved_left" if shift < 0 else "moved_right")
                assert abs(shift) > 0.03
                assert abs(farther) < 0.01
            assert happening(scene, state, backwards=True) != said
        assert happening(scene, GONE) == "left"
        assert happening(scene, GONE, backwards=True) == "came"
    assert seen == {"moved_left", "moved_right", "moved_nearer", "moved_away"}


def test_a_clip_changes_where_it_says_so() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(500):
        clip = sample_clip(rng, _event(), frame_count(rng))
        seen.add(clip.happening)
        changes = [n for n in range(1, len(clip.states)) if clip.states[n] != clip.states[n - 1]]
        if clip.happening == "nothing":
            assert changes == []
        else:
            assert (changes[0], changes[-1]) == (clip.first, clip.last)
            assert clip.states[clip.last :] == (clip.states[-1],) * (len(clip.states) - clip.last)
        assert all(later - time > 0.2 for time, later in zip(clip.times, clip.times[1:], strict=False))
    assert seen == set(SENTENCES["en"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_times_of_answers_are_moments_of_the_clip(language: Language) -> None:
    rng = np.random.default_rng(1)
    moments = 0
    for _ in range(300):
        clip = sample_clip(rng, _event(), frame_count(rng))
        question = ask_about_clip(rng, _event(), clip, any_clip_kind(rng), language)
        found = parse_moments(question.answer, clip.times[-1])
        assert not found.notes
        if question.kind == "when" and question.answer not in ("[]", NEVER[language]):
            assert len(found.moments) == 1
        for moment in found.moments:
            moments += 1
            assert moment.start == pytest.approx(clip.times[clip.first], abs=0.06)
            if question.answer.startswith("["):
                assert moment.end == pytest.approx(clip.times[clip.last], abs=0.06)
                assert moment.label == sentence(_event(), clip, language)
    assert moments > 60


def test_a_time_is_only_told_of_what_happened() -> None:
    rng = np.random.default_rng(2)
    event = _event()
    still = SeenClip((BEGINNING,) * 4, (0.0, 0.5, 1.0, 1.5), "nothing", -1, -1, -1)
    answers = {ask_about_clip(rng, event, still, "when").answer for _ in range(200)}
    assert answers == {*NEVER.values(), "[]"}


def test_tasks_are_asked_as_the_node_asks_them() -> None:
    from qwen3vl_ros.prompts.task_files import load_tasks

    tasks = load_tasks([Path(__file__).parents[2] / "config" / "tasks.yaml"])
    for language in LANGUAGES:
        for name, text in (("what_happened", WHAT_HAPPENED), ("when", WHEN)):
            slots = {} if name == "what_happened" else {"event": "{event}"}
            assert tasks[name].ask(slots={**slots, "language": language}).prompt == text[language]


def test_an_answer_with_times_is_read_back_whole(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        clip = sample_clip(rng, _event(), 8)
        question = ask_about_clip(rng, _event(), clip, any_clip_kind(rng))
        text = tokenizer.decode(encode_answer(tokenizer, question)[:-1])
        assert text == question.answer
        if text.startswith("[{"):
            assert json.loads(text)[0]["start"] == float(f"{clip.times[clip.first]:.1f}")


def test_a_clip_is_laid_out_as_the_chat_template_writes_it(tokenizer: PreTrainedTokenizerFast) -> None:
    rows, columns = 2, 3
    times = (0.0, 0.5, 11.0)
    question = Question("What happened?", "Nothing happened.", "colour")
    packed = pack_clips(tokenizer, [[question]], (rows, columns), [times], None)
    content: list[dict[str, str]] = []
    for time in times:
        content += [{"type": "text", "text": time_text(time)}, {"type": "image"}]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": question.text}]}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text = text.replace("<|image_pad|>", "<|image_pad|>" * rows * columns)
    assert packed.ids[0].tolist() == tokenizer.encode(f"{text}{question.answer}<|im_end|>")
    assert packed.visual.sum() == rows * columns * len(times)
    assert (packed.targets != IGNORE).sum() == len(tokenizer.encode(question.answer)) + 1


def test_places_in_a_clip_are_those_of_transformers(tokenizer: PreTrainedTokenizerFast) -> None:
    from training.model import build_model

    packed = pack_clips(
        tokenizer, [[Question("What happened?", "Nothing happened.", "colour")]], (2, 3), [(0.0, 0.5)], None
    )
    model = build_model(tokenizer)
    image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    positions, _ = model.model.get_rope_index(
        packed.ids,
        mm_token_type_ids=(packed.ids == image).int(),
        image_grid_thw=torch.tensor([[1, 4, 6], [1, 4, 6]]),
        attention_mask=torch.ones_like(packed.ids),
    )
    assert torch.equal(positions[-3:], packed.positions)


def _event() -> SeenEvent:
    """Three things, and every state."""
    things = [("red", "ball"), ("blue", "box"), ("green", "cylinder")]
    objects = [Seen(colour, shape, (0.1, 0.1, 0.2, 0.2), 1.0) for colour, shape in things]
    return SeenEvent(objects, ("nothing", "left", "moved_left", "moved_left", "moved_away"), (-1, 0, 1, 1, 2))
