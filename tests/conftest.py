"""Strict defaults for every test: eight virtual CPU devices, no silent promotion, a compilation cache."""

import os
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # of tiny programs, compiling is the cost: a third less
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest
from jaxtyping import install_import_hook

# Shapes and dtypes written in the signatures are checked at every call. Not in systems/base.py and kinds.py: what they
# name are protocols, which nothing is an instance of.
SYSTEMS = ("reimagen", "dual", "rater", "seedselect", "unclip")
CHECKED = ("nets", "diffusion", "encoders", *(f"systems.{name}" for name in SYSTEMS))
install_import_hook([f"reimagen_jax.{name}" for name in CHECKED], "beartype.beartype")

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), "reimagen_jax_test_cache"))
jax.config.update("jax_compilation_cache_dir", cache)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture
def key():
    """A typed key, the same in every test."""
    return jax.random.key(0)
