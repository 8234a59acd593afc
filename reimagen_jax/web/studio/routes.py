"""The studio's addresses."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from reimagen_jax.errors import require
from reimagen_jax.inference.origin import encoded
from reimagen_jax.web import serving
from reimagen_jax.web.answers import MAX_UPLOAD, body, events, page, picture
from reimagen_jax.web.studio.asked import Drawn, Search, Warm
from reimagen_jax.web.studio.studio import Studio


def application(studio: Studio, *, token: str, host: str = "127.0.0.1") -> ASGIApp:
    """The studio, to be served; what runs is ended when that ends."""

    async def index(request: Request) -> Response:
        return page("studio.html.j2", base=studio.base, models=list(studio.offered.values()))

    async def state(request: Request) -> Response:
        return JSONResponse(studio.told())

    async def search(request: Request) -> Response:
        asked = await body(request, Search)
        return JSONResponse(await run_in_threadpool(studio.search, asked))

    async def draw(request: Request) -> Response:
        asked = await body(request, Drawn)
        job = await run_in_threadpool(studio.draw, asked)
        return JSONResponse(job.told(), 202)

    async def warm(request: Request) -> Response:
        asked = await body(request, Warm)
        job = await run_in_threadpool(studio.warm, asked)
        return JSONResponse({"job": None if job is None else job.told()})

    async def cancel(request: Request) -> Response:
        studio.device.cancel(request.path_params["number"])
        return JSONResponse({})

    async def reproduce(request: Request) -> Response:
        return JSONResponse(studio.reproduce(request.path_params["number"]).told(), 202)

    async def image(request: Request) -> Response:
        drawing, n = studio.drawing(request.path_params["number"]), request.path_params["n"]
        require(n < len(drawing.requests), "there is no such image")
        _, data = encoded(drawing.image_NHWC[n], drawing.origins[n])
        return _file(data, "image/png", f"{drawing.name(n)}.png", request)

    async def origin(request: Request) -> Response:
        drawing, n = studio.drawing(request.path_params["number"]), request.path_params["n"]
        require(n < len(drawing.requests), "there is no such image")
        text = json.dumps(asdict(drawing.origins[n]), ensure_ascii=False, allow_nan=False)
        return _file(text.encode() + b"\n", "application/json", f"{drawing.name(n)}.json", request)

    async def file(request: Request) -> Response:
        files, name = studio.drawing(request.path_params["number"]).files, request.path_params["name"]
        require(name in files, "there is no such file")
        return _file(files[name], "application/octet-stream", name, request, saved=True)

    async def send(request: Request) -> Response:
        data, square = await picture(request)
        return JSONResponse(studio.pictures.take(data, square, unquote(request.query_params.get("name", ""))))

    async def sent(request: Request) -> Response:
        data = await run_in_threadpool(studio.pictures.shown, request.path_params["key"])
        return Response(data, media_type="image/png")

    async def record(request: Request) -> Response:
        data = await run_in_threadpool(studio.finder.shown, request.path_params["n"])
        return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})

    async def happens(request: Request) -> Response:
        return events(studio.device.events())

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            studio.close()

    routes = [
        Route("/", index),
        Route("/api/state", state),
        Route("/api/events", happens),
        Route("/api/search", search, methods=["POST"]),
        Route("/api/drawings", draw, methods=["POST"]),
        Route("/api/warm", warm, methods=["POST"]),
        Route("/api/jobs/{number:int}", cancel, methods=["DELETE"]),
        Route("/api/drawings/{number:int}/reproduce", reproduce, methods=["POST"]),
        Route("/api/drawings/{number:int}/{n:int}.png", image),
        Route("/api/drawings/{number:int}/{n:int}.json", origin),
        Route("/api/drawings/{number:int}/files/{name}", file),
        Route("/api/pictures", send, methods=["POST"]),
        Route("/api/pictures/{key}", sent),
        Route("/api/records/{n:int}", record),
    ]
    limits = {"/api/pictures": MAX_UPLOAD}
    return serving.application(routes, token=token, host=host, limits=limits, lifespan=lifespan)


def _file(data: bytes, kind: str, name: str, request: Request, *, saved: bool = False) -> Response:
    """A file, shown or (`?save`) saved under its name, which is plain (`Drawing.name`, `Pictures.take`)."""
    saved = saved or "save" in request.query_params
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    headers = {"Content-Disposition": f'attachment; filename="{plain}"'} if saved else {}
    return Response(data, media_type=kind, headers=headers)
