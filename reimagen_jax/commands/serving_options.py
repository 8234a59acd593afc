"""Where a page is served: options of the commands that have one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from annotated_types import Ge, Le

from reimagen_jax.checked import Options
from reimagen_jax.errors import UserError, require

if TYPE_CHECKING:
    from starlette.types import ASGIApp

Port = Annotated[int, Ge(0), Le(65535)]


@dataclass(frozen=True)
class ServingOptions(Options):
    """Where the page is."""

    common: ClassVar[tuple[str, ...]] = ("port", "open")

    port: Port | None = None
    """Of this machine (default: 8765 or, where that is taken, a free one)."""
    host: str = "127.0.0.1"
    """Where it is reached: as it is, from this machine alone. 0.0.0.0 is every address of the machine: the network then
    reads along, and whoever has the token gets in."""
    open: bool = False
    """Open it in the browser."""

    def serve(self, make: "Callable[[str], ASGIApp]") -> None:
        """Serves what `make` makes of a token, until Ctrl-C. The port is held first: raises `UserError` where it is
        taken."""
        from reimagen_jax.web import serving

        require(bool(self.host.strip()), "--host is empty: leave it out, or give an address of this machine")
        token = serving.new_token()
        listening = serving.listen(self.host, self.port)
        with listening:
            serving.serve(make(token), listening, self.host, token, open_page=self.open)


@contextmanager
def needs_web() -> Iterator[None]:
    """Says what is to be installed where something of the extra `web` is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UserError("the pages in the browser need more: pip install 'reimagen_jax[web]'") from error
