"""A small tokenizer of Qwen's kind: byte-level BPE, Qwen's special tokens and chat template.

Besides what BPE makes of the wordings, it has tokens that only answers use, and that no text is ever split into: the
numbers of places, and what stands between them. So a box is 11 tokens long, and a number is one choice, not three.
"""

import json
import re

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.foreign_words import REFUSAL, foreign_question
from training.questions import STEP, Question
from training.wordings import LANGUAGES, every_wording

VOCABULARY = 1280  # the numbers and the phrases come on top of these
NUMBERS = tuple(str(n) for n in range(0, 1001, STEP))
_FOREIGN = 10000  # questions about other things, of each language, that the words are learnt from
PHRASES = (
    *('[{"bbox_2d": [', '"}, {"bbox_2d": [', '[{"point_2d": [', '"}, {"point_2d": ['),
    *(", ", '], "label": "', '"}]', '{"count": '),
    *('[{"start": ', ', "end": ', ', "description": "'),
)
TIMED = PHRASES[-3:]
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# Qwen2's pre-tokenizer, https://huggingface.co/Qwen/Qwen3-VL-2B-Instruct/blob/main/tokenizer.json
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The parts of Qwen3-VL's template that this model can use: no tools.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}{%- else %}"
    "{%- for content in message.content %}"
    "{%- if content.type == 'image' or 'image' in content or 'image_url' in content %}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- elif content.type == 'video' or 'video' in content %}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{%- elif 'text' in content %}{{- content.text }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def build_tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Trained on every wording of every question; any other text falls back to bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL_TOKENS),
        max_token_length=12,  # four Chinese characters: whole sentences must not become one token
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*every_wording(), *_foreign()], trainer)
    state = json.loads(tokenizer.to_str())
    words = state["model"]["vocab"]
    for text in (*NUMBERS, *PHRASES):
        words.setdefault(text.replace(" ", "Ġ"), len(words))  # Ġ: a space in byte-level BPE
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL_TOKENS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _foreign() -> list[str]:
    """Questions about other things, and their answers."""
    rng = np.random.default_rng(9)
    texts = [foreign_question(rng, language, "train") for language in LANGUAGES for _ in range(_FOREIGN)]
    return texts + [*REFUSAL.values()] * (_FOREIGN // 20)


def encode_answer(tokenizer: PreTrainedTokenizerFast, question: Question) -> list[int]:
    """An answer's tokens, those that only answers use among them, and the end."""
    words = tokenizer.get_vocab()
    ids: list[int] = []
    if question.answer.startswith(TIMED[0]):
        # Digit by digit, as the times that it reads before the frames.
        for part in _TIMED_PARTS.split(question.answer):
            ids += [words[part.replace(" ", "Ġ")]] if part in PHRASES else tokenizer.encode(part)
    elif not question.answer.startswith(("[", "{")):
        ids = tokenizer.encode(question.answer)
    else:
        for part in _PARTS.split(question.answer):
            if part in NUMBERS or part in PHRASES:
                ids.append(words[part.replace(" ", "Ġ")])
            elif part:
                ids += tokenizer.encode(part)
    return [*ids, words["<|im_end|>"]]


_TIMED_PARTS = re.compile("(" + "|".join(map(re.escape, (*TIMED, '"}]'))) + ")")
_PARTS = re.compile("(" + "|".join(map(re.escape, PHRASES)) + r"|\d+)")
