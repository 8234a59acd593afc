"""Who is let in: by its Host, its token, its Origin, and the size of what it sends.

A page on this machine can be reached by any program and, through the browser, by any site that is open in it. So:
  - The Host must be a name of this machine, or the one that was asked for: names of others that lead here (DNS
    rebinding) are refused.
  - The first visit has a random token in its address; what follows has it in a cookie that no script reads and no other
    site sends (HttpOnly, SameSite=Strict). A file of the package (`STATIC`) is no secret.
  - What changes something has an Origin, which must be the page's own.
  - No body is read beyond its limit, whatever its Content-Length says.
  - Pages run no script and load nothing but the package's own (Content-Security-Policy).
"""

import hmac
import ipaddress
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reimagen_jax.web.answers import refusal

STATIC = "/static/"
MAX_BODY = 2**16
"""Bytes that a request has at most, but for those with a limit of their own."""
SAFE = ("GET", "HEAD")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Lets requests through to an application, or answers with one line that says why not."""

    def __init__(self, app: ASGIApp, token: str, host: str, limits: Mapping[str, int]) -> None:
        """`host` is where the page is served, `limits` are bytes of a body by how its path begins."""
        self.app, self.token, self.host, self.limits = app, token, host, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, cookie = Request(scope), f"reimagen_{scope['server'][1]}"
        typed = self._is_token(request.query_params.get("token", ""))
        static = request.url.path.startswith(STATIC) and request.method in SAFE

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-cache" if static else "no-store")
                if typed:
                    headers.append("Set-Cookie", f"{cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        known = typed or static or self._is_token(request.cookies.get(cookie, ""))
        if why := self._why_not(request, known):
            await refusal(request, why, 403)(scope, receive, answer)
        elif (limit := self._limit(request.url.path)) < self._announced(request):
            await refusal(request, _too_large(limit), 413)(scope, receive, answer)
        else:
            await self.app(scope, _limited(receive, limit), answer)

    def _is_token(self, word: str) -> bool:
        return hmac.compare_digest(word.encode(), self.token.encode())

    def _why_not(self, request: Request, known: bool) -> str:
        """Why a request is refused; empty where it is not."""
        host = request.headers.get("host", "")
        if not is_ours(host, self.host):
            return f"this page is not served as {host[:100]!r}: open the address that the command printed"
        if not known:
            return "this page is opened by the address that the command printed, with the token in it"
        if request.method not in SAFE and request.headers.get("origin") not in (f"http://{host}", f"https://{host}"):
            return "what changes something here comes from this page alone: its Origin is another"
        return ""

    def _limit(self, path: str) -> int:
        return next((limit for start, limit in self.limits.items() if path.startswith(start)), MAX_BODY)

    def _announced(self, request: Request) -> int:
        """Bytes, as the request says; what is no number is refused by the server itself."""
        said = request.headers.get("content-length", "")
        return int(said) if said.isdecimal() else 0


def is_ours(host: str, served: str) -> bool:
    """Whether a Host header names this machine: loopback, or the host that was asked for. Where that is every address
    of the machine, any number is, and the machine's own name."""
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname or ""
    except ValueError:
        return False
    if parts.netloc != host or "@" in host:
        return False
    if name in ("localhost", served) or _is_loopback(name):
        return True
    if served not in ("0.0.0.0", "::"):
        return False
    return _address(name) is not None or name in (socket.gethostname().lower(), socket.getfqdn().lower())


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def loopback(host: str) -> bool:
    """Whether what is served at a host is reached from this machine alone."""
    return host == "localhost" or _is_loopback(host)


def _too_large(limit: int) -> str:
    return f"that is more than {limit / 2**20:.3g} MiB, which is what is taken here at most"


def _limited(receive: Receive, limit: int) -> Receive:
    taken = 0

    async def receive_some() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return receive_some
