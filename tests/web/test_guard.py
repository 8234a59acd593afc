"""Who is let in: hosts, tokens, origins, sizes; and what every answer says to the browser."""

import http.client
import socket
from dataclasses import dataclass

import pytest
from starlette.responses import JSONResponse
from starlette.routing import Route

from reimagen_jax.checked import Checked
from reimagen_jax.errors import UserError
from reimagen_jax.web import serving
from reimagen_jax.web.answers import MAX_UPLOAD, body, page, picture
from reimagen_jax.web.guard import is_ours
from tests.samples import encoded
from tests.samples import picture as noise
from tests.web.serving import HOST, served


@dataclass(frozen=True)
class Told(Checked):
    text: str
    number: int = 0


async def index(request):
    return page("refused.html.j2", why="<script>alert(1)</script>")


async def echo(request):
    told = await body(request, Told)
    return JSONResponse({"text": told.text, "number": told.number})


async def shape(request):
    _, decoded = await picture(request)
    return JSONResponse(list(decoded.shape))


async def broken(request):
    raise RuntimeError("secret")


PNG = encoded(noise(0))
ROUTES = [
    Route("/", index),
    Route("/api/echo", echo, methods=["POST"]),
    Route("/api/pictures", shape, methods=["POST"]),
    Route("/api/broken", broken),
]


@pytest.fixture(scope="module")
def server():
    limits = {"/api/pictures": MAX_UPLOAD}
    with served(lambda token: serving.application(ROUTES, token=token, limits=limits)) as running:
        yield running


def test_the_address_with_the_token_gives_a_cookie_that_is_all_that_is_needed_later(server):
    status, headers, content = server.ask("GET", f"/?token={server.token}", headers={"Cookie": None, "Origin": None})
    assert status == 200
    cookie, *attributes = headers["Set-Cookie"].split("; ")
    assert set(attributes) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert b"&lt;script&gt;" in content
    assert server.ask("GET", "/", headers={"Cookie": cookie, "Origin": None})[0] == 200


@pytest.mark.parametrize("cookie", [None, "reimagen_1=x", "token=", "reimagen_{port}=é"])
@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=x", "/api/echo?token=%C3%A9"])
def test_without_the_token_nothing_is_told(server, cookie, path):
    told = None if cookie is None else cookie.format(port=server.port).encode("latin1").decode("latin1")
    status, headers, content = server.ask("GET", path, headers={"Cookie": told})
    assert status == 403
    assert "Set-Cookie" not in headers
    assert server.token.encode() not in content


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "localhost.evil.example", "a@localhost", ""])
def test_names_of_others_are_refused(server, host):
    assert server.ask("GET", "/", headers={"Host": host.format(port=server.port)})[0] in (400, 403)


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:9", "127.0.0.2", "[::1]:80"])
def test_names_of_this_machine_are_not(server, host):
    assert server.ask("GET", "/", headers={"Host": host.format(port=server.port)})[0] == 200


def test_all_addresses_are_reached_by_numbers_and_by_the_machines_name():
    assert is_ours("192.168.0.7:8765", "0.0.0.0")
    assert is_ours(f"{socket.gethostname()}:8765", "0.0.0.0")
    assert is_ours("studio.lan:1", "studio.lan")
    assert not is_ours("evil.example", "0.0.0.0")
    assert not is_ours("192.168.0.7:8765", "127.0.0.1")


@pytest.mark.parametrize(
    "origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "http://127.0.0.1", "http://[", "x"]
)
def test_what_changes_something_needs_the_pages_own_origin(server, origin):
    status, _, content = server.ask("POST", "/api/echo", {"text": "a"}, {"Origin": origin})
    assert status == 403
    assert b"Origin" in content
    assert server.json("POST", "/api/echo", {"text": "a"}) == {"text": "a", "number": 0}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (b"{", "not JSON"),
        (b"[" * 60000, "not JSON"),
        (b'{"text": "\\ud800"}', "half of a character"),
        ({"text": 1}, "text is 1: a text is needed"),
        ({"text": "a", "path": "/etc/passwd"}, "path"),
        ({"text": "a", "number": 1e400}, "number"),
        ([], "request"),
    ],
)
def test_what_is_wrong_is_one_line(server, told, said):
    status, headers, content = server.ask("POST", "/api/echo", told)
    assert status == 400
    assert headers["Content-Type"] == "application/json"
    assert said in content.decode()
    assert b"\\n" not in content


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(("path", "limit"), [("/api/echo", 2**16), ("/api/pictures", MAX_UPLOAD)])
def test_no_more_is_read_than_is_allowed(server, announced, path, limit):
    parts = [b"x" * 2**16] * (limit // 2**16) + [b"x"]
    headers = {"Origin": server.origin, "Cookie": f"reimagen_{server.port}={server.token}"}
    connection = http.client.HTTPConnection(HOST, server.port, timeout=60)
    if announced:
        connection.request("POST", path, b"", {**headers, "Content-Length": str(limit + 1)})
    else:
        connection.request("POST", path, iter(parts), headers, encode_chunked=True)
    answer = connection.getresponse()
    assert answer.status == 413
    assert b"MiB" in answer.read()
    connection.close()


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "empty"), (b"GIF89a" + bytes(20), "image"), (b"text", "not an image"), (PNG[:99], "broken")],
)
def test_what_is_no_picture_is_said(server, data, said):
    status, _, content = server.ask("POST", "/api/pictures", data)
    assert status == 400
    assert said in content.decode()


def test_pictures_are_decoded(server):
    assert server.json("POST", "/api/pictures", PNG)[2] == 3


def test_a_fault_says_nothing_of_itself(server, capfd):
    status, headers, content = server.ask("GET", "/api/broken")
    assert status == 500
    assert b"secret" not in content
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "RuntimeError: secret" in capfd.readouterr().err


@pytest.mark.parametrize("path", ["/", "/api/nothing", "/static/base.css", "/static/../serving.py", "/static/%2e%2e/x"])
def test_every_answer_forbids_scripts_of_others(server, path):
    status, headers, _ = server.ask("GET", path)
    assert status == (404 if path.startswith(("/api", "/static/.", "/static/%")) else 200)
    assert "script-src 'self';" in headers["Content-Security-Policy"]
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_scripts_are_scripts(server):
    assert server.ask("GET", "/static/base.js")[1]["Content-Type"].startswith("text/javascript")


def test_a_port_that_is_taken_is_said_and_without_one_another_is_found():
    with serving.listen(HOST, 0) as first:
        first.listen()
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port}: Address already in use"):
            serving.listen(HOST, port)
        serving.PORT, before = port, serving.PORT
        try:
            with serving.listen(HOST, None) as second:
                assert second.getsockname()[1] != port
        finally:
            serving.PORT = before
