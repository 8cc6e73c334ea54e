"""Engines that run the model, the contract they fulfil, and the worker process that hosts one. No ROS."""
