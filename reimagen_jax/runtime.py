"""What has to be set before JAX starts, and the compilation cache."""

import importlib.metadata
import os
from pathlib import Path


def configure() -> None:
    """Prepares the process for a command: call it before `jax` is first imported.

    On CPUs, JAX before 0.11 runs large convolutions on one thread unless a flag is set. Compiled programs are kept in
    `JAX_COMPILATION_CACHE_DIR` (default: `~/.cache/reimagen_jax`), so that a program compiles once per machine.
    Whatever the user has set in the environment stays.
    """
    version = tuple(int(part) for part in importlib.metadata.version("jax").split(".")[:2])
    flag = "--xla_cpu_experimental_ynn_fusion_type"
    flags = os.environ.get("XLA_FLAGS", "")
    if version < (0, 11) and flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION".strip()
    cache = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "reimagen_jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
