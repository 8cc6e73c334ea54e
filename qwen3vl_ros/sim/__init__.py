"""The built-in camera: an SDF world rendered with Drake, without ROS and without Gazebo.

`sdf` reads a world file, `scene` draws it, `motion` moves its objects along simple paths,
`poses` is the rigid-body arithmetic the three share. None of these imports ROS; the node
that publishes the images is `qwen3vl_ros.sim.camera_node`, its parameters are in `settings`.

Drake is imported by `scene` only, so a world's sensors can be read on a machine without it.
"""
