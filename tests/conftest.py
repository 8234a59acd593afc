"""Strict defaults for every test: eight virtual CPU devices, no silent promotion, a compilation cache."""

import gc
import os
import tempfile

from tests.compiling import FLAGS, ShapesKnown

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # here, and in the processes that tests start
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS} --xla_force_host_platform_device_count=8"

import flax.core.scope
import jax
import pytest
from jaxtyping import install_import_hook

# Shapes and dtypes written in the signatures are checked at every call. Not in systems/base.py and kinds.py: what they
# name are protocols, which nothing is an instance of.
SYSTEMS = ("reimagen", "dual", "rater", "seedselect", "unclip", "moco", "rcg", "mage")
CHECKED = ("nets", "diffusion", "encoders", *(f"systems.{name}" for name in SYSTEMS))
install_import_hook([f"reimagen_jax.{name}" for name in CHECKED], "beartype.beartype")

flax.core.scope.jax = ShapesKnown(jax)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "reimagen_jax_test_cache"))
jax.config.update("jax_compilation_cache_dir", cache)

LONGEST = ("dalle2", "experiments", "buckets", "tours", "distillation", "jobs", "mage", "train", "distill")
LONGEST += ("rater_system", "entityworld", "sweep", "sample", "rcg", "reimagen", "seedselect", "searching")
"""Files of tests that take longest."""


def pytest_configure(config):
    """pytest-xdist would begin with the files of most tests, and end with one process at work on a long file of few."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The longest files come first: processes that share the files end together."""
    first = {f"test_{name}.py" for name in LONGEST}
    items.sort(key=lambda item: item.path.name not in first)


programs = []
"""Compiled, or read from the cache, since the last were forgotten."""
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: programs.append(event) if event.endswith("backend_compile_duration") else None
)


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Programs of files that are done leave the memory once they are many: each takes 1.5 MB, be it of one addition."""
    yield
    if len(programs) > 700:
        programs.clear()
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def programs_as_they_are(request):
    """What is compiled while a test has something replaced is not what others share, nor the other way round."""
    from reimagen_jax.inference import pipeline  # after the hook, which checks what it imports

    replaced = "monkeypatch" in request.fixturenames
    if replaced:
        pipeline.forget()
    yield
    if replaced:
        pipeline.forget()


@pytest.fixture
def key():
    """A typed key, the same in every test."""
    return jax.random.key(0)
