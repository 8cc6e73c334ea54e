"""The HTTP gateway: the node's questions for people and programs that don't speak ROS. Nothing here imports rclpy."""
