"""Images: from messages to pixels, fitted for the model, annotated for people. No ROS node."""
