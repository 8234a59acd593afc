"""What the studio needs: tiny weights, a stage that enlarges what they draw, a small EntityWorld."""

from collections.abc import Iterator

import pytest

from reimagen_jax.commands.studio import Studio as Command
from reimagen_jax.commands.studio import command_of
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.web.studio import routes
from reimagen_jax.web.studio.studio import Studio
from tests.commands.conftest import model, stages, world  # noqa: F401 (fixtures)
from tests.web.serving import Served, served


@pytest.fixture(scope="session")
def studio(model, stages, world) -> Studio:  # noqa: F811
    """Two systems: the tiny model, and a cascade."""
    command = Command(model=(f"tiny={model}", f"large={model}+{stages[0]}"))
    offered = [command._opened(label, paths) for label, paths in command._labelled().items()]
    base = KnowledgeBase.open(world / "index")
    return Studio(offered, base, lambda line: command_of(line, base))


@pytest.fixture(scope="session")
def page(studio) -> Iterator[Served]:
    """The studio, served."""
    with served(lambda token: routes.application(studio, token=token)) as running:
        yield running
