"""The parts of :mod:`qwen3vl_ros.client`: goal, answer, exceptions, the handle of a question, the link to the node."""
