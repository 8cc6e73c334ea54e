"""Conversations as the node keeps them, without ROS's graph: bounds, order, images, age, and who is asked next."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from std_msgs.msg import Header

from qwen3vl_ros.engines.base import BadRequest, Clip, Description, Image, ImageInput, Message, Usage
from qwen3vl_ros.prompts.request import AskRequest, conversation
from qwen3vl_ros.vision.fit import Rotation, fit_again, fit_image
from qwen3vl_ros.vlm.deadlines import Deadlines
from qwen3vl_ros.vlm.image_cost import ImageCost
from qwen3vl_ros.vlm.images import InputImage, InputImages
from qwen3vl_ros.vlm.session_question import SessionQuestion
from qwen3vl_ros.vlm.sessions import Sessions
from qwen3vl_ros.vlm.storage_parameters import Session

ENGINE = Description("toy", "model", context_length=1000, image_input=ImageInput(multiple=32, max_tokens=12))
BOARD = replace(ENGINE, engine="board", image_input=ImageInput(size=(64, 64), fit="contain"))
numbers = itertools.count()


@pytest.fixture(scope="module")
def deadlines() -> Iterator[Deadlines]:
    errors: list[str] = []
    timers = Deadlines(errors.append)
    yield timers
    timers.close()
    assert not errors


@pytest.fixture
def new(deadlines: Deadlines) -> Callable[..., Sessions]:
    return lambda **limits: Sessions(Session(**limits), deadlines)


def picture(width: int = 128, height: int = 96, seed: int | None = None) -> Image:
    coarse = np.random.default_rng(next(numbers) if seed is None else seed).integers(0, 255, (3, 4, 3), np.uint8)
    return np.kron(coarse, np.ones((height // 3, width // 4, 1), np.uint8))


def inputs(pixels: Sequence[Image], engine: Description = ENGINE, texts: bool = False) -> InputImages:
    images, content = [], []
    for number, image in enumerate(pixels):
        fitted, fit = fit_image(image, engine.image_input)
        images.append(InputImage(Header(frame_id=f"camera {number}"), image, (fit,)))
        content += [f"Picture {number + 1}: ", fitted] if texts else [fitted]
    return InputImages(tuple(images), tuple(content))


def ask(
    sessions: Sessions,
    name: str = "x",
    prompt: str = "What?",
    *,
    answer: str = "That.",
    images: Sequence[Image] = (),
    engine: Description = ENGINE,
    texts: bool = False,
    tokens: int = 0,
    **fields: object,
) -> tuple[tuple[Message, ...], SessionQuestion, InputImages]:
    """What the engine reads for a question that succeeds."""
    question = sessions.begin(name, engine)
    request = question.continued(AskRequest(prompt, session=name, text_only=not images, **fields))
    given = question.earlier_images(request)
    joined = question.joined(inputs(images, engine, texts) if given is None else given, ImageCost())
    messages = conversation(request, joined.content, prompt, question.earlier.messages)
    usage = Usage(prompt_tokens=question.earlier.tokens + tokens) if tokens else Usage()
    question.answered(messages[-1], joined, answer, usage)
    question.end()
    return messages, question, joined


def texts_of(messages: Sequence[Message]) -> list[str]:
    return ["".join(part if isinstance(part, str) else "<image>" for part in message.content) for message in messages]


def images_of(messages: Sequence[Message]) -> list[Image]:
    return [part for message in messages for part in message.content if not isinstance(part, str)]


def same(ones: Sequence[Image], others: Sequence[Image]) -> bool:
    return len(ones) == len(others) and all(map(np.array_equal, ones, others))


# --- what the next question gets -------------------------------------------------------------------------------------


def test_a_question_gets_the_earlier_ones_exactly_as_they_were_read(new: Callable[..., Sessions]) -> None:
    sessions, image = new(), picture()
    first, *_ = ask(sessions, prompt="What is it?", answer=" A box.\n", images=[image])
    second, _, joined = ask(sessions, prompt="Which colour?", answer="Red")
    third, *_ = ask(sessions, prompt="Sure?")
    assert texts_of(third) == ["<image>What is it?", " A box.\n", "Which colour?", "Red", "Sure?"]
    assert [message.role for message in third] == ["user", "assistant"] * 2 + ["user"]
    assert same(images_of(first), images_of(third)) and images_of(first)[0] is images_of(third)[0]
    assert texts_of(second)[:2] == texts_of(third)[:2]
    assert [image.header.frame_id for image in joined.images] == ["camera 0"], "text_only is about the newest images"


def test_pixels_that_the_model_has_read_just_now_are_not_sent_again(new: Callable[..., Sessions]) -> None:
    sessions, image, other = new(), picture(), picture()
    ask(sessions, images=[image])
    again, _, joined = ask(sessions, images=[image.copy()])
    assert len(images_of(again)) == 1 and len(joined.images) == 1
    changed, *_ = ask(sessions, images=[other])
    assert len(images_of(changed)) == 2
    back, *_ = ask(sessions, images=[image])
    assert len(images_of(back)) == 3, "the newest image is another one"
    two, *_ = ask(sessions, images=[image, other], texts=True)
    assert len(images_of(two)) == 5
    repeated, *_ = ask(sessions, images=[image, other], texts=True)
    assert len(images_of(repeated)) == 5
    turned, *_ = ask(sessions, images=[other, image], texts=True)
    assert len(images_of(turned)) == 7


def test_an_instruction_stays_until_another_one_comes_and_that_of_a_task_is_for_its_question(
    new: Callable[..., Sessions],
) -> None:
    sessions = new()
    said = []
    for fields in (
        {"system_prompt": "Be brief.", "asked": frozenset({"system_prompt"})},
        {"system_prompt": "the node's"},
        {"system_prompt": "JSON", "asked": frozenset({"task_system_prompt"})},
        {"system_prompt": "the node's"},
        {"system_prompt": "Be kind.", "asked": frozenset({"system_prompt"})},
        {},
    ):
        messages, *_ = ask(sessions, **fields)
        said.append(messages[0].content[0])
    assert said == ["Be brief.", "Be brief.", "JSON", "Be brief.", "Be kind.", "Be kind."]


def test_a_task_about_images_that_the_conversation_lacks_is_refused(new: Callable[..., Sessions]) -> None:
    sessions = new()
    ask(sessions, images=[picture()])
    question = sessions.begin("x", ENGINE)
    request = question.continued(AskRequest("?", session="x", text_only=True, task="compare", min_images=2))
    with pytest.raises(BadRequest, match="about 2 images"):
        question.earlier_images(request)


# --- bounds ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 120)), max_size=14),
    st.integers(1, 5),
    st.integers(0, 300),
    st.one_of(st.none(), st.integers(3, 6)),
)
def test_no_question_gets_more_than_the_limits_and_what_it_gets_is_the_newest_in_order(
    turns: list[tuple[int, int]], most_turns: int, most_tokens: int, most_images: int | None
) -> None:
    timers = Deadlines(print)
    sessions = Sessions(Session(max_turns=most_turns, max_tokens=most_tokens), timers)
    engine = replace(ENGINE, max_images=most_images)
    try:
        for number, (n_images, tokens) in enumerate(turns):
            pixels = [picture(32, 24) for _ in range(n_images)]
            messages, question, _ = ask(
                sessions, prompt=str(number), images=pixels, tokens=tokens, engine=engine, texts=True
            )
            earlier = question.earlier
            assert len(earlier.turns) <= most_turns and earlier.tokens <= (most_tokens or 500)
            assert most_images is None or len(images_of(messages)) <= most_images
            said = [text.rpartition(" ")[2].removeprefix("<image>") for text in texts_of(messages)[::2]]
            assert said == [str(n) for n in range(number + 1 - len(said), number + 1)]
            assert earlier.left_out == number - len(earlier.turns), "the note counts all that are gone"
            assert bool(earlier.note) == (earlier.left_out > 0)
            for message in messages[::2]:
                announced = sum(str(part).startswith("Picture") for part in message.content if isinstance(part, str))
                assert announced == sum(not isinstance(part, str) for part in message.content)
    finally:
        timers.close()


def test_what_was_left_out_is_said_with_the_reason(new: Callable[..., Sessions]) -> None:
    sessions = new(max_turns=2)
    for _ in range(3):
        _, question, _ = ask(sessions)
        assert not question.earlier.note
    _, question, _ = ask(sessions)
    assert question.earlier.note == (
        "the conversation's oldest question was left out, with answers and images: session.max_turns keeps 2"
    )
    _, question, _ = ask(sessions)
    assert question.earlier.note.startswith("the conversation's 2 oldest questions were left out")


def test_a_prompt_that_is_too_long_loses_its_oldest_turns_but_not_the_image_that_it_is_about(
    new: Callable[..., Sessions],
) -> None:
    sessions = new()
    for images in ([picture()], [], [picture()], []):
        ask(sessions, images=images)
    question = sessions.begin("x", ENGINE)
    question.continued(AskRequest("?", session="x", text_only=True))
    assert [question.shorten() for _ in range(4)] == [True, True, False, False]
    assert question.earlier.newest_with_images is not None
    question = sessions.begin("x", ENGINE)
    question.continued(AskRequest("?", session="x"))
    assert [question.shorten() for _ in range(5)] == [True] * 4 + [False]
    assert len(sessions.begin("x", ENGINE).earlier.turns) == 4, "a question that failed changes nothing"


def test_more_conversations_than_are_kept_cost_the_longest_unused_one_which_is_told(
    new: Callable[..., Sessions],
) -> None:
    sessions = new(max_sessions=2)
    for name in ("a", "b", "a", "c"):
        _, question, _ = ask(sessions, name)
        assert not question.notes
    assert len(sessions) == 2
    messages, question, _ = ask(sessions, "b")
    assert len(messages) == 1
    (note,) = question.notes
    assert "'b' anew" in note and "session.max_sessions keeps 2" in note
    assert not ask(sessions, "b")[1].notes
    assert len(ask(sessions, "c")[0]) == 3


def test_images_take_no_more_memory_than_is_allowed(new: Callable[..., Sessions]) -> None:
    big = ImageInput(multiple=32, max_tokens=400)
    sessions, engine = new(megabytes=1.0), replace(ENGINE, image_input=big, context_length=100_000)
    for name in ("a", "b", "b", "b", "b"):
        ask(sessions, name, images=[picture(640, 480)], engine=engine)
    assert len(sessions) == 1
    assert sessions.begin("b", engine).earlier.size <= 1e6
    assert "session.megabytes" in sessions.begin("b", engine).earlier.note
    assert "session.megabytes" in sessions.begin("a", engine).notes[0]


def test_a_conversation_that_nobody_continues_is_forgotten(deadlines: Deadlines) -> None:
    import threading

    gone = threading.Event()
    sessions = Sessions(Session(max_age=1.0), deadlines, gone.set)
    ask(sessions, images=[picture()])
    assert gone.wait(60) and len(sessions) == 0
    messages, question, _ = ask(sessions)
    assert len(messages) == 1 and "session.max_age" in question.notes[0]


# --- another engine --------------------------------------------------------------------------------------------------


def test_images_are_fitted_again_for_an_engine_that_takes_another_size(new: Callable[..., Sessions]) -> None:
    sessions, image = new(), picture(128, 96)
    before, *_ = ask(sessions, images=[image], texts=True)
    after, _, joined = ask(sessions, engine=BOARD)
    (fitted,) = images_of(after)
    expected, fit = fit_image(image, BOARD.image_input)
    assert fitted.shape == (64, 64, 3) and np.abs(fitted.astype(int) - expected).mean() < 4  # it was a JPEG meanwhile
    assert joined.images[0].fits == (fit,) and joined.images[0].size == (128, 96)
    assert texts_of(after)[0] == texts_of(before)[0]
    back, *_ = ask(sessions)
    (again,), (once,) = images_of(back), images_of(before)
    assert again.shape == once.shape and np.abs(again.astype(int) - once).mean() < 4


def test_a_clip_counts_as_one_image_and_goes_where_an_engine_takes_none(new: Callable[..., Sessions]) -> None:
    sessions, able = new(), replace(ENGINE, supports=frozenset({"video"}), max_images=2)
    frames = inputs([picture() for _ in range(4)], able)
    clip = Clip(tuple(images_of([Message("user", frames.content)])), (0.0, 1.0, 2.0, 3.0))
    question = sessions.begin("x", able)
    joined = question.joined(replace(frames, content=(clip,)), ImageCost())
    question.answered(Message("user", (clip, "When?")), joined, "Then.", Usage())
    question.end()
    follow_up, question, joined = ask(sessions, engine=able)
    assert question.earlier.n_images == 1 and len(joined.images) == 4
    assert joined.clip_times == clip.times, "times in the answer are the clip's"
    (kept,) = images_of(follow_up)
    assert isinstance(kept, Clip) and all(map(np.array_equal, kept.frames, clip.frames))
    smaller = sessions.begin("x", replace(able, image_input=BOARD.image_input)).earlier.turns[0].question[0]
    assert isinstance(smaller, Clip) and smaller.times == clip.times and smaller.frames[3].shape == (64, 64, 3)
    unable = sessions.begin("x", ENGINE).earlier
    assert [turn.question for turn in unable.turns] == [("What?",)] and "takes no clips" in unable.note


@given(st.integers(40, 900), st.integers(40, 900), st.sampled_from([0, 90, 180, 270]), st.sampled_from([1, 2, 3]))
def test_what_is_fitted_again_shows_the_same_part_of_the_original_in_any_resolution(
    width: int, height: int, rotation: Rotation, reduced: int
) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    _, before = fit_image(pixels, ENGINE.image_input, rotation)
    small = pixels[: height // reduced * reduced : reduced, : width // reduced * reduced : reduced]
    fitted, after = fit_again(small, before, BOARD.image_input)
    assert fitted.shape == (64, 64, 3) and after.original_size == (width, height)
    x, y = after.place[0] + (after.place[2] - after.place[0]) / 4, (after.place[1] + after.place[3]) / 2
    there = before.to_fitted(*after.to_original(x, y))
    assert np.allclose(
        [there[0] / before.fitted_size[0], there[1] / before.fitted_size[1]],
        [1 / 4, 1 / 2],
        atol=0.05,
    )


# --- order and forgetting --------------------------------------------------------------------------------------------


def test_questions_of_a_session_are_next_in_the_order_in_which_they_came(new: Callable[..., Sessions]) -> None:
    sessions = new()
    for name, question in (("a", 1), ("a", 2), ("b", 3), ("a", 4)):
        sessions.enter(name, question)
    assert [sessions.is_next(*it) for it in (("a", 1), ("a", 2), ("b", 3), ("a", 4))] == [True, False, True, False]
    sessions.leave("a", 2)
    sessions.leave("a", 2)
    sessions.leave("a", 1)
    assert sessions.is_next("a", 4)
    sessions.leave("a", 4)
    sessions.leave("c", 5)


def test_a_question_that_failed_leaves_no_turn(new: Callable[..., Sessions]) -> None:
    sessions = new()
    sessions.enter("x", 1)
    sessions.begin("x", ENGINE).end()
    sessions.leave("x", 1)
    assert len(sessions) == 0 and sessions.reset("x")[0] is False


def test_a_reset_forgets_the_conversation_and_the_turn_of_the_question_that_runs(new: Callable[..., Sessions]) -> None:
    sessions = new()
    ask(sessions, "a")
    ask(sessions, "b")
    question = sessions.begin("a", ENGINE)
    assert sessions.reset("a") == (True, "the conversation 'a' is forgotten, 1 question")
    question.answered(Message("user", ("?",)), InputImages(), "No.", Usage())
    question.end()
    messages, question, _ = ask(sessions, "a")
    assert len(messages) == 1 and not question.notes
    success, sentence = sessions.reset("c")
    assert not success and "'b', 'a'" in sentence
    assert sessions.reset("") == (True, "2 conversations forgotten")
    assert len(sessions) == 0


def test_a_conversation_is_not_too_old_while_its_question_is_asked(deadlines: Deadlines) -> None:
    sessions = Sessions(Session(max_age=1.0), deadlines)
    ask(sessions)
    sessions.enter("x", 1)
    began = time.monotonic()
    while time.monotonic() - began < 1.2:  # older than it may become
        sessions.expire()
    assert len(sessions) == 1
    sessions.leave("x", 1)
