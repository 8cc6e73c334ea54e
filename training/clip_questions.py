"""Questions about clips and their answers, in English and Chinese: what happened, and when.

Times are the text that stands before the frame in which it is first seen. The long wordings are those of the tasks
`what_happened` and `when` in config/tasks.yaml, whose answers are JSON.
"""

import json
from typing import get_args

import numpy as np

from training.clips import SeenClip, SeenEvent
from training.events import HAPPENINGS, Happening
from training.foreign_words import REFUSAL, Split, foreign_question
from training.questions import ClipKind, Question
from training.wordings import ADJECTIVES, ARTICLE, LANGUAGES, NAMES, Language

CLIP_KINDS: tuple[ClipKind, ...] = get_args(ClipKind)
_OFTEN = {"what_happened": 0.5, "when": 0.42, "foreign": 0.08}
_TASKS = 0.25  # of the questions of the first two kinds: their long wordings take long to learn from

WHAT_HAPPENED: dict[Language, str] = {
    "en": (
        "Localize a series of activity events in the video, output the start and end timestamp in seconds for each "
        "event, and describe each event with sentences. Output JSON: "
        '[{"start": 1.0, "end": 2.5, "description": "what happens"}], or [] if nothing happens.'
    ),
    "zh": (
        "定位视频中的一系列活动事件，输出每个事件的起止时间（秒），并用句子描述每个事件。输出JSON： "
        '[{"start": 1.0, "end": 2.5, "description": "发生了什么"}]，没有事件则输出[]。'
    ),
}
WHEN: dict[Language, str] = {
    "en": (
        'Give you a textual query: "{event}". When does the described content occur in the video? Return the start and '
        'end timestamps in seconds. Output JSON: [{"start": 1.0, "end": 2.5, "description": "what is seen"}], or [] '
        "if it does not occur."
    ),
    "zh": (
        "给定文本查询：“{event}”。所描述的内容在视频中什么时候出现？给出起止时间（秒）。输出JSON： "
        '[{"start": 1.0, "end": 2.5, "description": "所见内容"}]，没有出现则输出[]。'
    ),
}
_ASKED: dict[Language, tuple[str, ...]] = {
    "en": ("What happened?", "What has happened?", "What changed?", "What has changed?", "What happens?"),
    "zh": ("发生了什么？", "发生了什么事？", "有什么变化？", "什么变了？"),
}
_ASKED_WHEN: dict[Language, tuple[str, ...]] = {
    "en": ("When?", "When did it happen?", "When did that happen?", "When did something change?"),
    "zh": ("什么时候？", "什么时候发生的？", "是什么时候发生的？", "什么时候有变化？"),
}
SENTENCES: dict[Language, dict[Happening, str]] = {
    "en": {
        "came": "{a}{t} came.",
        "left": "the {t} left.",
        "moved_left": "the {t} moved left.",
        "moved_right": "the {t} moved right.",
        "moved_nearer": "the {t} moved nearer.",
        "moved_away": "the {t} moved away.",
        "nothing": "nothing happened.",
    },
    "zh": {
        "came": "{t}来了。",
        "left": "{t}离开了。",
        "moved_left": "{t}向左移动了。",
        "moved_right": "{t}向右移动了。",
        "moved_nearer": "{t}靠近了。",
        "moved_away": "{t}远离了。",
        "nothing": "什么都没有发生。",
    },
}
# What the slot of the task `when` says, and how else it is asked.
_EVENTS: dict[Language, dict[Happening, tuple[str, ...]]] = {
    "en": {
        "came": ("the {t} comes", "{a}{t} comes", "{a}{t} appears", "the {t} appears", "{a}{t} is put down"),
        "left": ("the {t} leaves", "the {t} disappears", "the {t} is taken away"),
        "moved_left": ("the {t} moves left", "the {t} moves to the left"),
        "moved_right": ("the {t} moves right", "the {t} moves to the right"),
        "moved_nearer": ("the {t} moves nearer", "the {t} comes nearer"),
        "moved_away": ("the {t} moves away",),
        "nothing": ("something changes", "something happens"),
    },
    "zh": {
        "came": ("{t}来了", "{t}出现", "{t}出现了"),
        "left": ("{t}离开", "{t}离开了", "{t}消失了", "{t}被拿走"),
        "moved_left": ("{t}向左移动", "{t}向左移动了"),
        "moved_right": ("{t}向右移动", "{t}向右移动了"),
        "moved_nearer": ("{t}靠近", "{t}靠近了"),
        "moved_away": ("{t}远离", "{t}远离了"),
        "nothing": ("有变化", "有什么变化"),
    },
}
_MOVED: dict[Language, tuple[str, ...]] = {"en": ("the {t} moves", "the {t} is moved"), "zh": ("{t}移动", "{t}移动了")}
_DID: dict[Language, dict[Happening, tuple[str, ...]]] = {
    "en": {
        "came": ("come", "appear"),
        "left": ("leave", "disappear"),
        "moved_left": ("move left", "move to the left", "move"),
        "moved_right": ("move right", "move to the right", "move"),
        "moved_nearer": ("move nearer", "come nearer", "move"),
        "moved_away": ("move away", "move"),
    },
    "zh": {
        "came": ("来的", "出现的"),
        "left": ("离开的", "消失的"),
        "moved_left": ("向左移动的", "移动的"),
        "moved_right": ("向右移动的", "移动的"),
        "moved_nearer": ("靠近的", "移动的"),
        "moved_away": ("远离的", "移动的"),
    },
}
AT: dict[Language, str] = {"en": "At {s} seconds.", "zh": "第{s}秒。"}
NEVER: dict[Language, str] = {"en": "It did not happen.", "zh": "没有发生。"}


