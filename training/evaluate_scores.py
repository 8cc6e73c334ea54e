"""How far the scores of boxes can be trusted: the shipped model, asked to locate what is there and what is not.

    python -m training.evaluate_scores --scenes 100      # held-out scenes of the built-in renderer

In each scene the task `locate` is asked for every kind of thing that is there and for as many that are not, by turns in
English and Chinese: half of those have the colour or the shape of something there. A box is right if a thing that was
asked for overlaps it by half (IoU); each thing counts once. Prints, for some thresholds, the share of questions for an
absent thing that got a box (false), and of things that were found (recall); the expected calibration error of all
boxes' scores (10 bins of equal width; docs/confidence.md); and how far sides are off in units of their spread.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from qwen3vl_ros.engines.base import Cancel, Image, Message, Options, Request
from qwen3vl_ros.engines.llama.engine import LlamaEngine
from qwen3vl_ros.prompts.task_files import load_tasks
from qwen3vl_ros.vision.confidence import Confidence
from qwen3vl_ros.vision.fit import Fit, fit_image
from qwen3vl_ros.vision.grounding import parse_regions
from qwen3vl_ros.vision.region import Box
from qwen3vl_ros.vision.spread import spread_of
from training.evaluate import MODEL, ROOT, TEXTURES
from training.heldout import CAMERAS, iou
from training.scenes import COLOURS, SHAPES
from training.wordings import ADJECTIVES, LANGUAGES, NAMES

THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
BINS = 10
_SAME = 0.5
_REACH = 100.0


@dataclass
class Found:
    """What was asked and answered. Of each box: score, whether it is right, errors of its sides over their spread."""

    absent: list[float] = field(default_factory=list)  # the greatest score of a box for each absent thing, -1 without
    present: list[float] = field(default_factory=list)  # of the right box for each thing there, -1 without
    boxes: list[tuple[float, bool]] = field(default_factory=list)
    sides: list[float] = field(default_factory=list)


def located(
    engine: LlamaEngine, image: Image, fit: Fit, what: str, language: str
) -> Iterator[tuple[float, Box, tuple]]:
    """Yield score, box and spread of each box that the model reports for ``what``."""
    question = load_tasks([ROOT / "config" / "tasks.yaml"])["locate"].ask(what, {"language": language})
    request = Request(
        (Message("user", (image, question.prompt)),),
        Options(temperature=0.0, max_tokens=512),
        question.response_schema,
        token_probabilities=True,
    )
    chunks = list(engine.generate(request, Cancel()))
    text = "".join(chunk.text for chunk in chunks)
    confidence = Confidence(text, chunks[-1].tokens)
    for region in parse_regions(text, [fit]).regions:
        score = confidence.score(region.at)
        row, variances = confidence.numbers(region.at, _REACH)
        assert score is not None and region.box is not None, text
        yield score, region.box, spread_of(row, variances, fit, "relative_1000")


def ask_about(engine: LlamaEngine, index: int, found: Found) -> None:
    """Ask about the held-out scene ``index``."""
    from training.render import take_image

    rendering = take_image("heldout", index, CAMERAS[index // 6 % len(CAMERAS)], TEXTURES)
    height, width, _ = rendering.colour.shape
    image, fit = fit_image(rendering.colour, engine.describe().image_input)
    things = [(thing.colour, thing.shape) for thing in rendering.scene.objects]
    boxes = [tuple(map(float, box)) for box in rendering.boxes() * (width, height, width, height)]
    rng = np.random.default_rng([11, index])
    others = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in things]
    alike = [kind for kind in others if any(set(kind) & set(thing) for thing in things)]
    kinds = list(dict.fromkeys(things))
    absent = [(alike if n % 2 and alike else others) for n in range(max(1, len(kinds)))]
    asked = [*kinds, *(choice[rng.integers(len(choice))] for choice in absent)]
    for number, (colour, shape) in enumerate(asked):
        language = LANGUAGES[(index + number) % 2]
        what = f"{ADJECTIVES[language][colour]}{NAMES[language][shape][0]}"
        truth = [box for thing, box in zip(things, boxes, strict=True) if thing == (colour, shape)]
        answers = list(located(engine, image, fit, what, language))
        scores = [-1.0] * len(truth)
        for score, box, spread in answers:
            best = max(range(len(truth)), key=lambda n: iou(truth[n], box), default=None)
            right = best is not None and iou(truth[best], box) >= _SAME and scores[best] < 0
            found.boxes.append((score, right))
            if right:
                scores[best] = score
                found.sides += [(a - b) / s for a, b, s in zip(box, truth[best], spread, strict=True)]
        if truth:
            found.present += scores
        else:
            found.absent.append(max((score for score, _, _ in answers), default=-1.0))


def calibration(boxes: Sequence[tuple[float, bool]]) -> tuple[float, list[str]]:
    """Return the expected calibration error and a row for each bin.

    The error is the mean over all boxes of |mean score - share of right boxes| in a box's bin.
    """
    bins: dict[int, list[tuple[float, bool]]] = {}
    for score, right in boxes:
        bins.setdefault(min(int(score * BINS), BINS - 1), []).append((score, right))
    rows, error = [], 0.0
    for number, members in sorted(bins.items()):
        score, right = np.mean(members, axis=0)
        error += len(members) * abs(score - right) / len(boxes)
        rows.append(f"| {number / BINS:g} to {(number + 1) / BINS:g} | {score:.2f} | {right:.2f} | {len(members)} |")
    return error, rows


def report(found: Found) -> str:
    """Markdown: a row for each threshold, and the two figures about all boxes."""
    lines = [
        f"{len(found.absent)} questions for an absent thing, {len(found.present)} things, {len(found.boxes)} boxes",
        "",
        "| threshold | false boxes | recall |",
        "|---|---|---|",
    ]
    for threshold in THRESHOLDS:
        false = sum(score >= threshold for score in found.absent) / max(1, len(found.absent))
        recall = sum(score >= threshold for score in found.present) / max(1, len(found.present))
        lines.append(f"| {threshold:g} | {100 * false:.1f} % | {100 * recall:.1f} % |")
    error, rows = calibration(found.boxes)
    sides = np.abs(found.sides) if found.sides else np.zeros(1)
    return "\n".join(
        [
            *lines,
            "",
            "| scores | mean | right | boxes |",
            "|---|---|---|---|",
            *rows,
            "",
            f"expected calibration error {error:.3f}",
            f"sides within 1 spread {100 * np.mean(sides <= 1):.0f} %, within 2 {100 * np.mean(sides <= 2):.0f} %;"
            f" root mean square {np.sqrt(np.mean(sides**2)):.2f}, without the worst 1 % "
            f"{np.sqrt(np.mean(np.sort(sides)[: max(1, int(0.99 * len(sides)))] ** 2)):.2f}",
        ]
    )


def main() -> None:
    """The command line; see above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL, help="folder with the GGUF pair")
    parser.add_argument("--scenes", type=int, default=100, help="how many held-out scenes")
    parser.add_argument("--first", type=int, default=0, help="which is the first of them")
    args = parser.parse_args()
    engine, found = LlamaEngine(str(args.model)), Found()
    for index in range(args.first, args.first + args.scenes):
        ask_about(engine, index, found)
    engine.close()
    print(report(found))


if __name__ == "__main__":
    main()
