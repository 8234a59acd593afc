"""An application served for a test, on a port of its own; and what another program, not a browser, says to it."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp

from reimagen_jax.web import serving

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Served:
    port: int
    token: str

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def address(self) -> str:
        return f"{self.origin}/?token={self.token}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str | None] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and content of the answer. With cookie and Origin, but where `headers` say otherwise."""
        told = {"Cookie": f"reimagen_{self.port}={self.token}", "Origin": self.origin, **(headers or {})}
        told = {name: value for name, value in told.items() if value is not None}
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, told)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None, **how: Any) -> Any:
        """What is answered, in JSON."""
        return json.loads(self.ask(method, path, body, **how)[2])


@contextmanager
def served(make: Callable[[str], ASGIApp]) -> Iterator[Served]:
    """Serves what `make` makes of a token."""
    token = serving.new_token()
    with serving.listen(HOST, 0) as listening:
        server = serving.server(make(token))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield Served(listening.getsockname()[1], token)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