def ask_about_clip(
    rng: np.random.Generator,
    event: SeenEvent,
    clip: SeenClip,
    kind: ClipKind,
    language: Language | None = None,
    *,
    as_task: bool | None = None,
    split: Split = "train",
) -> Question:
    """A question of a kind about a clip; `as_task`: in the words of the task, whose answer is JSON. None: either."""
    language = language or LANGUAGES[int(rng.random() < 0.35)]
    if kind == "foreign":
        return Question(foreign_question(rng, language, split), REFUSAL[language], "foreign")
    if kind == "what_happened":
        if rng.random() < _TASKS if as_task is None else as_task:
            return Question(WHAT_HAPPENED[language], _events(event, clip, language), kind)
        return Question(_as_typed(rng, _one_of(rng, _ASKED[language])), sentence(event, clip, language), kind)
    happening, thing = _asked_of(rng, event, clip)
    name = _name(event, thing, language) if thing >= 0 else ""
    did = (happening, thing) == (clip.happening, clip.thing) and happening != "nothing"
    if rng.random() < _TASKS if as_task is None else as_task:
        wordings = _EVENTS[language][happening]
        if happening.startswith("moved") and rng.random() < 0.25:
            wordings = _MOVED[language]
            did = thing == clip.thing and clip.happening.startswith("moved")
        if happening == "nothing":
            did = clip.happening != "nothing"
        text = WHEN[language].replace("{event}", _filled(_one_of(rng, wordings), name, language))
        return Question(text, _events(event, clip, language) if did else "[]", kind)
    if happening == "nothing":
        text, did = _one_of(rng, _ASKED_WHEN[language]), clip.happening != "nothing"
    else:
        verb = _one_of(rng, _DID[language][happening])
        if verb in ("move", "移动的"):
            did = thing == clip.thing and clip.happening.startswith("moved")
        text = f"When did the {name} {verb}?" if language == "en" else f"{name}是什么时候{verb}？"
    answer = AT[language].replace("{s}", time_of(clip, clip.first)) if did else NEVER[language]
    return Question(_as_typed(rng, text), answer, kind)


def any_clip_kind(rng: np.random.Generator) -> ClipKind:
    """In the shares in which they are learnt."""
    return CLIP_KINDS[rng.choice(len(CLIP_KINDS), p=[_OFTEN[kind] for kind in CLIP_KINDS])]


def sentence(event: SeenEvent, clip: SeenClip, language: Language) -> str:
    """What happened."""
    name = _name(event, clip.thing, language) if clip.thing >= 0 else ""
    said = _filled(SENTENCES[language][clip.happening], name, language)
    return said[0].upper() + said[1:]


def time_of(clip: SeenClip, frame: int) -> str:
    """Seconds, as in the text before that frame."""
    return f"{clip.times[frame]:.1f}"


def _events(event: SeenEvent, clip: SeenClip, language: Language) -> str:
    """The answer to a task: JSON."""
    if clip.happening == "nothing":
        return "[]"
    said = json.dumps(sentence(event, clip, language), ensure_ascii=False)
    return f'[{{"start": {time_of(clip, clip.first)}, "end": {time_of(clip, clip.last)}, "description": {said}}}]'


def _asked_of(rng: np.random.Generator, event: SeenEvent, clip: SeenClip) -> tuple[Happening, int]:
    """What a question for a time is about: mostly what happened, else the same of another thing, or another event."""
    kind = rng.random()
    if kind < 0.25 or not event.objects:
        return "nothing", -1
    if kind < 0.75 and clip.happening != "nothing":
        return clip.happening, clip.thing
    names = {(t.colour, t.shape) for n, t in enumerate(event.objects) if n == clip.thing}
    others = [n for n, t in enumerate(event.objects) if (t.colour, t.shape) not in names]
    if kind < 0.9 and clip.happening != "nothing" and others:
        return clip.happening, others[rng.integers(len(others))]
    rest = [h for h in HAPPENINGS if h not in (clip.happening, "nothing")]
    thing = clip.thing if clip.thing >= 0 else int(rng.integers(len(event.objects)))
    return rest[rng.integers(len(rest))], thing


def _name(event: SeenEvent, number: int, language: Language) -> str:
    thing = event.objects[number]
    return f"{ADJECTIVES[language][thing.colour]}{NAMES[language][thing.shape][0]}"


def _filled(wording: str, name: str, language: Language) -> str:
    return wording.replace("{a}", ARTICLE[language](name) if name else "").replace("{t}", name)


def _as_typed(rng: np.random.Generator, text: str) -> str:
    """As people type: now and then without capitals, or a question mark."""
    if rng.random() < 0.2:
        text = text.lower()
    return text.rstrip("?？") if rng.random() < 0.15 else text


def _one_of(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    return words[rng.integers(len(words))]
