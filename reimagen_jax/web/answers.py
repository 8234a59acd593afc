"""What a page answers: HTML from templates, JSON, events as they happen; and what is wrong, in one line."""

import json
import mimetypes
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from reimagen_jax.checked import parse
from reimagen_jax.data import images
from reimagen_jax.errors import UserError, require

T = TypeVar("T")
API = "/api/"
MAX_UPLOAD = 2**25
"""Bytes of a picture that is sent here."""
FOLDER = Path(__file__).parent

# Some systems call it something else, and a browser that may not guess runs no script then.
mimetypes.add_type("text/javascript", ".js")


@cache
def environment() -> jinja2.Environment:
    """All that a template shows is escaped, and all that it names is given."""
    loader = jinja2.FileSystemLoader(FOLDER / "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)


def page(template: str, status: int = 200, **shown: Any) -> HTMLResponse:
    """A page, of a template in `templates`."""
    return HTMLResponse(environment().get_template(template).render(**shown), status)


def refusal(request: Request, why: str, status: int = 400) -> Response:
    """One line that says what is wrong: as JSON for scripts, as a page for people."""
    why = " ".join(why.split())
    if request.url.path.startswith(API) or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": why}, status)
    return page("refused.html.j2", status, why=why)


async def body(request: Request, kind: type[T]) -> T:
    """The JSON of a request as a value of the type `kind`, which is `Checked` all the way down. Raises `UserError`."""
    try:
        told = json.loads(await request.body())
        json.dumps(told, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError("what was sent is not valid text (half of a character)") from None
    except (ValueError, RecursionError):
        raise UserError("what was sent is not JSON") from None
    except ClientDisconnect:
        raise UserError("the browser went away") from None
    try:
        return parse(kind, told, "request")
    except UserError as error:
        raise UserError(str(error).removeprefix("request.").removeprefix("request: ")) from None


async def picture(request: Request, side: int | None = None) -> tuple[bytes, Any]:
    """The picture that is the request's body, as it came and decoded: uint8 [R, R, 3], the central square.

    It is resized to `side`, or stays in its own size where that is None. Limits are those of `data.images`, and
    `MAX_UPLOAD` where the guard has it. Raises `UserError`, also for what is no picture.
    """
    data = await request.body()
    require(len(data) > 0, "the picture is empty")
    return data, await run_in_threadpool(images.decode, data, side)


def events(source: AsyncIterator[Any]) -> StreamingResponse:
    """What happens, as it happens (server-sent events): each is JSON."""

    async def lines() -> AsyncIterator[str]:
        async for event in source:
            yield f"data: {json.dumps(event, allow_nan=False)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
