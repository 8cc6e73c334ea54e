"""The node `camera`: images without a camera's ROS driver, simulated or from a source.

The simulated camera, an SDF world rendered with Drake, without Gazebo: `sdf` reads a world file, `scene` renders it,
`motion` moves its objects along simple paths. None of these
imports ROS. Drake is imported by `scene` only, so a world's sensors can be read on a machine without it.

Sources: `sources` says what one is, `video` reads videos, streams and webcams, `folder` folders of images,
`calibration_file` their calibration. PyAV is imported by `video` only.

`camera_node` is the node, with its parameters in `settings`; `simulated_camera` and `source_camera` publish.
"""
