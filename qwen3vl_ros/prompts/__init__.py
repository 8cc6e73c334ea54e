"""Tasks, prompts, and the checks of an answer against its JSON Schema. No ROS."""
