"""The engine contract as tests: an engine that passes them can be used by the node.

In the tests of a package with an engine (these modules need pytest, nothing else in this package does)::

    import pytest
    from qwen3vl_ros.engines.conformance import EngineConformance

    class TestMyEngine(EngineConformance):
        engine_class = MyEngine

        @pytest.fixture(scope="class")
        def config(self, my_server):
            return {"url": my_server.url}

One engine serves most of the tests in turn, as in the worker process; after a failed test it is replaced. Every answer
runs on its own thread and every wait has a timeout, so an engine that hangs fails tests and does not hang them.
"""

from __future__ import annotations

from qwen3vl_ros.engines.conformance.answers import Answers
from qwen3vl_ros.engines.conformance.cancel import Cancelling
from qwen3vl_ros.engines.conformance.closing import Closing
from qwen3vl_ros.engines.conformance.concurrency import Concurrency
from qwen3vl_ros.engines.conformance.fields import Fields
from qwen3vl_ros.engines.conformance.refusals import Refusals
from qwen3vl_ros.engines.conformance.stream import text_of
from qwen3vl_ros.engines.conformance.thinking import Thinking

__all__ = ["EngineConformance", "text_of"]


# pytest runs the tests of the last base first; those that load engines of their own come last.
class EngineConformance(Closing, Refusals, Thinking, Fields, Concurrency, Cancelling, Answers):
    """Derive from it, in a class whose name begins with ``Test``; see the module.

    What to set and to replace: :class:`~qwen3vl_ros.engines.conformance.harness.EngineHarness`.
    """
