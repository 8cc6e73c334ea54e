"""Renders an SDF world with Drake: colour, depth and labels from the world's camera."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from qwen3vl_ros.sim.opengl import check_renderer
from qwen3vl_ros.sim.sdf import Camera, Light, World, WorldError
from qwen3vl_ros.vision.poses import Pose

_RENDERER = "vtk"
# Near clipping plane in metres. Between it and a depth camera's near clip, depth is "too close".
_NEAREST = 0.01


class Scene:
    """A world that is rendered but not simulated: objects keep the poses that they are given.

    Not thread-safe, and bound to the thread that created it, as an OpenGL context is.
    """

    def __init__(self, world: World, camera: str = "") -> None:
        """Load `world` for rendering through its colour camera `camera` (default: the first).

        Raises:
            WorldError: Drake cannot load the world, or it has no such camera.
            RenderError: This machine has no Drake or no OpenGL.
        """
        self.world = world
        self.camera: Camera = world.colour_camera(camera)
        self.depth_camera: Camera | None = world.depth_camera(self.camera)
        check_renderer()
        self._load()
        self.changes = 0
        """Number of changes of the scene: images with the same count are identical."""

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the movable models: those that are not static in the world file."""
        return tuple(self._bodies)

    @property
    def label_names(self) -> dict[int, str]:
        """The model's name for each value in `labels()`."""
        return dict(self._label_names)

    def pose(self, name: str) -> Pose:
        """Return the pose [4, 4] of the object `name` in the world frame, metres; raises KeyError."""
        body = self._bodies[self._known(name)]
        pose: Pose = self._plant.GetFreeBodyPose(self._plant_context, body).GetAsMatrix4()
        return pose

    def set_pose(self, name: str, pose: Pose) -> None:
        """Move the object `name` to `pose` [4, 4] in the world frame, metres; raises KeyError."""
        body = self._bodies[self._known(name)]
        self._plant.SetFreeBodyPose(self._plant_context, body, _transform(pose))
        self.changes += 1

    def colour(self) -> npt.NDArray[np.uint8]:
        """Render the colour image: uint8 [height, width, 3] RGB, C-contiguous."""
        image = self._query().RenderColorImage(
            camera=self._colour_view, parent_frame=self._world_frame, X_PC=self._camera_pose
        )
        return np.ascontiguousarray(image.data[:, :, :3])

    def depth(self) -> npt.NDArray[np.float32]:
        """Render depth along the optical axis: float32 [height, width], metres.

        As in REP 118 and Gazebo: +inf where nothing is within the clip range, -inf where
        something is nearer.

        Raises:
            WorldError: The world has no depth camera.
        """
        if self._depth_view is None:
            raise WorldError(
                f"The world file {self.world.path} has no depth camera beside "
                f"'{self.camera.name}': add a <sensor type=\"depth_camera\"> to the same link."
            )
        image = self._query().RenderDepthImage(
            camera=self._depth_view, parent_frame=self._world_frame, X_PC=self._camera_pose
        )
        depth = np.array(image.data[:, :, 0], dtype=np.float32, order="C")
        depth[depth == 0.0] = -np.inf  # Drake's value for "too close"
        return depth

    def labels(self) -> npt.NDArray[np.int16]:
        """Render the label of each pixel: int16 [height, width], keys of `label_names`.

        A pixel without a model has a value that `label_names` does not list.
        """
        image = self._query().RenderLabelImage(
            camera=self._colour_view, parent_frame=self._world_frame, X_PC=self._camera_pose
        )
        return np.array(image.data[:, :, 0], dtype=np.int16, order="C")

    def _query(self) -> Any:
        return self._query_port.Eval(self._scene_context)

    def _known(self, name: str) -> str:
        if name in self._bodies:
            return name
        known = ", ".join(self.objects) or "none"
        if name in self._label_names.values():
            raise KeyError(f"'{name}' is static in the world file; what can be moved: {known}.")
        raise KeyError(f"There is no object '{name}' in this world; what can be moved: {known}.")

    def _load(self) -> None:
        from pydrake.geometry import MakeRenderEngineVtk
        from pydrake.multibody.parsing import Parser
        from pydrake.multibody.plant import AddMultibodyPlantSceneGraph
        from pydrake.systems.framework import DiagramBuilder

        builder: Any = DiagramBuilder()
        plant, scene_graph = AddMultibodyPlantSceneGraph(builder, 0.0)
        # Add the renderer first: visuals are registered with it when they are parsed.
        scene_graph.AddRenderer(_RENDERER, MakeRenderEngineVtk(_renderer_parameters(self.world)))
        parser: Any = Parser(plant)
        try:
            models = parser.AddModels(file_contents=self.world.geometry, file_type="sdf")
        except RuntimeError as error:
            raise WorldError(f"Drake cannot load the world file {self.world.path}: {error}") from error
        plant.Finalize()
        self._diagram = builder.Build()
        self._context = self._diagram.CreateDefaultContext()
        self._plant = plant
        self._plant_context = plant.GetMyMutableContextFromRoot(self._context)
        self._scene_context = scene_graph.GetMyContextFromRoot(self._context)
        self._query_port = scene_graph.get_query_output_port()
        self._world_frame = scene_graph.world_frame_id()

        self._bodies: dict[str, Any] = {}
        self._label_names: dict[int, str] = {}
        for model in models:
            name = plant.GetModelInstanceName(model).split("::")[-1]
            for index in plant.GetBodyIndices(model):
                # Drake labels an image's pixels with the index of the body they show.
                self._label_names[int(index)] = name
                if plant.get_body(index).is_floating_base_body():
                    self._bodies[name] = plant.get_body(index)

        self._camera_pose = _transform(self.camera.world_from_optical)
        self._colour_view = _colour_view(self.camera)
        self._depth_view = _depth_view(self.depth_camera) if self.depth_camera else None


