"""The process around a command: what has to be set before JAX starts, its output streams, whether it has a device."""

import importlib.metadata
import io
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from functools import cache as once

from reimagen_jax import __version__

PACKAGE = "reimagen_jax"

KEEP = {
    "M_MMAP_MAX": (-4, 0),  # large blocks out of the heap, too, not each out of pages that are fresh, to be zeroed
    "M_ARENA_MAX": (-8, 1),  # one heap: the others, those of JAX's threads, cannot hold a program's memory
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),  # the heap shrinks where this much is free at its end
}
"""mallopt(3)'s numbers of what it sets, and what each is set to."""
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")
"""Where NVIDIA's and AMD's GPUs and Google's TPUs are seen: what a program computes on lies in theirs, not here."""


def configure(keep: bool = True) -> None:
    """Prepares the process for a command: call it before `jax` is first imported.

    On CPUs, JAX before 0.11 runs large convolutions on one thread unless a flag is set. Compiled programs are kept in
    `JAX_COMPILATION_CACHE_DIR` (default: `~/.cache/reimagen_jax`, where there is a home), so that a program compiles
    once per machine. With `keep`, a machine without an accelerator keeps memory that is free (`keep_memory`). Whatever
    the user has set in the environment stays. What a terminal cannot show is written as `\\xe9`: no work is lost over
    a message.
    """
    if keep and not any(map(os.path.exists, ACCELERATORS)):
        keep_memory()
    version = tuple(int(part) for part in importlib.metadata.version("jax").split(".")[:2])
    flag = "--xla_cpu_experimental_ynn_fusion_type"
    flags = os.environ.get("XLA_FLAGS", "")
    if version < (0, 11) and flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION".strip()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if os.path.isabs(cache):  # "~" stays where no home can be told, as of a user who is not in the password file
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "reimagen_jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    # What a picture's metadata lacks concerns nobody; what its pixels lack is said and counted.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where a test or a notebook has put something of its own
            stream.reconfigure(errors="backslashreplace")


def version_of(library: str) -> str | None:
    """The version that is installed; None where there is none."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(libraries: Sequence[str]) -> dict[str, str | None]:
    """Ours, those of libraries, and Python's."""
    installed = {name: version_of(name) for name in libraries}
    return {PACKAGE: __version__, **installed, "Python": platform.python_version()}


@once
def commit() -> str | None:
    """The commit of the git checkout that the package runs out of, `-dirty` behind it where something that git knows is
    changed; None where it is installed, or git is not."""
    import subprocess  # not at the top: help does without

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", os.path.dirname(__file__), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", os.path.basename(__file__))  # an environment within a checkout is not of it
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        return None


def keep_memory() -> bool:
    """Has glibc keep freed memory, up to 2 GiB of it, for the next block; returns whether it does.

    On CPUs, JAX allocates all that a program computes on at each of its calls, in one block: 0.4 GiB for a step of 19M
    parameters. As a block of its own it comes from the system zeroed, page by page as it is touched, which takes a
    fifth of the step, and goes back at its end. Nothing is done where the user has set glibc's allocator in the
    environment, or where there is another C library.
    """
    import ctypes  # not at the top: help does without

    told = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    told = told or any(name.startswith("MALLOC_") for name in os.environ)
    if told or not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and all(mallopt(number, value) for number, value in KEEP.values())


def cache() -> str | None:
    """The folder of compiled programs; None where none are kept."""
    if "jax" in sys.modules:
        import jax

        return jax.config.jax_compilation_cache_dir or None
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or None


def no_device() -> str | None:
    """Why JAX, if it was imported, has no device to compute on; None if it has one, or was not asked for one."""
    if "jax" not in sys.modules:
        return None
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter without a word, where a plugin finds no hardware
        wanted = os.environ.get("JAX_PLATFORMS") or jax.config.jax_platforms
        reason = str(error).partition(" (set JAX_PLATFORMS")[0] or "there is none"
        return f"JAX finds no device for JAX_PLATFORMS={wanted} ({reason}): unset it, or set it to cpu"
    return None
