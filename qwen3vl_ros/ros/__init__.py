"""What rclpy and the middleware lack, in one place."""
