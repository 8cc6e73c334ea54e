"""An installed package of a third party, with engines of its own: a directory on sys.path with the metadata of one."""

from __future__ import annotations

import fcntl
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import IO


def install(folder: Path, source: str, engines: Mapping[str, str]) -> Path:
    """Write module ``their_engine`` with ``source``, and metadata that names its ``engines`` (name: class)."""
    metadata = folder / "third_party-1.dist-info"
    metadata.mkdir(parents=True)
    (folder / "their_engine.py").write_text(textwrap.dedent(source))
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: third_party\nVersion: 1\n")
    lines = [f"{name} = their_engine:{kind}" for name, kind in engines.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[qwen3vl_ros.engines]", *lines, ""]))
    return folder


MOODY = """
    import threading
    import fcntl
    from pathlib import Path
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Moody:
        '''Does what the file `mood` says now; its answer is the file's name.'''

        def __init__(self, mood, progress, concurrency=1):
            self._mood, self._concurrency = Path(mood), concurrency
            if self._read() == "slow":
                progress("it takes its time")
                self._wait(lambda mood: mood != "slow")
            if self._read() == "broken":
                raise ModelNotFound(f"{self._mood.name} is broken")
            self._taught = self._mood.name

        def _read(self):
            return self._mood.read_text()

        def _wait(self, wanted):
            while True:
                with self._mood.open() as mood:
                    if wanted(mood.read()):
                        return
                    fcntl.flock(mood, fcntl.LOCK_SH)  # the test holds it until it sets another

        def _wait_let_go(self, over):
            self._wait(lambda mood: mood == "let go")
            over.set()

        @staticmethod
        def probe(mood, concurrency=1):
            mood = Path(mood)
            if mood.read_text() == "absent":
                raise ModelNotFound(f"{mood.name} is not installed")
            if mood.read_text() == "away":
                raise EngineNotReady(f"{mood.name} is away")
            return f"{mood.name} is here"

        def describe(self):
            return Description(self._mood.name, f"model of {self._mood.name}", concurrency=self._concurrency,
                               supports=frozenset({"text_only", "max_tokens", "temperature"}))

        def generate(self, request, cancel):
            if self._read() == "failing":
                raise EngineError(f"{self._mood.name} fails")
            if self._read() == "strict":
                raise PromptTooLong(f"{self._mood.name} takes no prompt of this length")
            yield Chunk(Stage.DECODE, self._mood.name, completion_tokens=1)
            if "wait" in str(request.messages[-1].content[-1]):
                over = threading.Event()
                threading.Thread(target=self._wait_let_go, args=(over,), daemon=True).start()
                with cancel.calling(over.set):
                    over.wait()
            reason = "cancelled" if cancel.is_set() else "stop"
            yield Chunk(Stage.DECODE, "", "", 1, reason, Usage(completion_tokens=1))

        def close(self):
            pass
"""
"""Source of an engine ``Moody(mood)``, made for being moved between states by a test: :class:`Mood`."""


class Mood:
    """The file that says what an engine ``Moody`` does. It is locked: who waits for another mood waits for the lock."""

    def __init__(self, path: Path, mood: str) -> None:
        self.path = path
        self._locked: IO[str] | None = None
        self.set(mood)

    def set(self, mood: str) -> None:
        """From now on."""
        new = self.path.with_suffix(".new")
        locked = new.open("w")
        fcntl.flock(locked, fcntl.LOCK_EX)
        locked.write(mood)
        locked.flush()
        new.rename(self.path)
        self.close()
        self._locked = locked

    def close(self) -> None:
        """Nobody waits any more."""
        if self._locked is not None:
            self._locked.close()


RECITER = """
    import json
    from pathlib import Path
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage
    from qwen3vl_ros.engines.token_probabilities import Token

    class Reciter:
        '''Answers with the texts in a file, one after the other, and writes down what it was asked.'''

        def __init__(self, says, heard, progress, constrains=False, tells=False):
            self._says, self._heard, self._text, self._asked = Path(says), Path(heard), "", 0
            self._abilities = {"text_only", "max_tokens", "temperature", "system_prompt"}
            if constrains:
                self._abilities.add("json_schema")
            if tells:
                self._abilities.add("probabilities")

        def describe(self):
            return Description("reciter", "none", max_images=4, supports=frozenset(self._abilities))

        def generate(self, request, cancel):
            parts = request.messages[-1].content
            said = "".join(part if isinstance(part, str) else "<image>" for part in parts)
            with self._heard.open("a") as heard:
                heard.write(json.dumps(said) + "\\n")
            text = self._says.read_text()
            if text != self._text:
                self._text, self._asked = text, 0
            answers = json.loads(text)
            answer = answers[min(self._asked, len(answers) - 1)]
            self._asked += 1
            if answer == "TOO LONG":
                raise PromptTooLong("999 tokens, and the limit is 320")
            yield Chunk(Stage.PREFILL)
            if answer == "THINK ON":
                yield Chunk(Stage.DECODE, "", "It is", 2)
                yield Chunk(Stage.DECODE, "", "", 2, "length", Usage(prompt_tokens=1, completion_tokens=2))
                return
            if answer == "WAIT" and "What?" in said:
                cancel.wait()
                yield Chunk(Stage.DECODE, "", "", 0, "cancelled", Usage())
                return
            for count, letter in enumerate(answer, 1):
                yield Chunk(Stage.DECODE, letter, completion_tokens=count)
            usage = Usage(prompt_tokens=1, completion_tokens=len(answer))
            tokens = ()
            if request.token_probabilities:
                before, bracket, after = answer.partition("[")
                tokens = [Token(letter.encode(), 1.0) for letter in before + bracket + after]
                tokens[len(before)] = Token(b"[", 0.75, ((b"[]", 0.25),))
            yield Chunk(Stage.DECODE, "", "", len(answer), "stop", usage, None, tuple(tokens))

        def close(self):
            pass
"""
"""Source of an engine ``Reciter(says, heard)``: a model whose answers a test chooses, letter by letter.

With ``tells``, each letter is a token without alternatives, but for the first bracket: it would be ``[]`` with 0.25.
"""


DEADLY = """
    import os
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Deadly:
        '''Aborts, before it has said anything, where it is asked to.'''

        def __init__(self, progress):
            pass

        def describe(self):
            return Description("deadly", "none", max_images=4, supports=frozenset({"max_tokens", "temperature"}))

        def generate(self, request, cancel):
            if request.messages[-1].content[-1] == "Die.":
                os.abort()
            yield Chunk(Stage.DECODE, "Alive.", completion_tokens=1)
            yield Chunk(Stage.DECODE, "", "", 1, "stop", Usage(prompt_tokens=1, completion_tokens=1))

        def close(self):
            pass
"""
"""Source of an engine ``Deadly()``, whose process aborts where the prompt tells it to."""


WITNESS = """
    import json
    from qwen3vl_ros.engines.base import *
    from qwen3vl_ros.engines.base import Usage

    class Witness:
        '''Says what it was shown, as JSON: a text, an image, or a clip with its times, each with the mean
        of its pixels. Where the question is about a cup, ``says``.'''

        def __init__(self, progress, says="", video=True):
            self._says = says
            self._abilities = {"text_only", "max_tokens", "temperature"} | ({"video"} if video else set())

        def describe(self):
            image_input = ImageInput(32, 1000, default_tokens=300)
            return Description("witness", "none", image_input=image_input, supports=frozenset(self._abilities))

        def _seen(self, part):
            if isinstance(part, str):
                return part
            if isinstance(part, Clip):
                return {"times": part.times, "size": part.frames[0].shape[1::-1],
                        "means": [round(float(frame.mean())) for frame in part.frames]}
            return {"size": part.shape[1::-1], "means": [round(float(part.mean()))]}

        def generate(self, request, cancel):
            seen = [[self._seen(part) for part in message.content] for message in request.messages]
            says = self._says if "cup" in str(seen[-1][-1]) else json.dumps(seen)
            yield Chunk(Stage.DECODE, says, completion_tokens=1)
            yield Chunk(Stage.DECODE, "", "", 1, "stop", Usage(prompt_tokens=1, completion_tokens=1))

        def close(self):
            pass
"""
"""Source of an engine ``Witness(says, video)``, whose answer tells what the node gave it."""
