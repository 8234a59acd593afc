"""How the tests compile: their programs are tiny and run a few times, so that compiling is what a test costs."""

import importlib.metadata
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

VERSION = tuple(int(part) for part in importlib.metadata.version("jaxlib").split(".")[:2])
FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1" if VERSION < (0, 11) else ""
"""Of XLA (`XLA_FLAGS`; it ends a process over one that it does not know): the older emitters compile twice as fast."""


class ShapesKnown:
    """`jax` as Flax's scopes see it, who ask each parameter's initialiser, at every call of a network, for the shape of
    what it would make: a fifth of the time that tests trace for. Here each is asked once for the same."""

    def __init__(self, jax: ModuleType) -> None:
        self._jax = jax
        self._known = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._jax, name)

    def eval_shape(self, fun: Callable[..., Any], *args: Any) -> Any:
        """`jax.eval_shape`; of an initialiser remembered, whose shape depends on what it is told alone."""
        told = inspect.getclosurevars(fun).nonlocals
        if args or "init_fn" not in told:
            return self._jax.eval_shape(fun, *args)
        key = told["init_fn"], told["init_args"], tuple(told["init_kwargs"].items())
        try:
            known = key in self._known
        except TypeError:  # told what cannot be hashed
            return self._jax.eval_shape(fun)
        if not known:
            self._known[key] = self._jax.eval_shape(fun)
        return self._known[key]
