"""An application on a port of this machine, until Ctrl-C."""

import errno
import secrets
import socket
import sys
import traceback
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from threading import Timer

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from reimagen_jax.errors import UserError
from reimagen_jax.terminal import say
from reimagen_jax.web.answers import FOLDER, refusal
from reimagen_jax.web.guard import STATIC, Guard, loopback

PORT = 8765
"""Where a page is served, if that is free."""
CLOSING = 1
"""Seconds that open connections have to end after Ctrl-C: a page that waits for events has one for ever."""

Lifespan = Callable[[Starlette], AbstractAsyncContextManager[None]]


def application(
    routes: Sequence[BaseRoute],
    *,
    token: str,
    host: str = "127.0.0.1",
    limits: Mapping[str, int] | None = None,
    lifespan: Lifespan | None = None,
) -> ASGIApp:
    """The routes behind the guard, with the package's files, and one line for whatever is wrong.

    `limits` are bytes of a request's body, by how its path begins.
    """
    inside = Starlette(
        routes=[*routes, Mount(STATIC, StaticFiles(directory=FOLDER / "static"))],
        exception_handlers={UserError: _mendable, HTTPException: _refused, Exception: _fault},
        lifespan=lifespan,
    )
    return Guard(inside, token, host, limits or {})  # around all of it: answers to faults have its headers, too


def new_token() -> str:
    """Not to be guessed."""
    return secrets.token_urlsafe(24)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket at a port; without one, at `PORT` or where that is taken at a free one. Raises `UserError`."""
    for number in (PORT, 0) if port is None else (port,):
        try:
            family, *_, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=family)
        except OSError as error:
            if port is None and number and error.errno == errno.EADDRINUSE:
                continue
            raise UserError(f"nothing can be served at {host}, port {number}: {error.strerror}") from error
    raise AssertionError("port 0 is any that is free")


def serve(app: ASGIApp, listening: socket.socket, host: str, token: str, *, open_page: bool = False) -> None:
    """Serves until Ctrl-C; prints the address first, and opens it in the browser where asked to."""
    address = address_of(listening, host, token)
    if not loopback(host):
        say(f"warning: {host} is reached from other machines, and nothing is encrypted on the way", error=True)
    say(address, "Ctrl-C ends it")
    if open_page:
        Timer(0.5, lambda: webbrowser.open(address)).start()
    with suppress(KeyboardInterrupt):  # uvicorn passes on what it was ended by
        server(app).run(sockets=[listening])
    say("ended")


def server(app: ASGIApp) -> uvicorn.Server:
    """Runs the application; says nothing of its own."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=CLOSING,
    )
    return uvicorn.Server(config)


def address_of(listening: socket.socket, host: str, token: str) -> str:
    """What is opened in a browser."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{listening.getsockname()[1]}/?token={token}"


async def _mendable(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    return refusal(request, error.wrong, 400)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {404: "there is nothing of that name here", 405: "that cannot be done here"}
    return refusal(request, said.get(error.status_code, error.detail), error.status_code)


async def _fault(request: Request, error: Exception) -> Response:
    traceback.print_exception(error, file=sys.stderr)
    return refusal(request, "a fault of this program: the terminal that it was started in says more", 500)
