"""The tools by name, with what each takes: the descriptions are all that an agent knows of them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Camera = Annotated[str, Field(description="Name of a camera, from status. Empty: the first one.")]


class Arguments(BaseModel):
    """Arguments of a tool; one that it does not have is refused."""

    model_config = ConfigDict(extra="forbid")


class Status(Arguments):
    """Say whether the robot can look now, through which cameras, and what its model knows. Call this first."""


class Look(Arguments):
    """Ask a question about what a camera of the robot sees now; the answer is text. Ask one thing at a time."""

    question: str = Field(min_length=1, description='Such as "Is the door open?" or "What is on the table?".')
    camera: Camera = ""
    detail: Literal["low", "high"] = Field("low", description="high: sees small things and reads text, but is slower.")


class Locate(Arguments):
    """Find where things are in a camera's image: boxes [left, top, width, height] in pixels, best first."""

    thing: str = Field(min_length=1, description='What to look for, such as "red cup".')
    camera: Camera = ""


class Find(Arguments):
    """Find where a thing is in space: [x, y, z] in metres in a frame of the robot, or the reason why not."""

    thing: str = Field(min_length=1, description='A single thing, such as "red cup".')
    frame: str = Field("", description='Such as "map". Empty: the camera\'s own: x right, y down, z away.')
    camera: str = Field("", description="Name of a camera, from status. Empty: each of them until it is found.")


class Tasks(Arguments):
    """List the ready-made tasks of the robot's model; with a name, tell what that one takes."""

    name: str = Field("", description="Name of a task. Empty: all.")


class RunTask(Arguments):
    """Run a ready-made task on what a camera sees now, such as count, ocr or yes_no."""

    name: str = Field(min_length=1, description="Name of the task, from tasks.")
    prompt: str = Field("", description="What the task is about: what to count, the question.")
    slots: dict[str, Any] = Field({}, description="Other slots of the task by name.")
    camera: Camera = ""


class Watch(Arguments):
    """Have the robot ask a yes-or-no question again and again; recent_events tells when its answer changes.

    With stop, end a watch. With neither, list the watches.
    """

    question: str = Field("", description='A yes-or-no question, such as "Is somebody at the door?".')
    camera: Camera = ""
    every: float = Field(1.0, ge=0.02, le=86400, description="Least seconds between two looks.")
    minutes: float = Field(60.0, gt=0, le=525600, description="The watch ends by itself after these.")
    stop: str = Field("", description="Identifier of a watch to end.")


class RecentEvents(Arguments):
    """Tell what the watches have seen, the newest first."""

    since: int = Field(-1, description="Only events after this number; `last` of the previous answer. -1: all.")


class GetImage(Arguments):
    """Get the newest image of a camera. Costs many more tokens than a question about it: prefer look."""

    camera: Camera = ""
    width: int = Field(448, ge=64, le=1280, description="Width in pixels at most.")


class More(Arguments):
    """Get the rest of an answer that was cut."""

    id: str = Field(min_length=1, description="As the cut answer says.")


TOOLS: Final[dict[str, type[Arguments]]] = {
    "status": Status,
    "look": Look,
    "locate": Locate,
    "find": Find,
    "tasks": Tasks,
    "run_task": RunTask,
    "watch": Watch,
    "recent_events": RecentEvents,
    "get_image": GetImage,
    "more": More,
}
"""Name of each tool -> its arguments."""

READ_ONLY: Final = frozenset(TOOLS) - {"watch"}
"""Tools that change nothing on the robot."""


def schema_of(arguments: type[Arguments]) -> dict[str, Any]:
    """Return the JSON Schema of a tool's arguments, without pydantic's titles, which cost an agent tokens."""
    schema = arguments.model_json_schema()
    schema.pop("title", None)
    schema.pop("description", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
    return schema
