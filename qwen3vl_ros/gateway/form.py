"""Chat requests as a form: ``multipart/form-data`` with ``image`` and ``prompt``."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from qwen3vl_ros.gateway.chat_request import ChatRequest, read
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.images import ImageLimits, checked
from qwen3vl_ros.gateway.request_fields import plain_text

_MOST_PARTS = 50


async def read_form(request: Request, limits: ImageLimits) -> tuple[ChatRequest, list[bytes]]:
    """Return the chat request in a form, and its images. Raises :class:`ApiError`.

    ``image``: JPEG, PNG or WebP, several times for several images. Fields other than ``image`` and ``prompt`` are those
    of the JSON body with a single value, such as ``max_tokens`` and ``camera``; an empty one counts as unset.
    """
    values: dict[str, Any] = {}
    files: list[UploadFile] = []
    try:
        form = await request.form(max_files=_MOST_PARTS, max_fields=_MOST_PARTS)
    except HTTPException as error:
        raise ApiError(400, "invalid_form", f"the form cannot be read: {error.detail}") from None
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name == "image":
                files.append(value)
            elif isinstance(value, UploadFile) or name in values or name in ("image", "messages"):
                raise ApiError(400, "invalid_form", f"{name}: that is no field of this form", param=name)
            else:
                values[name] = value
        images = [await anyio.to_thread.run_sync(checked, await file.read(limits.size + 1), limits) for file in files]
    finally:
        await form.close()
    request.state.image_name = files[0].filename if files else None
    values = {name: value for name, value in plain_text(values).items() if value}  # browsers send empty fields, too
    prompt = values.pop("prompt", "")
    if not images and "camera" not in values:
        raise ApiError(400, "invalid_value", "image: the form brings no image and names no camera", param="image")
    parts = [{"type": "image_url", "image_url": "form:image"} for _ in images]
    values["messages"] = [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]
    return read(values, strict=False), images
