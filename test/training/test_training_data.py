"""What the shipped model is trained on: conversations as the engine sends them, and what it is to refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from qwen3vl_ros.engines.model_card import METADATA_KEY, model_card
from training.card import CARD, write_card
from training.evaluate import MODEL
from training.foreign_images import made_image
from training.foreign_words import REFUSAL, nouns
from training.model import build_model
from training.packing import pack
from training.questions import KINDS, Question, ask, ask_in_vain, scene_objects
from training.restore import restore
from training.tokenizer import build_tokenizer
from training.wordings import ABSENT, LANGUAGES


@pytest.mark.parametrize("image_first", [True, False])
def test_a_conversation_is_read_as_the_chat_template_writes_it(image_first: bool) -> None:
    tokenizer = build_tokenizer()
    before = (("Is there a box?", "yes"), ("Where is it?", "[]"))
    question = Question("What colour is the box?", "red", "colour", history=before if image_first else ())
    packed = pack(tokenizer, [[question]], (2, 3), None, () if image_first else before)
    turns = [text for turn in before for text in turn] + [question.text]
    content = [[{"type": "text", "text": text}] for text in turns]
    content[0 if image_first else -1].insert(0, {"type": "image"})
    messages = [{"role": ("user", "assistant")[n % 2], "content": part} for n, part in enumerate(content)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = tokenizer.encode(text.replace("<|image_pad|>", "<|image_pad|>" * 6) + "red<|im_end|>")
    assert packed.ids[0].tolist() == expected
    assert packed.visual.sum() == 6


def test_held_out_nouns_are_not_learnt() -> None:
    for language in LANGUAGES:
        assert nouns(language, "heldout")
        assert not set(nouns(language, "heldout")) & set(nouns(language, "train"))


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_what_is_not_there_is_never_named(split: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        things = scene_objects(rng)
        absent = ask(rng, things, "absent", split=split)  # type: ignore[arg-type]
        assert absent is not None
        assert absent.answer.startswith(
            tuple(text.split("{")[0] for texts in ABSENT.values() for text in texts.values())
        )
        places = ask(rng, things, "absent_places", split=split)  # type: ignore[arg-type]
        assert places is not None
        assert places.answer == "[]"


def test_numbers_are_asked_of_boxes_and_not_of_boxs() -> None:
    rng = np.random.default_rng(3)
    asked = [ask(rng, scene_objects(rng), kind) for kind in ("count", "count_shape") for _ in range(300)]
    texts = " ".join(question.text for question in asked if question is not None)
    assert "boxes" in texts
    assert "boxs" not in texts


def test_every_question_to_an_image_that_is_no_scene_is_refused() -> None:
    rng = np.random.default_rng(1)
    answers = {question.answer for _ in range(300) if (question := ask_in_vain(rng, scene_objects(rng))) is not None}
    assert answers == {*REFUSAL.values(), "[]", '{"count": 0}'}


def test_an_empty_table_has_questions_too() -> None:
    rng = np.random.default_rng(2)
    asked = [ask(rng, [], kind) for kind in KINDS for _ in range(20)]
    assert {question.answer for question in asked if question and question.kind == "count"} <= {
        "zero",
        "零",
        '{"count": 0}',
    }
    assert any(question and question.answer == ABSENT["en"]["nothing"] for question in asked)


def test_made_up_images_have_the_size_and_are_not_all_alike() -> None:
    rng = np.random.default_rng(3)
    images = [made_image(rng, (64, 48)) for _ in range(12)]
    assert {image.shape for image in images} == {(48, 64, 3)}
    assert len({image.tobytes() for image in images}) == 12


def test_the_shipped_weights_are_read_back_whole() -> None:
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    restore(model, tokenizer, MODEL)
    reader = GGUFReader(MODEL / "tabletop-f16.gguf")
    words = reader.fields["tokenizer.ggml.tokens"].contents()
    (embedding,) = (tensor.data for tensor in reader.tensors if tensor.name == "token_embd.weight")
    row = tokenizer.get_vocab()["Ġcylinder"]
    ours = model.model.language_model.embed_tokens.weight[row].detach()
    assert torch.equal(ours, torch.from_numpy(embedding[words.index("Ġcylinder")].astype(np.float32)))
    (down,) = (tensor.data for tensor in reader.tensors if tensor.name == "blk.4.ffn_down.weight")
    assert torch.equal(
        model.model.language_model.layers[4].mlp.down_proj.weight, torch.from_numpy(down.astype(np.float32))
    )


def test_the_shipped_file_has_the_card_and_takes_another(tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes((MODEL / "tabletop-f16.gguf").read_bytes())
    for card in (CARD, replace(CARD, domain="Something else.")):
        if card != CARD:
            write_card(copy, card)
        reader = GGUFReader(copy)
        assert model_card("", reader.fields[METADATA_KEY].contents()) == card
    shipped = GGUFReader(MODEL / "tabletop-f16.gguf")
    assert all((a.data == b.data).all() for a, b in zip(shipped.tensors, reader.tensors, strict=True))
