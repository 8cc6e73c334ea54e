"""Helpers that rclpy and the middleware lack."""
