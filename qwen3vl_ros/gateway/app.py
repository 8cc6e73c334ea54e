"""The gateway's HTTP interface: its paths and their handlers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import anyio.to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from qwen3vl_ros.client.tasks import Task
from qwen3vl_ros.engines import speed
from qwen3vl_ros.engines.fitted_catalogue import FittedCatalogue, fitted_catalogue
from qwen3vl_ros.engines.machine import this_machine
from qwen3vl_ros.gateway import logs, models
from qwen3vl_ros.gateway.auth import Authentication
from qwen3vl_ros.gateway.backend import Backend, Unavailable, UnknownCamera, why_not
from qwen3vl_ros.gateway.bodies import BodyLimit, Head
from qwen3vl_ros.gateway.chat import Chat
from qwen3vl_ros.gateway.corrections import CORRECTION_BODY, Corrected, Corrections
from qwen3vl_ros.gateway.errors import ApiError
from qwen3vl_ros.gateway.limits import Limits
from qwen3vl_ros.gateway.mcp.endpoint import McpEndpoint
from qwen3vl_ros.gateway.metrics import Metrics
from qwen3vl_ros.gateway.openapi import (
    CHAT_ANSWER,
    CHAT_BODY,
    FRAME,
    Model,
    ModelList,
    StatusReport,
    describe,
    errors,
    status_report,
)
from qwen3vl_ros.gateway.proxies import TrustedProxies
from qwen3vl_ros.gateway.render import RENDER_BODY, RenderedText, Renderer
from qwen3vl_ros.gateway.request_errors import sentence
from qwen3vl_ros.gateway.settings import Access, Settings
from qwen3vl_ros.gateway.watches import serve_watches

PAGE: Final = Path(__file__).parent / "page"

_BLOCKING_THREADS = 4
"""Most threads that wait for frames and task lists at the same time; questions need none."""


def create_app(backend: Backend, settings: Settings, access: Access) -> FastAPI:
    """Return the ASGI application."""
    metrics, limits = Metrics(backend), Limits(settings)
    agents = McpEndpoint(backend, settings, metrics, limits)
    app = FastAPI(
        lifespan=agents.lifespan,
        title="qwen3vl_ros",
        description="Ask a robot's cameras questions: OpenAI's chat completions in front of the ROS 2 node vlm.",
        docs_url=None,
        redoc_url=None,
        middleware=[
            Middleware(TrustedProxies, proxies=settings.trusted_proxies),
            Middleware(logs.AccessLog, metrics=metrics),
            Middleware(Authentication, access=access),
            Middleware(BodyLimit, size=settings.max_request_bytes, seconds=settings.body_timeout),
            Middleware(logs.Defects, metrics=metrics),
            Middleware(Head),
        ],
    )
    _handle_errors(app, metrics)
    _serve_questions(app, Chat(backend, settings, metrics, limits), backend)
    _serve_health(app, backend, metrics)
    _serve_corrections(app, Corrections(backend, settings))
    serve_watches(app, backend.watches, settings)
    app.router.routes.append(agents.route)
    _serve_page(app, backend, settings, token_required=bool(access.token))
    describe(app, token_required=bool(access.token))
    return app


def _handle_errors(app: FastAPI, metrics: Metrics) -> None:
    @app.exception_handler(ApiError)
    async def on_error(request: Request, error: ApiError) -> Response:
        metrics.failed(error.code)
        if error.status >= 500:
            asked = request.method, logs.quoted(request.scope["path"], 200)
            logs.ERROR.error("%s %s: %s: %s", *asked, error.code, logs.quoted(error, 1000))
        return error.response()

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        response = await on_error(request, ApiError(error.status_code, code, f"{request.url.path}: {error.detail}"))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return await on_error(request, ApiError(400, "invalid_value", f"{name}: {sentence([first])}", param=name))


def _serve_questions(app: FastAPI, chat: Chat, backend: Backend) -> None:
    @app.post(
        "/v1/chat/completions",
        response_class=JSONResponse,
        openapi_extra={"requestBody": CHAT_BODY},
        responses={200: CHAT_ANSWER, **errors(400, 404, 408, 415, 429, 499, 500, 502, 503, 504)},
    )
    async def chat_completions(request: Request) -> Response:
        """Ask a question, as JSON (OpenAI's request) or as a form with `image` and `prompt`."""
        return await chat.answer(request)

    @app.get("/v1/models", responses=errors(), response_model=ModelList, response_model_exclude_none=True)
    @app.get("/v1/models/", include_in_schema=False)
    async def list_models() -> dict[str, Any]:
        """The model that answers."""
        return models.list_models(backend.status())

    @app.get("/v1/models/{model:path}", responses=errors(404), response_model=Model, response_model_exclude_none=True)
    async def get_model(model: str) -> dict[str, Any]:
        """One of them."""
        return models.find_model(model, backend.status())


def _serve_health(app: FastAPI, backend: Backend, metrics: Metrics) -> None:
    @app.get("/health", responses=errors())
    async def health() -> dict[str, str]:
        """Whether the gateway runs."""
        return {"status": "healthy"}

    @app.get("/ready", responses=errors(503))
    async def ready() -> dict[str, str]:
        """Whether a question would be answered now."""
        status = backend.status()
        if not status.answers:
            raise ApiError(503, "node_not_ready", why_not(status), retry_after=5)
        return {"status": "ready"}

    @app.get("/metrics", responses=errors(), response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Numbers for Prometheus."""
        return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")


def _serve_corrections(app: FastAPI, corrections: Corrections) -> None:
    @app.post(
        "/api/corrections", openapi_extra={"requestBody": CORRECTION_BODY}, responses=errors(400, 408, 415, 499, 503)
    )
    async def correct(request: Request) -> Corrected:
        """Write into the node's recording what would have been the right answer."""
        return await corrections.take(request)


def _serve_page(app: FastAPI, backend: Backend, settings: Settings, *, token_required: bool) -> None:
    renderer = Renderer(settings)
    blocking = anyio.CapacityLimiter(_BLOCKING_THREADS)

    @app.get("/api/status", responses=errors())
    async def status() -> StatusReport:
        """Node, engine, queue and cameras."""
        of_gateway = {"token_required": token_required, "max_video_bytes": settings.max_video_bytes}
        return status_report(backend.status(), backend.cameras(), **of_gateway)

    @app.get("/api/tasks", responses=errors(503))
    async def tasks() -> Sequence[Task]:
        """The ready-made tasks that a question may name."""
        try:
            return await anyio.to_thread.run_sync(backend.tasks, limiter=blocking)
        except Unavailable as error:
            raise ApiError(503, "node_not_ready", str(error), retry_after=5) from None

    @app.get("/api/catalogue", responses=errors())
    async def catalogue() -> FittedCatalogue:
        """The published models: what fits the gateway's machine, and how fast each would be, if that was measured."""
        machine = await anyio.to_thread.run_sync(this_machine, limiter=blocking)
        return fitted_catalogue(machine, await anyio.to_thread.run_sync(speed.load, machine, limiter=blocking))

    @app.get(
        "/api/cameras/{name}/frame.jpg",
        response_class=Response,
        responses={200: FRAME, **errors(400, 404, 503)},
    )
    async def frame(name: str, width: Annotated[int | None, Query(ge=16, le=8192)] = None) -> Response:
        """The newest frame of a camera, `width` pixels wide at most."""
        try:
            snapshot = await anyio.to_thread.run_sync(backend.snapshot, name, width, limiter=blocking)
        except UnknownCamera as error:
            raise ApiError(404, "camera_not_found", str(error)) from None
        except Unavailable as error:
            raise ApiError(503, "no_frame", str(error), retry_after=1) from None
        seconds, nanoseconds = snapshot.stamp
        headers = {
            "X-Frame-Stamp": f"{seconds}.{nanoseconds:09d}",
            "X-Frame-Age": f"{snapshot.age:.3f}",
            "X-Frame-Size": f"{snapshot.width}x{snapshot.height}",
            "Cache-Control": "no-store",
        }
        return Response(snapshot.jpeg, headers=headers, media_type="image/jpeg")

    @app.post("/api/render", openapi_extra={"requestBody": RENDER_BODY}, responses=errors(400, 408, 415, 499, 503))
    async def render(request: Request) -> RenderedText:
        """An answer's Markdown as HTML in which nothing can run."""
        return await renderer.render(request)

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=PAGE, check_dir=False))