def _transform(pose: Pose) -> Any:
    from pydrake.math import RigidTransform

    matrix: Any = pose
    return RigidTransform(matrix)


def _renderer_parameters(world: World) -> Any:
    from pydrake.geometry import LightParameter, RenderEngineVtkParams, Rgba

    lights = [_drake_light(light) for light in world.lights]
    # Drake has no ambient light; a lamp of the same brightness on the camera lights every side
    # that the camera sees.
    lights.append(LightParameter(type="point", color=Rgba(*world.ambient), frame="camera", position=np.zeros(3)))
    return RenderEngineVtkParams(
        default_clear_color=np.array(world.background),
        lights=lights,
        cast_shadows=any(light.casts_shadows for light in world.lights),
        shadow_map_size=1024,
    )


def _drake_light(light: Light) -> Any:
    from pydrake.geometry import LightParameter, Rgba

    return LightParameter(
        type=light.kind,
        color=Rgba(*light.colour),
        attenuation_values=np.array(light.attenuation),
        position=np.array(light.position),
        frame="world",
        intensity=light.intensity,
        direction=np.array(light.direction),
        cone_angle=light.cone_angle,
    )


def _view_core(camera: Camera, near: float) -> Any:
    from pydrake.geometry import ClippingRange, RenderCameraCore
    from pydrake.math import RigidTransform
    from pydrake.systems.sensors import CameraInfo

    return RenderCameraCore(
        _RENDERER,
        CameraInfo(camera.width, camera.height, *camera.intrinsics),
        ClippingRange(near, camera.far),
        RigidTransform(),
    )


def _colour_view(camera: Camera) -> Any:
    from pydrake.geometry import ColorRenderCamera

    return ColorRenderCamera(_view_core(camera, camera.near), show_window=False)


def _depth_view(camera: Camera) -> Any:
    from pydrake.geometry import DepthRange, DepthRenderCamera

    return DepthRenderCamera(_view_core(camera, min(_NEAREST, camera.near)), DepthRange(camera.near, camera.far))
