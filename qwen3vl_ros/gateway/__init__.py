"""The HTTP gateway: asks the node questions for people and programs without ROS.

Only ``node`` and ``ros_backend`` import rclpy themselves.
"""
