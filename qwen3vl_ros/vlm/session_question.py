"""A question of a session while it is answered: what it gets of its conversation, and what it leaves there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from qwen3vl_ros.engines.base import BadRequest, Clip, Description, Message, Usage
from qwen3vl_ros.prompts.request import AskRequest
from qwen3vl_ros.vlm.image_budget import text_size
from qwen3vl_ros.vlm.image_cost import ImageCost, ImageLoad
from qwen3vl_ros.vlm.images import InputImages
from qwen3vl_ros.vlm.kept_turns import EarlierTurns, KeptImage, KeptTurn, count_images, encoded_in, pixels_in

_CONTROL_TOKENS = 8
"""Tokens around the texts of a question and its answer."""


@dataclass(slots=True)
class SessionQuestion:
    """A question of a session.

    ``earlier``: what it gets of the conversation; ``engine``: that answers. ``notes``: what the asker should know of
    the session. ``keep``: called with what the conversation has become, once, if the question succeeded.
    """

    earlier: EarlierTurns
    engine: Description
    notes: tuple[str, ...]
    keep: Callable[[EarlierTurns], None]
    _system_prompt: str = ""
    _about_earlier: bool = False
    _turn: KeptTurn | None = None

    def continued(self, request: AskRequest) -> AskRequest:
        """Return the request as it continues the conversation.

        Without an instruction of its own it keeps that of the turn before; a task's instruction is for its question
        alone. With ``text_only`` it is about the newest images of the conversation.
        """
        turns, of_task = self.earlier.turns, "task_system_prompt" in request.asked
        if turns and "system_prompt" not in request.asked:
            self._system_prompt = turns[-1].system_prompt
        else:
            self._system_prompt = "" if of_task else request.system_prompt
        if not of_task:
            request = replace(request, system_prompt=self._system_prompt)
        self._about_earlier = request.text_only and self.earlier.newest_with_images is not None
        return replace(request, session_tokens=self.earlier.tokens)

    def supported(self, request: AskRequest) -> AskRequest:
        """Return the request for the check of what the engine supports: about images where the conversation has some.

        An engine that always needs an image has one then.
        """
        return replace(request, text_only=False) if self._about_earlier else request

    def earlier_images(self, request: AskRequest) -> InputImages | None:
        """Return the images of the conversation that a question without its own is about; None = it has its own.

        Raises:
            BadRequest: The task needs more, or fewer.
        """
        turn = self.earlier.newest_with_images
        if not self._about_earlier or turn is None:
            return None
        images = tuple(image.decoded() for image in turn.images)
        if len(images) < request.min_images:
            raise BadRequest(
                f"task {request.task} is about {request.min_images} images; the conversation's newest question with "
                f"images has {len(images)}"
            )
        if len(images) > 1 and request.parser == "regions_3d":
            raise BadRequest(f"task {request.task} looks at one image; the conversation's newest are {len(images)}")
        clips = [part for part in turn.question if isinstance(part, Clip)]
        return InputImages(images, clip_times=clips[0].times if clips else ())

    def joined(self, inputs: InputImages, cost: ImageCost) -> InputImages:
        """Return ``inputs`` as they go on with the conversation, and leave out turns for which no images are left.

        Pixels that the engine has read already, as the newest ones of the conversation, are not sent again: the
        question is about those.
        """
        if inputs.content and self.earlier.end_with(inputs.content):
            self._about_earlier = True
            inputs = replace(inputs, content=(), load=ImageLoad())
        most = self.engine.max_images
        if most is not None:
            self.earlier = self.earlier.within(len(self.earlier.turns), None, most - count_images(inputs.content))
        known, own = cost.load_of(self.earlier.encoded, self.engine.image_input.multiple), inputs.load
        return replace(inputs, load=ImageLoad(known.new + own.new, known.digests + own.digests))

    def shorten(self) -> bool:
        """Leave out the oldest turn, of many an eighth, as the prompt was too long; return False where nothing can go.

        The images that the question is about stay.
        """
        turns = self.earlier.turns
        free = len(turns)
        if self._about_earlier:
            free = max(index for index, turn in enumerate(turns) if turn.images)
        for _ in range(min(free, max(1, len(turns) // 8))):
            self.earlier = self.earlier.without_oldest("the prompt would have been too long")
        return free > 0

    def answered(self, asked: Message, inputs: InputImages, text: str, usage: Usage) -> None:
        """Note the complete turn.

        Args:
            asked: The question as the engine read it.
            inputs: What :meth:`joined` returned.
            text: The answer, without reasoning.
            usage: Of the answer.
        """
        parts = iter(pixels_in(asked.content))
        read_as = self.engine.image_input
        images = tuple(
            KeptImage.of(image, [next(parts) for _ in image.fits], read_as) for image in inputs.images if inputs.content
        )
        self._turn = KeptTurn(asked.content, text, images, self._system_prompt)
        self._turn = replace(self._turn, tokens=self._tokens(usage, text, self._turn))

    def end(self) -> None:
        """Add the turn to the conversation; the question has succeeded."""
        if self._turn is not None:
            self.keep(replace(self.earlier, turns=(*self.earlier.turns, self._turn)))

    def _tokens(self, usage: Usage, text: str, turn: KeptTurn) -> int:
        """Return what the turn takes, as counted by the engine, else by the sizes of texts and images."""
        if usage.prompt_tokens:
            answer = min(usage.completion_tokens, text_size(text)) + _CONTROL_TOKENS
            return max(1, usage.prompt_tokens + answer - self.earlier.tokens)
        texts = [part for part in turn.question if isinstance(part, str)]
        area = sum(int(image.shape[0] * image.shape[1]) for image in encoded_in(turn.question))
        own = area // self.engine.image_input.multiple**2 + sum(map(text_size, texts)) + text_size(text)
        return own + 2 * _CONTROL_TOKENS
