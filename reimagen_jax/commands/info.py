"""`reimagen info`: what this machine has for the program, for one's own eyes and for reports of faults."""

import importlib.metadata
import os
import platform
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reimagen_jax import runtime
from reimagen_jax.checked import Options
from reimagen_jax.data.parallel import available_cores
from reimagen_jax.runtime import PACKAGE, version_of
from reimagen_jax.terminal import json_line, say

LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "tyro")
GIB, MIB = 1024.0**3, 1024.0**2


@dataclass(frozen=True)
class Info(Options):
    """Say what there is: versions, devices, memory, caches, and which extras are installed.

    For example:
        reimagen info
        reimagen info --json > info.json
    """

    json: bool = False
    """Print one JSON object, for programs."""

    def run(self) -> None:
        """Prints."""
        found = {
            "versions": versions(),
            "devices": devices(),
            "memory": memory(),
            "caches": caches(),
            "extras": extras(),
        }
        if self.json:
            print(json_line(found))
        else:
            say(*lines(found))


def lines(found: dict[str, Any]) -> list[str]:
    """What was found, as text."""
    rows = [("versions", ", ".join(f"{name} {version or '(missing)'}" for name, version in found["versions"].items()))]
    rows += [("device", _device(each)) for each in found["devices"]]
    if found["memory"]["total_GiB"] is not None:
        rows.append(("memory", "{total_GiB:.1f} GiB, of which {available_GiB:.1f} are free".format(**found["memory"])))
    rows.append(("processors", f"{found['memory']['processors']} for this process"))
    for cache in found["caches"]:
        size = f"{cache['files']} files, {cache['bytes'] / MIB:.0f} MiB" if cache["exists"] else "nothing yet"
        rows.append(("cache", f"{cache['folder'] or 'none'} ({size}): {cache['what']}"))
    for name, extra in found["extras"].items():
        rows.append(
            ("extra", f"{name}: " + (f"missing, pip install {extra['pip']}" if extra["missing"] else "installed"))
        )
    return [f"{head:<12}{text}" for head, text in rows]


def versions() -> dict[str, str | None]:
    """Ours, Python's, and those of the libraries that decide what is computed."""
    return runtime.versions(LIBRARIES) | {"system": platform.platform()}


def devices() -> list[dict[str, Any]]:
    """The devices that JAX computes on, or one that says why there is none."""
    import jax

    reason = runtime.no_device()
    if reason is not None:
        return [{"kind": None, "reason": reason}]
    stats = [(device, device.memory_stats() or {}) for device in jax.local_devices()]
    return [
        {
            "kind": device.device_kind,
            "platform": device.platform,
            "memory_GiB": limit / GIB if (limit := known.get("bytes_limit")) else None,
            "in_use_GiB": known["bytes_in_use"] / GIB if "bytes_in_use" in known else None,
        }
        for device, known in stats
    ]


def memory() -> dict[str, Any]:
    """Of the machine, where the system tells it."""
    size, pages = os.sysconf("SC_PAGE_SIZE"), {}
    for name, asked in (("total_GiB", "SC_PHYS_PAGES"), ("available_GiB", "SC_AVPHYS_PAGES")):
        pages[name] = os.sysconf(asked) * size / GIB if asked in os.sysconf_names else None
    return {**pages, "processors": available_cores()}


def caches() -> list[dict[str, Any]]:
    """Folders that fill by themselves, and may be removed: what is missing is made again."""
    compiled, numba = runtime.cache(), os.environ.get("NUMBA_CACHE_DIR")
    search = Path(__file__).parents[1] / "retrieval" / "__pycache__"
    data = os.environ.get("TFDS_DATA_DIR") or os.path.expanduser("~/tensorflow_datasets")
    return [
        _cache(compiled, "compiled programs, so that each compiles once (JAX_COMPILATION_CACHE_DIR)"),
        _cache(numba or str(search), "compiled search (NUMBA_CACHE_DIR)", "**/*" if numba else "*.nb[ci]"),
        _cache(data, "data sets that tfds:NAME has downloaded (TFDS_DATA_DIR)"),
    ]


def extras() -> dict[str, dict[str, Any]]:
    """Extra -> the packages of it that are not installed, and what installs them; none where we are not installed."""
    found = {}
    declared = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") if version_of(PACKAGE) else None
    for name in declared or []:
        asked = _required(PACKAGE, name)
        missing = [each for each in asked if not _installed(each)]
        found[name] = {"missing": missing, "pip": shlex.join(missing)}
    return found


def _required(package: str, extra: str) -> list[str]:
    """What a package asks for with an extra, as pip writes it: `faiss-cpu>=1.9`."""
    asked = (each.partition(";") for each in importlib.metadata.requires(package) or [])
    return [each.strip() for each, _, when in asked if re.search(rf"extra == ['\"]{re.escape(extra)}['\"]", when)]


def _installed(requirement: str) -> bool:
    """Whether a package is there, with what its extras ask for: `jax[cuda13]>=0.10`."""
    found = re.match(r"([\w.-]+)\s*(?:\[([\w,. -]+)\])?", requirement)
    if found is None or version_of(found[1]) is None:
        return False
    wanted = filter(None, map(str.strip, (found[2] or "").split(",")))
    return all(_installed(each) for extra in wanted for each in _required(found[1], extra))


def _device(device: dict[str, Any]) -> str:
    if device["kind"] is None:
        return f"none: {device['reason']}"
    memory = f", {device['memory_GiB']:.1f} GiB" if device["memory_GiB"] else ""
    return f"{device['kind']} ({device['platform']}{memory})"


def _cache(folder: str | None, what: str, pattern: str = "**/*") -> dict[str, Any]:
    files = [path.stat().st_size for path in Path(folder).glob(pattern) if path.is_file()] if folder else []
    exists = bool(files) or (folder is not None and Path(folder).is_dir())
    return {"folder": folder, "what": what, "exists": exists, "files": len(files), "bytes": sum(files)}
