"""Makes an OpenVINO model with random weights and the shapes of a real Qwen3-VL.

    python benchmark/openvino_random_model.py build/benchmark/qwen3-vl-2b-random-openvino

The counterpart of random_model.py: the same shapes, exported by optimum-intel with int4 weights as docs/openvino.md has
users do it. It needs its own packages, in DIRECTORY/tools of the environment, and 12 GB of memory.
"""
