"""What the studio needs: tiny weights, a stage that enlarges what they draw, a tiny unCLIP, a small EntityWorld."""

from collections.abc import Iterator

import pytest

from reimagen_jax.commands.studio import Studio as Command
from reimagen_jax.commands.studio import command_of
from reimagen_jax.inference.export import save_weights
from reimagen_jax.retrieval.knowledge_base import KnowledgeBase
from reimagen_jax.web.studio import routes
from reimagen_jax.web.studio.studio import Studio
from tests.commands.conftest import model, stages, world  # noqa: F401 (fixtures)
from tests.systems.test_unclip import random_params
from tests.unclip import DECODER, PRIOR
from tests.web.serving import Served, served


@pytest.fixture(scope="session")
def unclip(tmp_path_factory):
    """A folder with weights of a `prior` and a `decoder`."""
    folder = tmp_path_factory.mktemp("unclip")
    for name, config in (("prior", PRIOR), ("decoder", DECODER)):
        save_weights(folder / name, config, random_params(config))
    return folder


@pytest.fixture(scope="session")
def studio(model, stages, unclip, world) -> Studio:  # noqa: F811
    """Four systems: the tiny model, a cascade, a decoder of unCLIP, and behind its prior."""
    prior, decoder = unclip / "prior", unclip / "decoder"
    systems = (f"tiny={model}", f"large={model}+{stages[0]}", f"decoder={decoder}", f"dalle2={prior}+{decoder}")
    command = Command(model=systems)
    offered = [command._opened(label, paths) for label, paths in command._labelled().items()]
    base = KnowledgeBase.open(world / "index")
    return Studio(offered, base, lambda line: command_of(line, base))


@pytest.fixture(scope="session")
def page(studio) -> Iterator[Served]:
    """The studio, served."""
    with served(lambda token: routes.application(studio, token=token)) as running:
        yield running
