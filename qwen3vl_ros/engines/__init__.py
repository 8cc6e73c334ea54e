"""Engines that run the model, the contract they fulfil, and the process they live in. No ROS."""
