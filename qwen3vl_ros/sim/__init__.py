"""The built-in camera: an SDF world rendered with Drake, without ROS and without Gazebo.

`sdf` reads a world file, `scene` renders it, `motion` moves its objects along simple paths,
`poses` has the rigid-body arithmetic that the three share. None of these imports ROS; the node
that publishes the images is `qwen3vl_ros.sim.camera_node`, its parameters are in `settings`.

Drake is imported by `scene` only, so a world's sensors can be read on a machine without it.
"""
