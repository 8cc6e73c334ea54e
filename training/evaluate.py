"""How often the shipped model is right: the GGUF files, through the package's own engine.

    python -m training.evaluate                    # 500 held-out scenes, and the Gazebo frames

Prints a table for the model's card. Greedy decoding.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from qwen3vl_ros.engines.base import Cancel, Message, Options, Request
from qwen3vl_ros.engines.llama import LlamaEngine
from qwen3vl_ros.vision.fit import fit_image
from training.heldout import Item, gazebo_frames, heldout_scenes, is_right
from training.questions import KINDS

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "models" / "tabletop"
GAZEBO = ROOT / "test" / "data" / "gazebo_frames"
TEXTURES = ROOT / "build" / "training" / "heldout_textures"


def score(engine: LlamaEngine, items: Iterable[Item], *, show_wrong: bool = False) -> dict[str, tuple[int, int]]:
    """(right, asked) of each kind of question, and of "all"."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for number, item in enumerate(items):
        picture, _ = fit_image(item.picture, engine.describe().image_input)
        for text, accepted, kind in item.questions:
            request = Request((Message("user", (picture, text)),), Options(temperature=0.0, max_tokens=8))
            answer = "".join(c.text for c in engine.generate(request, Cancel()))
            good = is_right(answer, accepted)
            for name in (kind, "all"):
                asked[name] += 1
                right[name] += good
            if show_wrong and not good:
                print(f"  {number}: {text} {answer!r}, not {accepted[0]!r}")
    return {name: (right[name], asked[name]) for name in (*KINDS, "all")}


def table(results: dict[str, dict[str, tuple[int, int]]]) -> str:
    """Markdown: a row for each set of pictures, a column for each kind of question."""
    names = (*KINDS, "all")
    lines = ["| pictures | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for pictures, scores in results.items():
        cells = [f"{100 * r / max(n, 1):.1f} % ({r}/{n})" for r, n in (scores[k] for k in names)]
        lines.append(f"| {pictures} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder with the GGUF pair")
    parser.add_argument("--scenes", type=int, default=500, help="how many held-out scenes")
    parser.add_argument("--show-wrong", action="store_true")
    args = parser.parse_args()
    engine = LlamaEngine(str(args.model))
    sets = {
        f"{args.scenes} held-out scenes (Drake)": heldout_scenes(args.scenes, TEXTURES),
        "12 frames of Gazebo": gazebo_frames(GAZEBO),
    }
    results = {}
    for name, items in sets.items():
        results[name] = score(engine, items, show_wrong=args.show_wrong)
    print(table(results))
    engine.close()


if __name__ == "__main__":
    main()
