"""The node ``vlm``: a goal on its way through queue, images and engine to its answer."""
