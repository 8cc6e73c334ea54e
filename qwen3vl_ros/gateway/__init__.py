"""The HTTP gateway: the node's questions for people and programs that don't speak ROS.

Only ``node`` and ``ros_backend`` import rclpy themselves.
"""
