"""How often the shipped model is right: the GGUF files, through the package's own engine.

    python -m training.evaluate --photographs FOLDER...    # 300 held-out scenes, the Gazebo frames, photographs

Prints a table for the model's card. Greedy decoding. The FOLDERs have images that training never saw.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from qwen3vl_ros.engines.base import Cancel, Image, Message, Options, Request
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.vision.fit import fit_image
from training.foreign_images import image_files
from training.heldout import Item, gazebo_frames, goodness, heldout_scenes, photographs
from training.questions import KINDS, Question

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "tabletop"
GAZEBO = ROOT / "test" / "support" / "data" / "gazebo_frames"
TEXTURES = ROOT / "build" / "training" / "heldout_textures"


def score(engine: LlamaEngine, items: Iterable[Item], *, show_wrong: bool = False) -> dict[str, tuple[float, int]]:
    """(sum of goodness, asked) of each kind of question; "all" is all kinds but locate, whose goodness is an IoU."""
    good: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for number, item in enumerate(items):
        image, fit = fit_image(item.image, engine.describe().image_input)
        for question in item.questions:
            request = Request(_messages(image, question), Options(temperature=0.0, max_tokens=128))
            answer = "".join(c.text for c in engine.generate(request, Cancel()))
            value = goodness(question, answer, fit)
            for name in (question.kind, *(["all"] if question.kind != "locate" else [])):
                asked[name] += 1
                good[name] += value  # type: ignore[assignment]
            if show_wrong and value < 0.5:
                print(f"  {number}: {question.text} {answer!r}, not {question.answer!r}")
    return {name: (good[name], asked[name]) for name in (*KINDS, "all")}


def _messages(image: Image, question: Question) -> tuple[Message, ...]:
    """The conversation: the image before its first question."""
    turns = [text for turn in question.history for text in turn] + [question.text]
    roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
    messages = [Message(roles[n % 2], (text,)) for n, text in enumerate(turns)]
    return (Message("user", (image, turns[0])), *messages[1:])


def table(results: dict[str, dict[str, tuple[float, int]]]) -> str:
    """Markdown: a row for each kind of question, a column for each set of images."""
    lines = ["| question | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name in (*KINDS, "all"):
        cells = []
        for good, of in (scores[name] for scores in results.values()):
            value = (
                f"IoU {good / max(of, 1):.3f} ({of})"
                if name == "locate"
                else f"{100 * good / max(of, 1):.1f} % ({good:.0f}/{of})"
            )
            cells.append(value if of else "")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder with the GGUF pair")
    parser.add_argument("--scenes", type=int, default=300, help="how many held-out scenes")
    parser.add_argument("--first", type=int, default=0, help="which is the first of them")
    parser.add_argument("--show-wrong", action="store_true")
    parser.add_argument("--photographs", type=Path, nargs="*", default=[], help="folders of images that are no scenes")
    args = parser.parse_args()
    engine = LlamaEngine(str(args.model))
    sets = {
        f"{args.scenes} held-out scenes (Drake)": heldout_scenes(args.scenes, TEXTURES, args.first),
        "the same, after other questions": heldout_scenes(args.scenes, TEXTURES, args.first, history=True),
        "12 frames of Gazebo": gazebo_frames(GAZEBO),
    }
    if args.photographs:
        sets["photographs and drawings"] = photographs(image_files(args.photographs))
    results = {}
    for name, items in sets.items():
        results[name] = score(engine, items, show_wrong=args.show_wrong)
    print(table(results))
    engine.close()


if __name__ == "__main__":
    main()
