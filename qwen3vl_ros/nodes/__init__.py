"""The ROS 2 nodes; nothing else in the package creates one."""
