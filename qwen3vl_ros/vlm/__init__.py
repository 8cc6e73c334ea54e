"""The node ``vlm``: takes a goal through queue, images and engine to its answer."""
