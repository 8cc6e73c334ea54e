"""The engine ``maix_http``: the HTTP service of a board with an Axera NPU."""
