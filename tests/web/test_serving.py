"""An application on a port: it says where, and ends on Ctrl-C, also while a page waits for events."""

import re
import signal
import subprocess
import sys
import textwrap
import urllib.request

import pytest

from reimagen_jax.cli import main

PROGRAM = """
    import asyncio, sys
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route
    from reimagen_jax.commands.serving_options import ServingOptions
    from reimagen_jax.web import serving
    from reimagen_jax.web.answers import events

    async def forever():
        yield {"n": 1}
        await asyncio.sleep(600)

    async def listen(request):
        return events(forever())

    async def index(request):
        return PlainTextResponse("here")

    routes = [Route("/", index), Route("/api/events", listen)]
    host = sys.argv[1]
    ServingOptions(port=0, host=host).serve(lambda token: serving.application(routes, token=token, host=host))
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_ctrl_c_ends_it_though_a_page_listens(host):
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), host]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        port = re.fullmatch(r"http://.+:(\d+)/\?token=[\w-]{20,}", address)[1]
        token = address.rpartition("=")[2]
        here = f"http://127.0.0.1:{port}"
        assert urllib.request.urlopen(f"{here}/?token={token}", timeout=60).read() == b"here"
        asked = urllib.request.Request(f"{here}/api/events", headers={"Cookie": f"reimagen_{port}={token}"})
        with urllib.request.urlopen(asked, timeout=60) as listening:
            assert listening.readline() == b'data: {"n": 1}\n'
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
    assert out.splitlines()[-1] == "ended"
    assert ("warning: 0.0.0.0 is reached from other machines" in error) == (host == "0.0.0.0")
    assert "Traceback" not in error
    assert process.returncode == 0


def test_without_the_extra_it_says_what_is_to_be_installed(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "starlette", None)
    for name in [name for name in sys.modules if name.startswith(("reimagen_jax.web", "starlette."))]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["studio"]) == 2
    assert "pip install 'reimagen_jax[web]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--port", "99999"], "--port 99999"),
        (["--host", " "], "--host is empty"),
        (["--model", "a=nowhere"], "nowhere not found"),
        (["--model", "a="], "[LABEL=]DIR is expected"),
        (["--model", "shipped", "--model", "shipped"], "there is a shipped already"),
        (["--knowledge-base", "nowhere"], "nowhere"),
    ],
)
def test_bad_options_are_one_line(capsys, tmp_path, monkeypatch, args, said):
    monkeypatch.chdir(tmp_path)
    assert main(["studio", *args]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
